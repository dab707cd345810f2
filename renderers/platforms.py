"""What is different from one serving platform to the next, outside of the templates of their services.

A platform is an entry here, a template `<name>.yaml`, and what the gate knows of it by itself (`expectations`):
docs/platforms.md adds one step by step. What a platform cannot do is refused with its reason when a composition is
read, because a setting that is silently left out would be found out in production.
"""

from dataclasses import dataclass
from typing import Final, Literal

Name = Literal["tensorflow", "triton", "openvino"]
"""What KServe calls a serving runtime."""


@dataclass(frozen=True, slots=True)
class Platform:
    """One kind of serving engine."""

    grpc_port: int
    """Where it answers inside the bundle's network."""
    loads_numbers: bool
    """It serves `<id>/<number>/`, so that an artifact is one version; else an artifact is a model's whole folder."""
    no_batching: str = ""
    """Why a composition cannot switch batching on; empty where it can."""
    no_gpu: str = ""
    """Why a composition cannot ask for GPUs; empty where it can."""


PLATFORMS: Final[dict[Name, Platform]] = {
    "tensorflow": Platform(grpc_port=8500, loads_numbers=True),
    "triton": Platform(
        grpc_port=8001, loads_numbers=False, no_batching="batching belongs into the model's config.pbtxt"
    ),
    "openvino": Platform(
        grpc_port=9000,
        loads_numbers=True,
        no_batching="OpenVINO Model Server has no batching parameters; the batch size belongs into the model",
        no_gpu="a bundle gives NVIDIA GPUs, and OpenVINO Model Server runs on the GPUs of Intel",
    ),
}

"""The differences between serving platforms, apart from the templates of their services.

A platform consists of an entry here, a template `<name>.yaml`, and its rules in the gate
(`expectations`); docs/platforms.md describes how to add one. A composition that asks a platform for
something unsupported is refused with the reason. If the setting were ignored instead, that would be
noticed only in production.
"""

from dataclasses import dataclass
from typing import Final, Literal

Name = Literal["tensorflow", "triton", "openvino"]
"""The name of an engine (KServe: a serving runtime) in an event."""


@dataclass(frozen=True, slots=True)
class Platform:
    """One kind of serving engine."""

    grpc_port: int
    """Its gRPC port inside the bundle's network.

    It is never the router's port. A gRPC channel stays connected to an address, and Docker may give
    the address of a router to the next container: a channel to an engine there would be misrouted.
    """
    loads_numbers: bool
    """True: it serves `<id>/<number>/`, and an artifact is one version.

    False: an artifact is the whole folder of a model.
    """
    no_batching: str = ""
    """Why a composition cannot enable batching; empty if it can."""
    no_gpu: str = ""
    """Why a composition cannot request GPUs; empty if it can."""


PLATFORMS: Final[dict[Name, Platform]] = {
    "tensorflow": Platform(grpc_port=9000, loads_numbers=True),
    "triton": Platform(
        grpc_port=8001,
        loads_numbers=False,
        no_batching="batching belongs in the model's config.pbtxt",
    ),
    "openvino": Platform(
        grpc_port=9000,
        loads_numbers=True,
        no_batching="OpenVINO Model Server has no batching parameters; the batch size belongs "
        "in the model",
        no_gpu="a bundle gives NVIDIA GPUs, and OpenVINO Model Server runs on the GPUs of Intel",
    ),
}

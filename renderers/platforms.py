"""The differences between serving platforms, apart from the templates of their services.

A platform consists of an entry here, a template `<name>.yaml`, and its rules in the gate
(`expectations`); docs/platforms.md describes how to add one. A composition that asks a platform for
something unsupported is refused with the reason. If the setting were ignored instead, that would be
noticed only in production.
"""

from collections.abc import Mapping
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
    flags: Mapping[str, str]
    """Flags that no composition may set in `arguments`, with what to do instead.

    The bundle writes them, or the rest of the bundle relies on their defaults. `-` is written `_`.
    """
    options: frozenset[str]
    """Flags that are options in the template: a composition may set them."""
    abbreviates: bool = False
    """Whether the engine takes the beginning of a flag's name for the flag."""
    no_batching: str = ""
    """Why a composition cannot enable batching; empty if it can."""
    no_gpu: str = ""
    """Why a composition cannot request GPUs; empty if it can."""
    no_memory_fraction: str = ""
    """Why a composition cannot give a model a share of a GPU's memory; empty if it can."""
    no_repository: str = ""
    """Why an artifact cannot be a repository of several models; empty if it can."""


_NAME: Final = "serving.engine_name is the name of a model in its engine"
_FOLDER: Final = "the bundle mounts the model and names its folder"
_PORT: Final = "the router and the health check rely on the ports and their addresses"
_PLAIN: Final = "the router and the health check use no encryption and no authorisation"
_POLLING: Final = "serving.update says how a service gets a new version"
_ONE_MODEL: Final = "the bundle names the one model of a service"
_NO_REPOSITORY: Final = "only Triton loads several models of one repository"
BATCHING_FLAGS: Final = frozenset({"enable_batching", "batching_parameters_file"})
"""Flags that a composition may set only if it says nothing of batching."""

PLATFORMS: Final[dict[Name, Platform]] = {
    "tensorflow": Platform(
        grpc_port=9000,
        loads_numbers=True,
        flags={
            "model_name": _NAME,
            "model_base_path": _FOLDER,
            "model_config_file": _ONE_MODEL,
            "port": _PORT,
            "rest_api_port": _PORT,
            "ssl_config_file": _PLAIN,
            "file_system_poll_wait_seconds": _POLLING,
            "enable_model_warmup": "the bundle sets it",
            "max_num_load_retries": "the bundle sets it",
            "per_process_gpu_memory_fraction": "serving.gpu.memory_fraction is the share of a "
            "GPU's memory",
        },
        options=frozenset(
            {
                *BATCHING_FLAGS,
                "monitoring_config_file",
                "tensorflow_inter_op_parallelism",
                "tensorflow_intra_op_parallelism",
                "grpc_max_threads",
            }
        ),
        no_repository=_NO_REPOSITORY,
    ),
    "triton": Platform(
        grpc_port=8001,
        loads_numbers=False,
        flags={
            "load_model": "serving.engine_name, or serving.repository.models, names what is loaded",
            "model_repository": _FOLDER,
            "model_store": _FOLDER,
            "model_control_mode": "the bundle loads models one by one",
            "grpc_port": _PORT,
            "http_port": _PORT,
            "grpc_address": _PORT,
            "http_address": _PORT,
            "grpc_use_ssl": _PLAIN,
            "grpc_restricted_protocol": _PLAIN,
            "http_restricted_api": _PLAIN,
            "allow_grpc": _PORT,
            "allow_http": _PORT,
        },
        options=frozenset(),
        abbreviates=True,
        no_batching="batching belongs in the model's config.pbtxt",
        no_memory_fraction="Triton's back ends have their own settings for the memory of a GPU",
    ),
    "openvino": Platform(
        grpc_port=9000,
        loads_numbers=True,
        flags={
            "model_name": _NAME,
            "model_path": _FOLDER,
            "model_repository_path": _FOLDER,
            "model_version_policy": "the bundle has one version of a model",
            "config_path": _ONE_MODEL,
            "port": _PORT,
            "rest_port": _PORT,
            "grpc_bind_address": _PORT,
            "rest_bind_address": _PORT,
            "file_system_poll_wait_seconds": _POLLING,
        },
        options=frozenset({"metrics_enable", "nireq", "grpc_workers", "rest_workers"}),
        no_batching="OpenVINO Model Server has no batching parameters; the batch size belongs "
        "in the model",
        no_gpu="a bundle gives NVIDIA GPUs, and OpenVINO Model Server runs on the GPUs of Intel",
        no_repository=_NO_REPOSITORY,
    ),
}

"""Image references: their registry, and the mirror that replaces it on isolated networks."""

from collections.abc import Mapping
from typing import Final

_DOCKER_HUB: Final = "docker.io"
_NAMES_OF_DOCKER_HUB: Final = frozenset({_DOCKER_HUB, "index.docker.io", "registry-1.docker.io"})
"""The name in images, the one before it, and the server that Docker asks."""
_HTTPS: Final = ":443"


def pulled_from(image: str, registries: Mapping[str, str]) -> str:
    """The image reference with its registry replaced by `registries` (host -> prefix).

    Without a matching entry the reference is unchanged, and a short name stays short. As in Docker,
    a short name belongs to Docker Hub, and to its `library` if it has only one part. A host matches
    an entry that names the same server: case and the port of HTTPS make no difference. If several
    entries do, the one with the host as the image has it counts, else the first in order.
    """
    host, path = _split(image)
    prefix = registries.get(host)
    if prefix is None:
        alike = (key for key in sorted(registries) if _server(key) == _server(host))
        prefix = registries.get(next(alike, ""))
    if prefix is None:
        return image
    if _server(host) == _DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    return f"{prefix}/{path}"


def folder(image: str) -> str:
    """The folder that a pull needs permission for: the reference without its last part."""
    path, slash, _ = image.rpartition("/")
    return path if slash else f"{_DOCKER_HUB}/library"


def _split(image: str) -> tuple[str, str]:
    """Host and path, as in `splitDockerDomain` of the distribution project's reference package."""
    first, slash, rest = image.partition("/")
    is_host = slash and (
        "." in first or ":" in first or first == "localhost" or first != first.lower()
    )
    return (first, rest) if is_host else (_DOCKER_HUB, image)


def _server(host: str) -> str:
    """One name for all hosts that are the same registry."""
    name = host.lower().removesuffix(_HTTPS)
    return _DOCKER_HUB if name in _NAMES_OF_DOCKER_HUB else name

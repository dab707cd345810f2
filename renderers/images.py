"""Image references: their registry, and the mirror that replaces it on isolated networks."""

from collections.abc import Mapping
from typing import Final

_DOCKER_HUB: Final = "docker.io"
_OLD_DOCKER_HUB: Final = "index.docker.io"


def pulled_from(image: str, registries: Mapping[str, str]) -> str:
    """The image reference with its registry replaced by `registries` (host -> prefix).

    Without a matching entry the reference is unchanged, and a short name stays short. As in Docker,
    a short name belongs to Docker Hub, and to its `library` if it has only one part.
    """
    host, path = _split(image)
    prefix = registries.get(host)
    return image if prefix is None else f"{prefix}/{path}"


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
    host, path = (first, rest) if is_host else (_DOCKER_HUB, image)
    if host == _OLD_DOCKER_HUB:
        host = _DOCKER_HUB
    return host, f"library/{path}" if host == _DOCKER_HUB and "/" not in path else path

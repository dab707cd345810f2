"""Where an image is pulled from: its registry, and the mirror that takes its place on networks that cannot reach it."""

from collections.abc import Mapping
from typing import Final

_DOCKER_HUB: Final = "docker.io"
_OLD_DOCKER_HUB: Final = "index.docker.io"


def pulled_from(image: str, registries: Mapping[str, str]) -> str:
    """The reference that Docker is told, after `registries` (host -> prefix) has replaced its registry.

    Unchanged, short form included, where no entry fits. A short name is read as Docker reads it: of Docker Hub, and of
    its `library` where it has one part only.
    """
    host, path = _split(image)
    prefix = registries.get(host)
    return image if prefix is None else f"{prefix}/{path}"


def folder(image: str) -> str:
    """What a pull needs permission for: the reference without its last part."""
    path, slash, _ = image.rpartition("/")
    return path if slash else f"{_DOCKER_HUB}/library"


def _split(image: str) -> tuple[str, str]:
    """As `splitDockerDomain` of the distribution project's reference package does it."""
    first, slash, rest = image.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    host, path = (first, rest) if is_host else (_DOCKER_HUB, image)
    if host == _OLD_DOCKER_HUB:
        host = _DOCKER_HUB
    return host, f"library/{path}" if host == _DOCKER_HUB and "/" not in path else path

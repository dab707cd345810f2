"""Which publication of a scope an argument means. Pure."""

from daemon.publishing.errors import NotFound
from daemon.publishing.operations import find_retained
from daemon.publishing.pointer import Pointer, Publication


def publication_of(pointer: Pointer, name: str) -> Publication:
    """`live`, `desired`, a state id, a unique prefix of one, or STATE@ATTEMPT.

    Raises:
        NotFound: there is none.
    """
    if name not in {"live", "desired"}:
        return find_retained(pointer, name)
    found = pointer.live if name == "live" else pointer.desired
    if found is None:
        raise NotFound(f"nothing is {name} in {pointer.scope}: it is retired")
    return found

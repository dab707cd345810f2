"""Finds the publication that a command-line argument names. Pure."""

from typing import Final

from daemon.publishing.errors import NotFound
from daemon.publishing.pointer import Pointer, Publication, find_retained

EXACT_STATE: Final = (
    "Retained state: its full id, or STATE@ATTEMPT (a unique prefix of the attempt is enough)."
)


def full_name(pointer: Pointer, name: str) -> str:
    """The full name of the state that `name` is a unique prefix of.

    For a command that asks before it changes something.

    Raises:
        NotFound: no state matches, or several do.
    """
    publication = find_retained(pointer, name)
    return name if name.partition("@")[0] == publication.state else publication.state


def publication_of(pointer: Pointer, name: str) -> Publication:
    """The publication named `live`, `desired`, by state id, unique prefix, or STATE@ATTEMPT.

    Raises:
        NotFound: no publication matches.
    """
    if name not in {"live", "desired"}:
        return find_retained(pointer, name)
    publication = pointer.live if name == "live" else pointer.desired
    if publication is None:
        raise NotFound(f"nothing is {name} in {pointer.scope}: the scope is retired")
    return publication

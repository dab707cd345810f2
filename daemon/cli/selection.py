"""Which publication of a scope an argument means. Pure."""

from typing import Final

from daemon.publishing.errors import NotFound
from daemon.publishing.operator_commands import find_retained
from daemon.publishing.pointer import Pointer, Publication

EXACT_STATE: Final = "Retained state: its full id, or STATE@ATTEMPT, of which the beginning of the attempt will do."


def full_name(pointer: Pointer, name: str) -> str:
    """The full name of the state that `name` is, or is the unique beginning of, for a verb that asks before it acts.

    Raises:
        NotFound: there is none, or there are several.
    """
    found = find_retained(pointer, name)
    return name if name.partition("@")[0] == found.state else found.state


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

"""The ids and numbers of a scope's explicit states. Pure.

No other state may use them (protocol 3). They are in the pointer's retained publications, in the
history, and in manifests that the history names.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from daemon.publishing import protocol
from daemon.publishing.pointer import HistoryEntry, Publication, PublicationId


@dataclass(frozen=True, slots=True)
class UsedState:
    """An explicit state. Number and digest are None if only its id is known."""

    state: str
    number: int | None
    """The producer's."""
    composition_digest: str | None


@dataclass(frozen=True, slots=True)
class UsedStates:
    """All explicit states that a scope has had."""

    known: tuple[UsedState, ...] = ()
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """State id -> why its number and composition cannot be read; only late states need them."""

    def with_state(self, state: UsedState) -> "UsedStates":
        """These and one more."""
        return replace(self, known=(*self.known, state))

    def same(self, state: str, number: int, composition_digest: str) -> bool:
        """Whether a known state has this id, this number and this composition."""
        return UsedState(state, number, composition_digest) in self.known

    def clash(self, state: str, number: int) -> UsedState | None:
        """A known state that uses this id or this number."""
        return next(
            (used for used in self.known if used.state == state or used.number == number), None
        )


def used_states(retained: Iterable[Publication], history: Iterable[HistoryEntry]) -> set[UsedState]:
    """The explicit states whose number and composition the pointer or its history has."""
    used = {
        UsedState(publication.state, publication.revision.producer, publication.composition_digest)
        for publication in retained
        if publication.kind == "explicit"
    }
    # The manifests of these may be deleted.
    return used | {UsedState(*entry) for entry in protocol.used_up(history)}


def only_named(history: Iterable[HistoryEntry], used: Iterable[UsedState]) -> list[PublicationId]:
    """The explicit publications of which the history has only the name."""
    complete = {state.state for state in used}
    named = {
        PublicationId.parse(name)
        for entry in history
        for name in entry.published
        if not name.startswith("derived-")
    }
    return sorted((name for name in named if name.state not in complete), key=str)


def complete(
    used: Iterable[UsedState], names: Sequence[PublicationId], unreadable: Mapping[str, str]
) -> UsedStates:
    """All used states, with those of `names` of which no more than the id is known.

    `unreadable`: state id -> why its manifest cannot be read.
    """
    known = set(used)
    ids = {state.state for state in known}
    known |= {UsedState(name.state, None, None) for name in names if name.state not in ids}
    in_order = sorted(known, key=lambda state: (state.state, state.number or 0))
    return UsedStates(tuple(in_order), unreadable)

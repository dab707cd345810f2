"""Conditions that need an operator, and since when each holds. Pure: the caller passes the time.

A condition that lasts is reported by `/attention`, by a metric and in the log (ADR 21). A short one
is not reported: retries, a restart of the bucket's server and big batches end without help.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

ConditionKind = Literal[
    "journal",
    "bucket",
    "dispatch",
    "lane",
    "live_tree",
    "unreadable",
    "damaged",
    "renderer",
    "threads",
    "token",
    "freshness",
    "pruning",
    "collection",
    "connections",
]
"""docs/operations.md describes each kind."""

KINDS: Final[tuple[ConditionKind, ...]] = get_args(ConditionKind)
"""All kinds, in the order of reports."""

LASTING_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Condition:
    """One current fault that an operator can fix."""

    kind: ConditionKind
    subject: str
    """The affected scope, folder or file; empty for the whole daemon."""
    detail: str
    """What is wrong, in words for an operator."""
    remedy: str
    """What to do: a command that works when copied."""


@dataclass(frozen=True, slots=True)
class Lasting:
    """A condition, and the seconds for which it has held."""

    condition: Condition
    seconds: float


@dataclass(frozen=True, slots=True)
class Change:
    """The lasting conditions that one observation added or ended."""

    begun: tuple[Condition, ...] = ()
    ended: tuple[Condition, ...] = ()


@dataclass(slots=True)
class _Held:
    condition: Condition
    since: float
    lasts: bool = False


class Attention:
    """Tracks since when each condition holds.

    Kind and subject identify a condition: its detail may change while it holds.
    """

    def __init__(self, seconds: float = LASTING_SECONDS) -> None:
        """`seconds`: how long a condition must hold before it is reported."""
        self._seconds = seconds
        self._held: dict[tuple[str, str], _Held] = {}

    def observe(self, now: float, conditions: Iterable[Condition]) -> Change:
        """Record all conditions that hold at `now`.

        Conditions that are not among them have ended.
        """
        current = {(condition.kind, condition.subject): condition for condition in conditions}
        ended = [self._held.pop(key) for key in self._held.keys() - current.keys()]
        begun: list[Condition] = []
        for key, condition in current.items():
            held = self._held.setdefault(key, _Held(condition, _began(condition, ended, now)))
            held.condition = condition
            if not held.lasts and now - held.since >= self._seconds:
                held.lasts = True
                begun.append(condition)
        return Change(tuple(begun), tuple(held.condition for held in ended if held.lasts))

    def lasting(self, now: float) -> tuple[Lasting, ...]:
        """Return the conditions that have held long enough, sorted by `KINDS`, then by subject."""
        lasting = [
            Lasting(held.condition, now - held.since)
            for held in self._held.values()
            if now - held.since >= self._seconds
        ]
        return tuple(sorted(lasting, key=_report_order))


def _began(condition: Condition, ended: Iterable[_Held], now: float) -> float:
    """When a condition began that another kind may have reported until now.

    A bucket or a scope that cannot be read hides the conditions that follow from it. The fault has
    held since the first of them began.
    """
    follow = [
        held.since
        for held in ended
        if condition.kind == "bucket"
        or (condition.kind == "unreadable" and held.condition.subject == condition.subject)
    ]
    return min(follow, default=now)


def _report_order(lasting: Lasting) -> tuple[int, str]:
    return KINDS.index(lasting.condition.kind), lasting.condition.subject

"""What needs an operator: each condition, and since when it has held. Pure: the caller gives the time.

A condition that lasts is reported by `/attention`, by a metric and in the log (ADR 21). A short one is not: a retry, a
restart of the bucket's server or a big batch passes without anybody's help.
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
    "renderer",
    "threads",
    "token",
    "freshness",
    "pruning",
    "collection",
    "connections",
]
"""docs/operations.md says what each means."""

KINDS: Final[tuple[ConditionKind, ...]] = get_args(ConditionKind)
"""Every kind there is, in the order of reports."""

LASTING_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is wrong now."""

    kind: ConditionKind
    subject: str
    """What is affected: a scope, a folder, a file; empty for the whole daemon."""
    detail: str
    """What is wrong, in words for an operator."""
    remedy: str
    """What to do: a command that works when copied."""


@dataclass(frozen=True, slots=True)
class Lasting:
    """A condition, and for how many seconds it has held."""

    condition: Condition
    seconds: float


@dataclass(frozen=True, slots=True)
class Change:
    """What one observation changed among the conditions that last."""

    begun: tuple[Condition, ...] = ()
    ended: tuple[Condition, ...] = ()


@dataclass(slots=True)
class _Held:
    condition: Condition
    since: float
    lasts: bool = False


class Attention:
    """Remembers since when each condition holds. A detail may change meanwhile: kind and subject tell two apart."""

    def __init__(self, seconds: float = LASTING_SECONDS) -> None:
        """`seconds`: how long a condition must hold before it is reported."""
        self._seconds = seconds
        self._held: dict[tuple[str, str], _Held] = {}

    def observe(self, now: float, conditions: Iterable[Condition]) -> Change:
        """All conditions that hold at `now`; those that are not among them have ended."""
        found = {(each.kind, each.subject): each for each in conditions}
        ended = [self._held.pop(key) for key in self._held.keys() - found.keys()]
        begun: list[Condition] = []
        for key, condition in found.items():
            held = self._held.setdefault(key, _Held(condition, now))
            held.condition = condition
            if not held.lasts and now - held.since >= self._seconds:
                held.lasts = True
                begun.append(condition)
        return Change(tuple(begun), tuple(each.condition for each in ended if each.lasts))

    def lasting(self, now: float) -> tuple[Lasting, ...]:
        """Those that have held for long enough, in the order of `KINDS`, then by subject."""
        lasting = [
            Lasting(each.condition, now - each.since)
            for each in self._held.values()
            if now - each.since >= self._seconds
        ]
        return tuple(sorted(lasting, key=lambda each: (KINDS.index(each.condition.kind), each.condition.subject)))

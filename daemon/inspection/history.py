"""Views of the changes of a scope. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daemon.inspection.scopes import QuarantineView
from daemon.publishing.pointer import HistoryEntry, Quarantine


@dataclass(frozen=True, slots=True)
class HistoryView:
    """One change of a pointer."""

    sequence: int
    kind: str
    at: str
    by: str
    reason: str
    published: tuple[str, ...]
    live: str | None
    desired: str | None
    change: Mapping[str, Any]
    """As it is stored, but with quarantines as all commands print them."""

    @classmethod
    def of(cls, entry: HistoryEntry) -> "HistoryView":
        """The view of an entry of the history."""
        return cls(
            sequence=entry.sequence,
            kind=entry.kind,
            at=entry.at,
            by=entry.by,
            reason=entry.reason,
            published=entry.published,
            live=entry.live,
            desired=entry.desired,
            change=_change(entry.change),
        )


def _change(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    change = dict(stored)
    if stored.get("quarantine"):
        change["quarantine"] = _quarantine(stored["quarantine"])
    if stored.get("quarantined"):
        change["quarantined"] = [_quarantine(quarantine) for quarantine in stored["quarantined"]]
    return change


def _quarantine(stored: object) -> QuarantineView:
    return QuarantineView.of(Quarantine.model_validate(stored))

"""The view of a change of a pointer: before, after, and the pass over the live tree. Pure."""

from dataclasses import dataclass

from daemon.inspection.live_tree import PassView, UnfinishedPassView, pass_view
from daemon.inspection.scopes import PointerView
from daemon.publishing.operator_commands import ChangeResult


@dataclass(frozen=True, slots=True)
class ChangeView:
    """What a command changed, or would change."""

    verb: str
    scope: str
    changed: bool
    dry_run: bool
    before: PointerView
    after: PointerView
    live_tree: PassView | UnfinishedPassView | None
    """None if no pass was made."""

    @classmethod
    def of(cls, verb: str, done: ChangeResult, *, dry_run: bool = False) -> "ChangeView":
        """The view of a change; `verb` is the name of the command."""
        return cls(
            verb=verb,
            scope=done.after.scope,
            changed=done.changed,
            dry_run=dry_run,
            before=PointerView.of(done.before),
            after=PointerView.of(done.after),
            live_tree=pass_view(done.live_tree) if done.live_tree else None,
        )

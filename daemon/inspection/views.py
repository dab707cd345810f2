"""The documents that commands print: pointer, states, live tree, backlog, events. Pure.

Keys have the names of protocol 4. The rules for why a state is not live, and for what needs
attention, are here, so that all commands agree.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from daemon.publishing.errors import VerificationFailed
from daemon.publishing.live_tree.sync import FinishedPass, Survey, UnfinishedPass
from daemon.publishing.manifest import Manifest
from daemon.publishing.operator_commands import ChangeResult
from daemon.publishing.pointer import HistoryEntry, Pointer, Publication, Quarantine
from daemon.publishing.wording import counted
from events.journal import Backlog, DeadLetter, EventStatus, Rejected
from renderers.pinning import movable

View = dict[str, Any]


def publication_view(publication: Publication | None) -> View | None:
    """The facts of a publication that the pointer has."""
    if publication is None:
        return None
    return {
        "state": publication.state,
        "revision": str(publication.revision),
        "kind": publication.kind,
        "attempt": publication.attempt,
        "published_at": publication.at,
        "composition": publication.composition_digest,
        "renderer": publication.renderer,
        "late": publication.late,
        "pinned": publication.pinned,
        "superseded_at": publication.superseded_at,
    }


def state_view(pointer: Pointer, publication: Publication) -> View:
    """A publication with its status in the scope: live, or why not."""
    view = publication_view(publication)
    assert view is not None
    status, reason = publication_status(pointer, publication)
    return view | {
        "live": _is(pointer.live, publication),
        "desired": _is(pointer.desired, publication),
        "status": status,
        "reason": reason,
    }


def publication_status(pointer: Pointer, publication: Publication) -> tuple[str, str]:
    """The status of a publication in one word, and the reason why it is not live."""
    if _is(pointer.live, publication):
        return "live", ""
    for quarantine in pointer.quarantined:
        if quarantine.composition_digest == publication.composition_digest:
            return "quarantined", f"by {quarantine.by}: {quarantine.reason}"
    if _is(pointer.desired, publication):
        return _desired_status(pointer)
    if publication.late:
        return "late", "arrived after a state with a higher revision"
    return "superseded", _superseded_reason(pointer, publication)


def _desired_status(pointer: Pointer) -> tuple[str, str]:
    if pointer.hold is not None:
        return "held", f"by {pointer.hold.by}: {pointer.hold.reason}"
    return "withheld", f"its quarantine was lifted: `rebundle resume {pointer.scope}` makes it live"


def _superseded_reason(pointer: Pointer, publication: Publication) -> str:
    newest = pointer.retained_of(publication.state)[-1]
    if newest.id != publication.id:
        return "published again by a newer attempt"
    if publication.superseded_at:
        return f"since {publication.superseded_at}"
    return "published together with a newer state"


def movable_view(manifest: Manifest) -> list[View] | None:
    """The images and artifacts of a state that are not pinned by a digest.

    None if this release cannot read the defaults of the manifest.
    """
    try:
        items = movable(manifest.composition_value(), manifest.defaults_value())
    except VerificationFailed:
        return None
    return [{"kind": item.kind, "name": item.name, "used_by": list(item.used_by)} for item in items]


def pointer_view(pointer: Pointer) -> View:
    """The state of a scope."""
    return {
        "scope": pointer.scope,
        "sequence": pointer.sequence,
        "live": publication_view(pointer.live),
        "desired": publication_view(pointer.desired),
        "hold": None if pointer.hold is None else pointer.hold.model_dump(mode="json"),
        "quarantined": [_quarantine_view(quarantine) for quarantine in pointer.quarantined],
    }


def entry_view(entry: HistoryEntry) -> View:
    """One change of a scope."""
    return {
        "sequence": entry.sequence,
        "kind": entry.kind,
        "at": entry.at,
        "by": entry.by,
        "reason": entry.reason,
        "published": list(entry.published),
        "live": entry.live,
        "desired": entry.desired,
        "change": _change_view(entry.change),
    }


def _quarantine_view(quarantine: Quarantine) -> View:
    return {
        "composition": quarantine.composition_digest,
        "by": quarantine.by,
        "reason": quarantine.reason,
        "at": quarantine.at,
    }


def _change_view(change: Mapping[str, Any]) -> View:
    """A change as it is stored, but with quarantines as verbs print them."""
    view = dict(change)
    if change.get("quarantine"):
        view["quarantine"] = _quarantine_view(Quarantine.model_validate(change["quarantine"]))
    if change.get("quarantined"):
        view["quarantined"] = [
            _quarantine_view(Quarantine.model_validate(stored)) for stored in change["quarantined"]
        ]
    return view


def live_tree_view(result: FinishedPass | UnfinishedPass | None) -> View | None:
    """The result of one pass over a live tree."""
    match result:
        case None:
            return None
        case UnfinishedPass():
            return {
                "synced": False,
                "follows": False,
                "sequence": result.sequence,
                "reason": result.reason,
            }
        case FinishedPass():
            return {
                "synced": not result.blocked,
                "follows": result.follows,
                "sequence": result.sequence,
                "reason": result.reason,
                "blocked": _blocked(result),
                "written": list(result.written),
                "kept_aside": list(result.kept_aside),
                "overrides": list(result.overrides),
                "deleted_by_operator": list(result.deleted_by_operator),
                "strays": list(result.strays),
            }


def survey_view(survey: Survey) -> View:
    """The state of a live tree, from a survey that changed nothing."""
    seen = survey.seen
    return {
        "synced": survey.in_sync,
        "follows": survey.follows,
        "ahead": survey.is_ahead,
        "sequence": survey.marker.sequence if survey.marker else None,
        "pending": [*seen.written, *survey.removed],
        "blocked": _blocked(seen),
        "damaged_manifests": [
            {
                "publication": str(damaged.publication),
                "reason": damaged.reason,
                "unreadable": damaged.unreadable,
            }
            for damaged in seen.damaged
        ],
        "foreign": list(seen.kept_aside),
        "overrides": list(seen.overrides),
        "unread_overrides": [
            {"path": override.path, "reason": override.reason} for override in seen.unread_overrides
        ],
        "deleted_by_operator": list(seen.deleted_by_operator),
        "strays": list(seen.strays),
    }


def _blocked(seen: FinishedPass) -> list[View]:
    return [
        {"path": blocked.path, "reason": blocked.reason, "seen_at": blocked.seen_at}
        for blocked in seen.blocked
    ]


def done_view(verb: str, done: ChangeResult, *, dry_run: bool = False) -> View:
    """What a command changed, or would change."""
    return {
        "verb": verb,
        "scope": done.after.scope,
        "changed": done.changed,
        "dry_run": dry_run,
        "before": pointer_view(done.before),
        "after": pointer_view(done.after),
        "pins": _changed_pins(done.before, done.after),
        "quarantines": _changed_quarantines(done.before, done.after),
        "live_tree": live_tree_view(done.live_tree),
    }


def _changed_pins(before: Pointer, after: Pointer) -> list[View]:
    """The publications that were pinned or unpinned."""
    pinned = {publication.id: publication.pinned for publication in before.retained}
    return [
        {"publication": str(publication.id), "pinned": publication.pinned}
        for publication in after.retained
        if pinned.get(publication.id, False) != publication.pinned
    ]


def _changed_quarantines(before: Pointer, after: Pointer) -> list[View]:
    """The compositions that were quarantined or accepted again, and their retained states."""
    earlier = {quarantine.composition_digest for quarantine in before.quarantined}
    later = {quarantine.composition_digest for quarantine in after.quarantined}
    return [
        {
            "composition": digest,
            "states": [
                publication.state
                for publication in after.retained
                if publication.composition_digest == digest
            ],
            "quarantined": digest in later,
        }
        for digest in sorted(earlier ^ later)
    ]


def attention(view: Mapping[str, Any]) -> Iterable[str]:
    """The conditions of a scope that need an operator; `view` is one that `status` prints."""
    if view.get("error"):
        yield str(view["error"])
        return
    live, desired, hold = view["live"], view["desired"], view["hold"]
    quarantine = rejected_desired(view)
    resume = f"`rebundle resume {view['scope']}`"
    if hold:
        reason = hold["reason"] or "no reason given"
        held = f"held by {hold['by']} since {hold['at']}: {reason}"
        if desired is None or (live and live["state"]) == desired["state"]:
            yield f"{held}; {resume} ends the hold"
        elif quarantine:
            yield f"{held}; {desired['state']} is waiting, and is quarantined: {_lifting(view)}"
        else:
            yield f"{held}; {desired['state']} is waiting: {resume} makes it live"
    elif quarantine:
        yield (
            f"desired state {desired['state']} is quarantined by {quarantine['by']}: "
            f"{quarantine['reason']}; {_lifting(view)}"
        )
    elif live != desired and desired:
        yield f"desired state {desired['state']} is not live: {resume} makes it live"
    if live is None and (hold or desired):
        yield (
            f"nothing is live: `rebundle states {view['scope']}` lists the states, and `rebundle "
            f"rollback {view['scope']} STATE --reason '…'` makes one live"
        )
    if view["live_tree_error"]:
        yield f"the live tree cannot be compared with the live state: {view['live_tree_error']}"
    if view["live_tree"] is not None:
        yield from _tree_attention(view)


def _lifting(view: Mapping[str, Any]) -> str:
    """What makes the scope follow again if its desired state is quarantined."""
    return (
        f"lift that first with `rebundle quarantine {view['scope']} {view['desired']['state']} "
        "--lift --reason '…'`, or wait for a state with another composition"
    )


def _tree_attention(view: Mapping[str, Any]) -> Iterable[str]:
    tree, scope = view["live_tree"], view["scope"]
    if tree["ahead"]:
        yield (
            f"the live tree's marker names sequence {tree['sequence']}, but the pointer is "
            "older: an older "
            "pointer was restored, or another writer wrote the marker. The live tree is not "
            "updated until you run "
            f"`rebundle recover {scope} --reason '…'`"
        )
    elif not tree["synced"] and (tree["pending"] or not tree["blocked"]):
        yield (
            f"the live tree is behind ({counted(len(tree['pending']), 'file')}): "
            f"{_next_pass(view)} syncs it"
        )
    if tree["blocked"]:
        first, *others = tree["blocked"]
        more = f" (and {len(others)} more paths)" if others else ""
        if first["seen_at"] is None:
            yield f"the live tree does not follow at {first['path']}{more}: {first['reason']}"
        else:
            yield (
                f"the live tree did not follow at {first['path']}{more} in the pass of "
                f"{first['seen_at']}: {first['reason']}. Once that is repaired, "
                f"{_next_pass(view)} clears this condition"
            )
    for damaged in tree["damaged_manifests"][:1]:
        yield damaged["reason"]
    if tree["foreign"]:
        paths = ", ".join(tree["foreign"][:3])
        yield (
            f"edited by hand in base/: {paths}; {_next_pass(view)} keeps a copy and replaces them"
        )
    # The command for a folder that is in the way moves the files in it.
    in_the_way = tuple(f"{blocked['path']}/" for blocked in tree["blocked"])
    if strays := [path for path in tree["strays"] if not path.startswith(in_the_way)]:
        paths = ", ".join(strays[:3])
        yield (
            "files in the live tree that Rebundle did not write, and that hosts copy: "
            f"{paths}; move them elsewhere"
        )


def _next_pass(view: Mapping[str, Any]) -> str:
    """When the next pass runs, and the command that runs one now, if there is one."""
    now = f", or `{command}` now," if (command := _pass_command(view)) else ""
    return f"the next pass of a running daemon (within 5 minutes){now}"


def _pass_command(view: Mapping[str, Any]) -> str | None:
    """A command that runs a pass over the live tree and changes nothing else.

    None if no command does that in the current state of the scope.
    """
    live = view["live"]
    if view["hold"]:
        return (
            f"rebundle rollback {view['scope']} {live['state']}@{live['attempt']} --reason "
            "'another pass'"
        )
    return f"rebundle resume {view['scope']}" if live == view["desired"] else None


def rejected_desired(view: Mapping[str, Any]) -> View | None:
    """The quarantine that keeps the desired state from becoming live."""
    desired = view["desired"]
    if desired is None:
        return None
    for quarantine in view["quarantined"]:
        if quarantine["composition"] == desired["composition"]:
            return dict(quarantine)
    return None


def backlog_view(backlog: Backlog) -> View:
    """The events that are waiting in the journal."""
    return {
        "events": backlog.events,
        "oldest": backlog.oldest,
        "undispatched": backlog.undispatched,
        "dead_letters": backlog.dead_letters,
        "rejected": backlog.rejected,
        "lanes": [
            {
                "scope": lane.scope,
                "waiting": lane.waiting,
                "oldest": lane.oldest,
                "attempts": lane.attempts,
                "error": lane.error,
            }
            for lane in backlog.lanes
        ],
    }


def event_view(status: EventStatus) -> View:
    """The outcomes of an event, with the keys of GET /v1/events/{id}."""
    return {
        "id": status.identity.id,
        "source": status.identity.source,
        "type": status.type,
        "position": str(status.position),
        "accepted_at": status.accepted_at,
        "settled_at": status.settled_at,
        "scopes": [
            {
                "scope": lane.scope,
                "outcome": str(lane.outcome.kind) if lane.outcome else None,
                "reason": lane.outcome.reason if lane.outcome else None,
                "state": lane.outcome.state if lane.outcome else None,
                "settled_at": lane.settled_at,
                "attempts": lane.attempts,
                "error": lane.error,
                "dead_letter": lane.dead_letter,
            }
            for lane in status.lanes
        ],
    }


def dead_letter_view(letter: DeadLetter) -> View:
    """A dead letter without the data of its event."""
    return {
        "number": letter.id,
        "event": letter.event_id,
        "type": letter.type,
        "scope": letter.scope,
        "status": str(letter.status),
        "reason": letter.reason,
        "at": letter.at,
        "by": letter.by,
        "position": str(letter.position),
        "closed_at": letter.closed_at,
        "closed_by": letter.closed_by,
        "closed_reason": letter.closed_reason,
    }


def rejected_view(rejected: Rejected) -> View:
    """A rejected request with all its problems."""
    return {
        "number": rejected.number,
        "intake": rejected.intake,
        "at": rejected.at,
        "size": rejected.size,
        "problems": [
            {"path": problem.path, "expected": problem.expected, "found": problem.found}
            for problem in rejected.problems
        ],
    }


def _is(one: Publication | None, other: Publication) -> bool:
    return one is not None and one.id == other.id

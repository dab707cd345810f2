"""What must hold, whatever crashes: checked by who watches the bucket, at every change and at rest.

The watcher knows the documents only by their format (protocol 4 and 5), as another program would: nothing of the
product judges itself here. Numbers are those of the twelve invariants (docs/simulation.md).
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from daemon.stores.port import Content
from events.model import Outcome
from tests.simulation.bucket import Bucket, Change, Held
from tests.simulation.loop import SimulatedLoop
from tests.simulation.scenario import Fact
from tests.simulation.source import Log
from tests.simulation.store import RemoteStore

EDITOR = "editor"
_TREE = "docker-compose-gen/"
_MARKER = f"{_TREE}.rebundle.json"
_REPLACED = ".rebundle/replaced/"

Publication = dict[str, Any]
Signed = dict[str, Any]


def _name(publication: Publication) -> str:
    return f"{publication['state']}@{publication['attempt']}"


def _named(name: str) -> Publication:
    state, _, attempt = name.rpartition("@")
    return {"state": state, "attempt": attempt}


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _digest(held: Held, known: dict[int, tuple[Held, str]]) -> str:
    """Of a body that does not change while it is held."""
    if id(held) not in known:
        known[id(held)] = (held, _sha256(held.body))
    return known[id(held)][1]


@dataclass
class Report:
    """What a writer said of its own write."""

    scope: str
    write: str
    won: bool


@dataclass
class Watcher:
    """Watches one bucket."""

    loop: SimulatedLoop
    bucket: Bucket
    facts: Mapping[str, Fact]
    most_retained: int
    deletes_blindly: bool
    grace: float
    shared_log: bool
    signed: dict[str, Signed] = field(default_factory=dict)
    """The pointer of each scope, as it is."""
    lineage: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Every entry that was ever the newest one of its scope."""
    manifests: dict[str, Held] = field(default_factory=dict)
    """Every object below states/ and history/ that ever was there, as it was first."""
    reports: list[Report] = field(default_factory=list)
    edited: dict[str, bytes | None] = field(default_factory=dict)
    """What the editor last wrote to each path of example/; None: deleted."""
    desired: dict[str, list[tuple[str, list[dict[str, str] | None]]]] = field(default_factory=dict)
    """The versions that were desired, from when on, and those a batch went through; None: nothing."""
    kinds: dict[tuple[str, str], str] = field(default_factory=dict)
    """What each publication is to its event: published, late or withheld."""
    folded: dict[tuple[str, str], str] = field(default_factory=dict)
    """When each event was first part of a publication."""
    doubled: set[str] = field(default_factory=set)
    """Events that reached more than one intake."""
    _said: dict[bytes, bool] = field(default_factory=dict)
    """Markers that say synced, and whether their writer had been shown such a tree."""
    _digests: dict[int, tuple[Held, str]] = field(default_factory=dict)
    _parsed: dict[int, tuple[Held, dict[str, Any]]] = field(default_factory=dict)

    # -- at every change

    def changed(self, change: Change) -> None:
        scope, _, rest = _split(change.key)
        if rest == "pointer.json":
            self._pointer(scope, change)
        elif rest.startswith(("states/", "history/", _REPLACED)):
            self._immutable(scope, rest, change)
        elif rest == _MARKER:
            self._marker(change)
        elif rest.startswith(_TREE):
            self._tree(scope, rest.removeprefix(_TREE), change)

    def _fail(self, number: int, what: str) -> None:
        self.loop.fail(f"invariant {number}: {what}")

    def _immutable(self, scope: str, rest: str, change: Change) -> None:
        if change.after is not None:
            # A copy of replaced bytes is written again when they are replaced again, so that its time starts again.
            again = rest.startswith(_REPLACED) and change.before is not None and change.before.body == change.after.body
            if change.before is not None and not again:
                self._fail(3, f"{change.key} was written over")
            self.manifests.setdefault(change.key, change.after)
            return
        if rest.startswith(_REPLACED):
            self._copy_deleted(scope, change)
            return
        if not rest.startswith("states/"):
            self._fail(3, f"{change.key} was deleted")
            return
        _, state, attempt, _ = rest.split("/")
        signed = self.signed.get(scope)
        if signed is None or signed["gc_epoch"] == 0 or f"{state}@{attempt}" in map(_name, signed["retained"]):
            self._fail(7, f"{change.key} was deleted without a collection, or is retained")
        # Since it was first there: a create that was sent twice may come again after the collection, and a delete, too.
        age = (self.bucket.now() - self.manifests[change.key].modified).total_seconds()
        if age < self.grace:
            self._fail(7, f"{change.key} was deleted {age:.0f} s after it was written")

    def _copy_deleted(self, scope: str, change: Change) -> None:
        """A collection takes old copies of replaced bytes, never the newest one of a path."""
        assert change.before is not None
        signed = self.signed.get(scope)
        folder = change.key.rpartition("/")[0]
        others = [held for key, held in self.bucket.objects.items() if key.rpartition("/")[0] == folder]
        if signed is None or signed["gc_epoch"] == 0 or not others:
            self._fail(7, f"{change.key} was deleted without a collection, or is the newest of its path")
        # Where a version is a digest, or deletes ignore it, a deletion under way also meets a copy that is newer.
        by_version = not (self.bucket.versions_by_content or self.deletes_blindly)
        age = (
            self.bucket.now() - (change.before if by_version else self.manifests[change.key]).modified
        ).total_seconds()
        if age < self.grace:
            self._fail(7, f"{change.key} was deleted {age:.0f} s after it was written")

    def _parse(self, held: Held | None) -> dict[str, Any] | None:
        if held is None:
            return None
        if id(held) not in self._parsed:
            self._parsed[id(held)] = (held, json.loads(held.body))
        return self._parsed[id(held)][1]

    def _document(self, key: str) -> dict[str, Any] | None:
        return self._parse(self.bucket.objects.get(key))

    def manifest(self, scope: str, publication: Publication) -> dict[str, Any]:
        """The manifest of a publication, also of one that was collected since."""
        key = f"{scope}/states/{publication['state']}/{publication['attempt']}/manifest.json"
        return self._parse(self.manifests.get(key)) or {}

    def _pointer(self, scope: str, change: Change) -> None:
        if change.after is None:
            self._fail(1, f"{change.key} was deleted")
            return
        new: Signed = json.loads(change.after.body)["signed"]
        old = self.signed.get(scope) or _NOTHING
        lineage = self.lineage.setdefault(scope, [])
        entry = new["history"][-1]
        if new["sequence"] != old["sequence"] + 1:
            self._fail(1, f"sequence {old['sequence']} was followed by {new['sequence']}")
        if (entry["sequence"], entry["write"], entry["kind"]) != (new["sequence"], new["write"], new["kind"]):
            self._fail(1, "the last entry of the history is not this change")
        if any(each["write"] == new["write"] for each in lineage):
            self._fail(1, f"write {new['write'][:6]} was committed twice")
        lineage.append(entry)
        self._history(new, lineage)
        self._stored(scope, new)
        for instance, offset in old["inputs"].items():
            if new["inputs"].get(instance, -1) < offset:
                self._fail(4, f"inputs of {instance} went from {offset} to {new['inputs'].get(instance)}")
        if new["highest_producer"] < old["highest_producer"] or new["gc_epoch"] < old["gc_epoch"]:
            self._fail(4, "a counter went down")
        if _number(new) < _number(old):
            self._fail(4, f"the revision went from {_number(old)} to {_number(new)}")
        self._rules(scope, old, new, entry)
        self.signed[scope] = new
        now = self.bucket.now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        versions = [_versions(self.manifest(scope, new["desired"])) if new["desired"] else None]
        # What a batch went through between two pointers.
        for name in entry["published"]:
            events = self.manifest(scope, _named(name))["events"]
            versions += [dict(self.facts[each["id"]].versions) for each in events]
            for each in events:
                self.folded.setdefault((scope, each["id"]), now)
        self.desired.setdefault(scope, []).append((now, versions))

    def _history(self, new: Signed, lineage: Sequence[dict[str, Any]]) -> None:
        """Every entry is in the history or in its chunks, which are linked by digest."""
        entries, older = new["history"], new["older"]
        while older is not None:
            held = self.bucket.objects.get(older["key"])
            if held is None or _digest(held, self._digests) != older["sha256"]:
                self._fail(1, f"history chunk {older['key']} is missing or another one")
                return
            chunk = self._document(older["key"])
            assert chunk is not None
            entries, older = [*chunk["entries"], *entries], chunk["older"]
        if [each["write"] for each in entries] != [each["write"] for each in lineage]:
            self._fail(1, "history and chunks do not tell every change")

    def _stored(self, scope: str, new: Signed) -> None:
        for publication in (new["live"], new["desired"], *new["retained"]):
            if publication is None:
                continue
            folder = f"{scope}/states/{publication['state']}/{publication['attempt']}"
            manifest = self.bucket.objects.get(f"{folder}/manifest.json")
            archive = self.bucket.objects.get(f"{folder}/bundle.tar.gz")
            if manifest is None or archive is None:
                self._fail(2, f"{_name(publication)} is named and not complete")
            elif _digest(manifest, self._digests) != publication["manifest_sha256"]:
                self._fail(2, f"the manifest of {_name(publication)} is another one")
            elif _digest(archive, self._digests) != self.manifest(scope, publication)["archive"]["sha256"]:
                self._fail(2, f"the archive of {_name(publication)} is another one")

    def _rules(self, scope: str, old: Signed, new: Signed, entry: dict[str, Any]) -> None:
        retained = {_name(each): each for each in new["retained"]}
        known = {_name(each): each for each in old["retained"]}
        for which in ("live", "desired"):
            if new[which] is not None and _name(new[which]) not in retained:
                self._fail(2, f"{which} is not retained")
        rejected = {each["composition"] for each in new["quarantined"]}
        moved = new["live"] is not None and (old["live"] is None or _name(new["live"]) != _name(old["live"]))
        if moved and new["live"]["composition"] in rejected:
            self._fail(6, f"{_name(new['live'])} became live and is quarantined")
        if entry["kind"] == "publish":
            self._publish(scope, old, new, entry)
        elif entry["kind"] in {"rollback", "quarantine"} and moved and _name(new["live"]) not in known:
            self._fail(7, f"{_name(new['live'])} was rolled back to and was not retained")
        elif entry["kind"] == "rollback" and new["hold"] is None and not entry["change"].get("discard_newer"):
            self._fail(6, "a rollback set no hold")
        elif entry["kind"] in {"hold", "pin", "gc"} and (moved or _of(new["desired"]) != _of(old["desired"])):
            self._fail(6, f"{entry['kind']} moved live or desired")
        if entry["kind"] not in {"publish", "rollback"} and new["inputs"] != old["inputs"]:
            self._fail(4, f"{entry['kind']} changed the inputs")
        if entry["kind"] == "gc":
            if not set(retained) <= set(known) or new["gc_epoch"] != old["gc_epoch"] + 1:
                self._fail(7, "a collection added a state, or did not raise the epoch by one")
        elif len(old["retained"]) + len(entry["published"]) <= self.most_retained and not set(known) <= set(retained):
            self._fail(7, f"{entry['kind']} dropped a retained state")

    def _publish(self, scope: str, old: Signed, new: Signed, entry: dict[str, Any]) -> None:
        retained = {_name(each): each for each in new["retained"]}
        published = [retained.get(name) for name in entry["published"]]
        if len(new["retained"]) < self.most_retained and None in published:
            self._fail(5, "a publication of the batch is not retained")
        moving = [each for each in published if each is not None and not each["late"]]
        wanted = moving[-1] if moving else old["desired"]
        if _of(new["desired"]) != _of(wanted):
            self._fail(5, "desired is not the newest publication that is not late")
        if old["hold"] is not None and (_of(new["live"]) != _of(old["live"]) or new["hold"] != old["hold"]):
            self._fail(6, "a publication changed live or the hold while there was a hold")
        rejected = {each["composition"] for each in new["quarantined"]}
        free = moving and old["hold"] is None
        free = free and new["desired"]["composition"] not in rejected
        if _of(new["live"]) != _of(new["desired"] if free else old["live"]):
            self._fail(6, "live is not what hold and quarantine let it be")
        self._folded(scope, old, new, entry["published"])

    def _folded(self, scope: str, old: Signed, new: Signed, published: Sequence[str]) -> None:
        """Each publication is what its events make of the one before it: no event is lost by building on an old base."""
        base = _versions(self.manifest(scope, old["desired"])) if old["desired"] else {}
        highest = old["highest_producer"]
        retained = {_name(each): each for each in new["retained"]}
        rejected = {each["composition"] for each in new["quarantined"]}
        for name in published:
            manifest = self.manifest(scope, _named(name))
            for event in manifest["events"]:
                if new["inputs"].get(event["instance"], -1) < event["offset"]:
                    self._fail(4, f"{event['id']} was folded and the inputs do not say so")
                if old["inputs"].get(event["instance"], -1) >= event["offset"]:
                    self._fail(5, f"{event['id']} was folded and had been passed already")
            facts = [self.facts[each["id"]] for each in manifest["events"] if not each["skipped"]]
            late = manifest["kind"] == "explicit" and facts[0].revision <= highest
            expected = dict(facts[0].versions)
            if manifest["kind"] == "derived":
                if _revision(manifest) <= _number(old):
                    self._fail(5, f"{name} does not raise the revision {_number(old)}")
                expected = base
                for fact in facts:
                    expected = expected | fact.versions
            if _versions(manifest) != expected:
                self._fail(5, f"{name} is {_versions(manifest)}, its events make {expected}")
            if not late:
                base, highest = expected, max(highest, _revision(manifest)[0])
            kept = retained.get(name)
            if kept is not None and kept["late"] != late:
                self._fail(5, f"{name} is late or not, wrongly")
            if kept is not None:
                withheld = "withheld" if kept["composition"] in rejected else "published"
                self.kinds[scope, name] = "late" if late else withheld

    def _marker(self, change: Change) -> None:
        if change.after is not None and self._said.get(change.after.body, True) is False:
            self._fail(10, "the marker says synced, and its writer was not shown that")
        if change.before is None or change.after is None or change.before.writer == EDITOR:
            return
        before, after = json.loads(change.before.body), json.loads(change.after.body)
        if after["sequence"] < before["sequence"]:
            self._fail(10, f"the marker went from {before['sequence']} to {after['sequence']}")
        scope = _split(change.key)[0]
        if after["sequence"] > self.signed[scope]["sequence"]:
            self._fail(10, "the marker is ahead of the pointer")

    def _tree(self, scope: str, path: str, change: Change) -> None:
        if change.writer == EDITOR:
            if path.startswith("example/"):
                self.edited[change.key] = change.after.body if change.after else None
            return
        before = change.before
        if before is not None and path.startswith("example/"):
            if change.after is None or before.writer == EDITOR:
                self._fail(8, f"{path} was deleted, or was an operator's and was written")
            elif not self.bucket.versions_by_content and _commit(change.after) <= _commit(before):
                # Where versions are digests, bytes that come again count as the older publication's, which a paused
                # writer may still replace; the next pass repairs that.
                self._fail(8, f"the default of {path} went back to an older publication's, or came twice")
        if before is not None and before.writer == EDITOR and not path.startswith("example/"):
            prefix = f"{scope}/{_REPLACED}"
            aside = any(held.body == before.body for key, held in self.bucket.objects.items() if key.startswith(prefix))
            if (change.after is not None and not aside) or (change.after is None and not self.deletes_blindly):
                self._fail(8, f"{path} was an operator's and is gone")

    # -- when a body is sent

    def sending(self, key: str, content: Content, store: RemoteStore) -> None:
        """Invariants 10 and 8, seen from the writer: what it may say depends on what it was shown."""
        scope, _, rest = _split(key)
        if not rest.startswith(_TREE):
            return
        if rest == _MARKER:
            marker = json.loads(content.body)
            if marker["status"] == "synced":
                self._said[content.body] = self._was_shown(scope, marker, store.shown)
            return
        path = rest.removeprefix(_TREE)
        listed = store.listed.get(f"{scope}/{_TREE}", {})
        marker_then = listed.get(f"{scope}/{_MARKER}")
        if path.startswith("example/") and marker_then is not None and key not in listed:
            held = self.bucket.objects.get(key)
            if held is None and path in json.loads(marker_then.body)["files"]:
                self._fail(8, f"{path} was deleted by an operator and is written again")

    def _was_shown(self, scope: str, marker: Mapping[str, Any], shown: Mapping[str, Sequence[Held]]) -> bool:
        manifest = self.manifest(scope, _named(marker["publication"]))
        followed = {each["path"]: each["sha256"] for each in manifest["files"] if not _is_example(each["path"])}
        return all(
            any(_digest(held, self._digests) == sha256 for held in shown.get(f"{scope}/{_TREE}{path}", ()))
            for path, sha256 in followed.items()
        )

    # -- when an event settles

    def settled(self, scope: str, event_id: str, accepted_at: str, outcome: Outcome) -> None:
        """Who settles an event without a publication has judged it on a pointer that was the newest one meanwhile."""
        fact = self.facts[event_id]
        if outcome.kind == "dead-lettered" and self.folded.get((scope, event_id), "z") < accepted_at:
            self._fail(5, f"{event_id} is a dead letter ({outcome.reason}), and was published before")
        if fact.kind != "model" or outcome.kind not in {"ignored", "superseded"} or event_id in self.doubled:
            return
        times = self.desired.get(scope, [])
        before = [versions for at, versions in times if at < accepted_at][-1:] or [[None]]
        meanwhile = [
            each for versions in (*before, *(now for at, now in times if at >= accepted_at)) for each in versions
        ]
        if outcome.kind == "ignored" and not any(
            versions is None or fact.versions.items() <= versions.items() for versions in meanwhile
        ):
            self._fail(5, f"{event_id} was ignored ({outcome.reason}), and the scope was never like that")

    # -- at rest

    def at_rest(self, logs: Sequence[Log]) -> Iterator[str]:
        """Everything that is wrong once all have finished."""
        for scope, signed in self.signed.items():
            yield from self._tree_at_rest(scope, signed)
        for key, body in self.edited.items():
            held = self.bucket.objects.get(key)
            if body is not None and (held is None or held.body != body):
                yield f"invariant 8: {key} is not what the operator wrote"
        writes = Counter((scope, entry["write"]) for scope, lineage in self.lineage.items() for entry in lineage)
        for report in self.reports:
            found = writes[report.scope, report.write]
            if found != (1 if report.won else 0):
                yield f"invariant 5: write {report.write[:6]} was reported {'won' if report.won else 'lost'}: {found}"
        yield from self._outcomes(logs)

    def after_collection(self) -> Iterator[str]:
        """What is wrong once a collection has run at rest: nothing is left that nobody names."""
        for key in self.bucket.objects:
            scope, _, rest = _split(key)
            if rest.startswith("states/") and scope in self.signed:
                _, state, attempt, _ = rest.split("/")
                if f"{state}@{attempt}" not in map(_name, self.signed[scope]["retained"]):
                    yield f"invariant 7: {key} is left, and nothing names it"

    def _tree_at_rest(self, scope: str, signed: Signed) -> Iterator[str]:
        live = signed["live"]
        if live is None:
            return
        tree = f"{scope}/{_TREE}"
        wanted = {each["path"]: each["sha256"] for each in self.manifest(scope, live)["files"]}
        for path, sha256 in wanted.items():
            held = self.bucket.objects.get(tree + path)
            if _is_example(path):
                if tree + path in self.edited or path.startswith("example/creds/"):
                    continue
                if held is None:
                    yield f"invariant 9: {path} is not there, and no operator deleted it"
                elif _sha256(held.body) != sha256 and (
                    max(_commit(held), self._recorded(scope, path, held)) < self._committed(scope, _name(live))
                ):
                    yield f"invariant 9: the default of {path} is older than live, and no operator changed it"
            elif held is None or _sha256(held.body) != sha256:
                yield f"invariant 9: {path} is not what live says"
        for key, held in self.bucket.objects.items():
            path = key.removeprefix(tree)
            if key.startswith(f"{tree}base/") and path not in wanted and held.writer != EDITOR:
                yield f"invariant 9: {path} is ours, and live does not have it"
        marker = self._document(f"{scope}/{_MARKER}") or {}
        said = marker.get("sequence"), marker.get("status"), marker.get("publication")
        if said != (signed["sequence"], "synced", _name(live)):
            yield f"invariant 9: the marker says {said}, the pointer {signed['sequence']}"

    def _recorded(self, scope: str, path: str, held: Held) -> tuple[int, int]:
        """The commit position the marker has for these bytes: a later publication may have had the same ones."""
        known = (self._document(f"{scope}/{_MARKER}") or {"files": {}})["files"].get(path)
        return tuple(known["commit"]) if known and known["sha256"] == _sha256(held.body) else (0, 0)

    def _committed(self, scope: str, name: str) -> tuple[int, int]:
        return next(
            (entry["sequence"], entry["published"].index(name))
            for entry in self.lineage[scope]
            if name in entry["published"]
        )

    def _outcomes(self, logs: Sequence[Log]) -> Iterator[str]:
        listed: dict[tuple[str, str], list[str]] = {}
        kinds: dict[tuple[str, str], str] = {}
        skipped: set[tuple[str, str]] = set()
        rolled = Counter[tuple[str, str]]()
        for scope, lineage in self.lineage.items():
            for entry in lineage:
                if entry["kind"] == "rollback":
                    rolled[scope, entry["reason"]] += 1
                for name in entry["published"]:
                    for event in self.manifest(scope, _named(name)).get("events", ()):
                        if event["skipped"]:
                            skipped.add((scope, event["id"]))
                        else:
                            listed.setdefault((scope, event["id"]), []).append(_named(name)["state"])
                            kinds[scope, event["id"]] = self.kinds.get((scope, name), "")
        for (scope, event_id), states in listed.items():
            if len(states) != 1:
                yield f"invariant 5: {event_id} was published as {states} in {scope}"
        intakes = Counter(row.event.id for log in logs for row in log.rows)
        for log in logs:
            for row in log.rows:
                for scope in row.scopes or ():
                    outcome, fact = row.settled.get(scope), self.facts[row.event.id]
                    states = listed.get((scope, row.event.id), [])
                    where = f"invariant 5: {row.event.id} in {scope}"
                    if outcome is None:
                        yield f"{where} has no outcome"
                    elif outcome.kind in {"published", "late", "withheld"}:
                        if fact.kind == "rollback":
                            if rolled[scope, row.event.id] != 1:
                                yield f"{where} is {outcome.kind}, and {rolled[scope, row.event.id]} rollbacks are"
                        elif kinds.get((scope, row.event.id)) not in {"", outcome.kind} and intakes[row.event.id] == 1:
                            yield f"{where} is {outcome.kind}, its publication {kinds.get((scope, row.event.id))}"
                        elif states != [outcome.state]:
                            yield f"{where} is {outcome.kind} as {outcome.state}, and the lineage says {states}"
                    elif self.shared_log and outcome.kind in {"ignored", "dead-lettered"}:
                        continue  # it may have settled without a commit, which fences no other reader
                    elif intakes[row.event.id] == 1 and (states or rolled[scope, row.event.id]):
                        yield f"{where} is {outcome.kind} ({outcome.reason}), and was published as {states}"
                    elif outcome.kind == "superseded" and intakes[row.event.id] == 1:
                        lower = fact.kind == "model" and not fact.updated
                        if not lower and (scope, row.event.id) not in skipped:
                            yield f"{where} is superseded ({outcome.reason}) by nothing"


_NOTHING: Signed = {
    "sequence": 0,
    "inputs": {},
    "highest_producer": 0,
    "derived": 0,
    "gc_epoch": 0,
    "live": None,
    "desired": None,
    "hold": None,
    "retained": [],
    "quarantined": [],
}


def _split(key: str) -> tuple[str, str, str]:
    bundle, _, rest = key.partition("/")
    target, slash, rest = rest.partition("/")
    return f"{bundle}/{target}", slash, rest


def _commit(held: Held) -> tuple[int, int]:
    sequence, _, index = held.content.tag.get("commit", "0.0").partition(".")
    return int(sequence), int(index)


def _is_example(path: str) -> bool:
    return path.startswith("example/")


def _of(publication: Publication | None) -> str | None:
    return None if publication is None else _name(publication)


def _number(signed: Signed) -> tuple[int, int]:
    return signed["highest_producer"], signed["derived"]


def _revision(publication: Publication) -> tuple[int, int]:
    return publication["revision"]["producer"], publication["revision"]["derived"]


def _versions(manifest: Mapping[str, Any]) -> dict[str, str]:
    return {each["id"]: each["version"] for each in manifest["composition"]["models"]}

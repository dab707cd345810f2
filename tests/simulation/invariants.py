"""Checks the invariants of a simulated world, at every change of the bucket and at rest.

The watcher knows the documents only by their format (protocol 4 and 5), as another program would,
so that the product does not check itself. The oracle checks the content of pointers and the
outcomes of events. The numbers are those of the twelve invariants (docs/simulation.md).
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from daemon.stores.port import Content
from tests.simulation.bucket import Bucket, Change, Held
from tests.simulation.loop import SimulatedLoop
from tests.simulation.model import number_of
from tests.simulation.oracle import Ledger, Oracle
from tests.simulation.store import RemoteStore

EDITOR = "editor"
FATE = "fate"
"""The operator that deletes a pointer, or restores an older one."""
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
    """What a writer reported about its own write."""

    scope: str
    write: str
    won: bool


@dataclass
class Watcher:
    """Watches one bucket."""

    loop: SimulatedLoop
    bucket: Bucket
    oracle: Oracle
    deletes_blindly: bool
    grace: float
    blocked: str = ""
    """A path that no process can write. It alone may differ, and the marker has the reason."""
    signed: dict[str, Signed] = field(default_factory=dict)
    """The present pointer of each scope."""
    lineage: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Every entry that was ever the newest one of its scope."""
    pointers: dict[str, list[bytes]] = field(default_factory=dict)
    """The body of every pointer that was ever written."""
    manifests: dict[str, Held] = field(default_factory=dict)
    """Every object below states/ and history/ that ever existed, in its first form."""
    reports: list[Report] = field(default_factory=list)
    edited: dict[str, bytes | None] = field(default_factory=dict)
    """What the editor last wrote to each path of example/; None: deleted.

    Not a default that was restored.
    """
    restored_keys: dict[str, float] = field(default_factory=dict)
    """Paths where the editor restored a default, and when.

    Rebundle may write them, and the default may be older than live's.
    """
    defaults: dict[str, list[bytes]] = field(default_factory=dict)
    """What processes wrote to each path of example/, the newest last."""
    restoring: dict[str, str] = field(default_factory=dict)
    """The path of each requested `example restore`."""
    deleted: dict[str, float] = field(default_factory=dict)
    """When the editor deleted a path of example/ that the marker had."""
    _listed_at: dict[int, tuple[Content, float]] = field(default_factory=dict)
    """When the sender of this content listed the tree."""
    _said: dict[bytes, bool] = field(default_factory=dict)
    """Markers with status synced, and whether their writer had been shown such a tree."""
    _digests: dict[int, tuple[Held, str]] = field(default_factory=dict)
    _parsed: dict[int, tuple[Held, dict[str, Any]]] = field(default_factory=dict)

    # -- at every change

    def changed(self, change: Change) -> None:
        scope, _, rest = _split(change.key)
        if rest == "pointer.json":
            self._pointer(scope, change)
        elif rest == "freshness.json":
            self._freshness(scope, change)
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
            # A copy of replaced bytes is written again when they are replaced again, which restarts
            # its retention.
            again = (
                rest.startswith(_REPLACED)
                and change.before is not None
                and change.before.body == change.after.body
            )
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
        if (
            signed is None
            or signed["gc_epoch"] == 0
            or f"{state}@{attempt}" in map(_name, signed["retained"])
        ):
            self._fail(7, f"{change.key} was deleted without a collection, or is retained")
        # Since it first existed: a create or a delete that was sent twice may arrive again after
        # the collection.
        age = (self.bucket.now() - self.manifests[change.key].modified).total_seconds()
        if age < self.grace:
            self._fail(7, f"{change.key} was deleted {age:.0f} s after it was written")

    def _copy_deleted(self, scope: str, change: Change) -> None:
        """A collection deletes old copies of replaced bytes, never the newest one of a path."""
        assert change.before is not None
        signed = self.signed.get(scope)
        folder = change.key.rpartition("/")[0]
        others = [
            held for key, held in self.bucket.objects.items() if key.rpartition("/")[0] == folder
        ]
        if signed is None or signed["gc_epoch"] == 0 or not others:
            self._fail(
                7, f"{change.key} was deleted without a collection, or is the newest of its path"
            )
        # If a version is a digest, or deletes ignore it, a pending deletion also meets a newer
        # copy.
        by_version = not (self.bucket.versions_by_content or self.deletes_blindly)
        age = (
            self.bucket.now()
            - (change.before if by_version else self.manifests[change.key]).modified
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
        """The manifest of a publication, even if it was collected since."""
        key = f"{scope}/states/{publication['state']}/{publication['attempt']}/manifest.json"
        return self._parse(self.manifests.get(key)) or {}

    def _pointer(self, scope: str, change: Change) -> None:
        if change.writer == FATE:
            self.oracle.lose(scope)
            return
        if scope in self.oracle.lost:
            self._while_lost(scope, change)
            return
        if change.after is None:
            self._fail(1, f"{change.key} was deleted")
            return
        new: Signed = json.loads(change.after.body)["signed"]
        lineage = self.lineage.setdefault(scope, [])
        entry = new["history"][-1]
        if (entry["sequence"], entry["write_id"], entry["kind"]) != (
            new["sequence"],
            new["write_id"],
            new["kind"],
        ):
            self._fail(1, "the last entry of the history is not this change")
        if any(write["write_id"] == new["write_id"] for write in lineage):
            self._fail(1, f"write {new['write_id'][:6]} was committed twice")
        lineage.append(entry)
        self._history(new, lineage)
        self._stored(scope, new)
        self.signed[scope] = new
        self.pointers.setdefault(scope, []).append(change.after.body)
        now = self.bucket.now().isoformat(timespec="microseconds").replace("+00:00", "Z")
        self.oracle.committed(scope, change.writer, new, partial(self._manifest_named, scope), now)

    def _while_lost(self, scope: str, change: Change) -> None:
        """Only a recovery ends this.

        A process that continues from a restored older pointer is not checked.
        """
        if change.after is None:
            self._fail(1, f"{change.key} was deleted")
            return
        new: Signed = json.loads(change.after.body)["signed"]
        self.pointers[scope].append(change.after.body)
        if new["kind"] == "recover":
            self._recovered(scope, new, self._parse(change.before), change.writer)

    def _recovered(
        self, scope: str, new: Signed, found: dict[str, Any] | None, writer: str
    ) -> None:
        """What a recovery may not do, after any loss (protocol 4, ADR 13).

        A restored older pointer without evidence of a later one is only repaired.
        """
        rebuilt = found is None or new["sequence"] > found["signed"]["sequence"] + 1
        before = [json.loads(body)["signed"] for body in self.pointers[scope][:-1]]
        highest = max(entry["sequence"] for entry in before)
        if rebuilt and new["sequence"] <= highest:
            self._fail(
                1, f"{scope} was recovered at {new['sequence']}, and {highest} was there before"
            )
        for instance, offset in new["positions"].items():
            committed = max(item["positions"].get(instance, 0) for item in before)
            if offset > committed:
                self._fail(
                    4, f"a recovery passes {instance} up to {offset}, committed was {committed}"
                )
        if new["live"] is not None and new["live"]["composition_digest"] in {
            e["composition_digest"] for e in new["quarantined"]
        }:
            self._fail(6, f"{scope} was recovered, and what is live is quarantined")
        self._rivals(scope, new)
        self.adopt(scope, new)
        if rebuilt:
            self.oracle.check_rebuilt(scope, writer)

    def _rivals(self, scope: str, new: Signed) -> None:
        """Id, revision and composition of an explicit state belong together."""
        explicit = [
            publication for publication in new["retained"] if publication["kind"] == "explicit"
        ]
        this = {
            (
                publication["state"],
                number_of(publication["revision"])[0],
                publication["composition_digest"],
            )
            for publication in explicit
        }
        if len({item[0] for item in this}) < len(this) or len({item[1] for item in this}) < len(
            this
        ):
            self._fail(5, f"{scope} was recovered with rivals: {sorted(this)}")

    def adopt(self, scope: str, new: Signed) -> None:
        """From now on all rules apply again, starting from this pointer."""
        self.signed[scope] = new
        self._stored(scope, new)
        lineage = self._entries(new)
        self.lineage[scope] = lineage or []
        stored = [
            described
            for key, held in self.manifests.items()
            if key.startswith(f"{scope}/states/")
            and key.endswith("/manifest.json")
            and (described := self._parse(held))
        ]
        self.oracle.recovered(scope, new, stored, lineage or [])

    def _manifest_named(self, scope: str, name: str) -> dict[str, Any]:
        return self.manifest(scope, _named(name))

    def _history(self, new: Signed, lineage: Sequence[dict[str, Any]]) -> None:
        """Every entry is in the history or in its chunks."""
        entries = self._entries(new)
        if entries is not None and [entry["write_id"] for entry in entries] != [
            write["write_id"] for write in lineage
        ]:
            self._fail(1, "history and chunks do not tell every change")

    def _entries(self, new: Signed) -> list[dict[str, Any]] | None:
        """Of the history and of its chunks, which are linked by digest."""
        entries, previous = list(new["history"]), new["previous_chunk"]
        while previous is not None:
            held = self.bucket.objects.get(previous["key"])
            if held is None or _digest(held, self._digests) != previous["sha256"]:
                self._fail(1, f"history chunk {previous['key']} is missing or another one")
                return None
            chunk = self._document(previous["key"])
            assert chunk is not None
            entries, previous = [*chunk["entries"], *entries], chunk["previous_chunk"]
        return entries

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
            elif (
                _digest(archive, self._digests)
                != self.manifest(scope, publication)["archive"]["sha256"]
            ):
                self._fail(2, f"the archive of {_name(publication)} is another one")

    def _marker(self, change: Change) -> None:
        if change.after is not None and self._said.get(change.after.body, True) is False:
            self._fail(10, "the marker says synced, and its writer was not shown that")
        if change.before is None or change.after is None or change.before.writer == EDITOR:
            return
        before, after = json.loads(change.before.body), json.loads(change.after.body)
        if after["sequence"] < before["sequence"]:
            self._fail(10, f"the marker went from {before['sequence']} to {after['sequence']}")
        scope = _split(change.key)[0]
        if after["sequence"] > self.signed[scope]["sequence"] and scope not in self.oracle.lost:
            self._fail(10, "the marker is ahead of the pointer")

    def _tree(self, scope: str, path: str, change: Change) -> None:
        in_example = path.startswith("example/")
        if change.writer == EDITOR:
            if in_example:
                self._edited(change)
            return
        before, after = change.before, change.after
        if in_example:
            self._example(scope, path, change)
            return
        foreign = (
            before is not None and before.writer == EDITOR and not self._is_aside(scope, before)
        )
        if foreign and (after is not None or not self.deletes_blindly):
            self._fail(8, f"{path} was an operator's and is gone")

    def _edited(self, change: Change) -> None:
        body = change.after.body if change.after else None
        if body is not None and body in self.defaults.get(change.key, ()):
            self.edited.pop(change.key, None)
            self.restored_keys[change.key] = self.loop.time()
        else:
            self.edited[change.key] = body
            self.restored_keys.pop(change.key, None)
        self.deleted.pop(change.key, None)
        scope, _, rest = _split(change.key)
        marker = self._document(f"{scope}/{_MARKER}") or {"files": {}}
        if body is None and rest.removeprefix(_TREE) in marker["files"]:
            self.deleted[change.key] = self.loop.time()

    def _example(self, scope: str, path: str, change: Change) -> None:
        """A process writes a file of example/."""
        before, after = change.before, change.after
        if after is None:
            self._fail(8, f"{path} was deleted")
            return
        restored = self.restoring.get(change.writer) == change.key
        written = self.defaults.setdefault(change.key, [])
        is_older = before is not None and before.body in written[:-1]
        if after.body in written:
            written.remove(after.body)
        written.append(after.body)
        if restored:
            if before is not None and not self._is_aside(scope, before):
                self._fail(8, f"{path} was restored, and what was there is not kept")
            self.edited.pop(change.key, None)
            self.restored_keys.pop(change.key, None)
        elif before is None:
            self._created(path, change.key, after)
        elif before.writer == EDITOR and change.key not in self.restored_keys:
            self._fail(8, f"{path} was an operator's and was written")
        elif change.key in self.restored_keys:
            # A file that the marker still records was the last write of a pass, as far as other
            # passes can know.
            recorded = (self._document(f"{scope}/{_MARKER}") or {"files": {}})["files"].get(path)
            known = recorded is not None and recorded["sha256"] == _sha256(before.body)
            # Where versions are digests, a write from before the edit still finds its version.
            _, listed_at = self._listed_at.get(id(after.content), (after.content, math.inf))
            overtaken = (
                self.bucket.versions_by_content and listed_at < self.restored_keys[change.key]
            )
            if is_older and not known and not overtaken and not self._is_aside(scope, before):
                self._fail(8, f"{path} was put back by an operator, and is not kept")
            self.restored_keys.pop(change.key, None)
        elif scope in self.oracle.ever_lost:
            return  # after a lost commit, nothing may record it any more
        elif not self.bucket.versions_by_content and _commit(after) <= _commit(before):
            # If versions are digests, repeated bytes count as those of the older publication, which
            # a paused writer may still replace. The next pass repairs that.
            self._fail(
                8, f"the default of {path} went back to an older publication's, or came twice"
            )

    def _created(self, path: str, key: str, after: Held) -> None:
        """A deleted default returns only through a pass that listed the tree before the deletion."""
        _, listed_at = self._listed_at.get(id(after.content), (after.content, 0.0))
        if listed_at > self.deleted.pop(key, listed_at):
            self._fail(8, f"{path} was deleted by an operator and is there again")
        self.edited.pop(key, None)

    def _is_aside(self, scope: str, held: Held) -> bool:
        prefix = f"{scope}/.rebundle/replaced/"
        return any(
            stored.body == held.body
            for key, stored in self.bucket.objects.items()
            if key.startswith(prefix)
        )

    def _freshness(self, scope: str, change: Change) -> None:
        """It names an existing pointer, and never an older one than before."""
        after = self._parse(change.after)
        assert after is not None
        said = after["signed"]
        named = [
            body for body in self.pointers.get(scope, ()) if _sha256(body) == said["pointer_sha256"]
        ]
        if not named or json.loads(named[0])["signed"]["sequence"] != said["sequence"]:
            self._fail(
                10,
                f"freshness.json of {scope} names sequence {said['sequence']}, which was never there",
            )
        before = self._parse(change.before)
        if (
            before
            and before["signed"]["sequence"] > said["sequence"]
            and scope not in self.oracle.ever_lost
        ):
            self._fail(10, f"freshness.json of {scope} went back to {said['sequence']}")

    # -- when a body is sent

    def sending(self, key: str, content: Content, store: RemoteStore) -> None:
        """Invariants 10 and 8, from the view of the writer: it may only write what it was shown."""
        scope, _, rest = _split(key)
        if not rest.startswith(_TREE):
            return
        if rest == _MARKER:
            marker = json.loads(content.body)
            if marker["status"] == "synced":
                self._said[content.body] = self._was_shown(scope, marker, store.shown)
            return
        path = rest.removeprefix(_TREE)
        at, listed = store.listed.get(f"{scope}/{_TREE}", (0.0, {}))
        if path.startswith("example/"):
            self._listed_at[id(content)] = (content, at)
        marker_then = listed.get(f"{scope}/{_MARKER}")
        if path.startswith("example/") and marker_then is not None and key not in listed:
            held = self.bucket.objects.get(key)
            if held is None and path in json.loads(marker_then.body)["files"]:
                self._fail(8, f"{path} was deleted by an operator and is written again")

    def _was_shown(
        self, scope: str, marker: Mapping[str, Any], shown: Mapping[str, Sequence[Held]]
    ) -> bool:
        manifest = self.manifest(scope, _named(marker["publication"]))
        followed = {
            file["path"]: file["sha256"]
            for file in manifest["files"]
            if not _is_example(file["path"])
        }
        return all(
            any(
                _digest(held, self._digests) == sha256
                for held in shown.get(f"{scope}/{_TREE}{path}", ())
            )
            for path, sha256 in followed.items()
        )

    # -- at rest

    def at_rest(self, ledgers: Sequence[Ledger]) -> Iterator[str]:
        """Every violation once all processes have finished."""
        for scope, signed in self.signed.items():
            yield from self._tree_at_rest(scope, signed)
        for key, body in self.edited.items():
            held = self.bucket.objects.get(key)
            if (held.body if held else None) != body:
                yield f"invariant 8: {key} is not what the operator left"
        writes = Counter(
            (scope, entry["write_id"])
            for scope, lineage in self.lineage.items()
            for entry in lineage
        )
        for report in self.reports:
            if report.scope in self.oracle.ever_lost:
                continue
            found = writes[report.scope, report.write]
            if found != (1 if report.won else 0):
                yield f"invariant 5: write {report.write[:6]} was reported {'won' if report.won else 'lost'}: {found}"
        yield from self.oracle.at_rest(ledgers)

    def after_collection(self, *, sparing_dropped: bool) -> Iterator[str]:
        """Every violation once a collection has run at rest: no unreferenced object is left.

        `sparing_dropped`: dropped publications may stay for days, by the clock of the process that
        dropped them.
        """
        for key in self.bucket.objects:
            scope, _, rest = _split(key)
            if rest.startswith("states/") and scope in self.signed:
                _, state, attempt, _ = rest.split("/")
                named = set(map(_name, self.signed[scope]["retained"]))
                for entry in self.lineage[scope] if sparing_dropped else ():
                    named.update(entry["change"].get("dropped", ()))
                if f"{state}@{attempt}" not in named:
                    yield f"invariant 7: {key} is left, and nothing names it"

    def _tree_at_rest(self, scope: str, signed: Signed) -> Iterator[str]:
        live = signed["live"]
        if live is None:
            return
        tree = f"{scope}/{_TREE}"
        wanted = {file["path"]: file["sha256"] for file in self.manifest(scope, live)["files"]}
        for path, sha256 in wanted.items():
            held = self.bucket.objects.get(tree + path)
            if path == self.blocked:
                continue
            if _is_example(path):
                if tree + path in self.edited or tree + path in self.restored_keys:
                    continue
                if path.startswith("example/creds/"):
                    if held is None or held.body not in self.defaults[tree + path]:
                        yield f"invariant 9: {path} is not a default that was once created"
                elif held is None:
                    yield f"invariant 9: {path} is not there, and no operator deleted it"
                elif _sha256(held.body) != sha256 and (
                    max(_commit(held), self._recorded(scope, path, held))
                    < self._committed(scope, _name(live))
                    and scope not in self.oracle.ever_lost
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
        if said != (signed["sequence"], "blocked" if self.blocked else "synced", _name(live)):
            yield f"invariant 9: the marker says {said}, the pointer {signed['sequence']}"

    def _recorded(self, scope: str, path: str, held: Held) -> tuple[int, int]:
        """The commit position the marker has for these bytes.

        A later publication may have had the same ones.
        """
        known = (self._document(f"{scope}/{_MARKER}") or {"files": {}})["files"].get(path)
        return tuple(known["commit"]) if known and known["sha256"] == _sha256(held.body) else (0, 0)

    def _committed(self, scope: str, name: str) -> tuple[int, int]:
        return next(
            (entry["sequence"], entry["published"].index(name))
            for entry in self.lineage[scope]
            if name in entry["published"]
        )


def _split(key: str) -> tuple[str, str, str]:
    bundle, _, rest = key.partition("/")
    target, slash, rest = rest.partition("/")
    return f"{bundle}/{target}", slash, rest


def _commit(held: Held) -> tuple[int, int]:
    sequence, _, index = held.content.tag.get("commit", "0.0").partition(".")
    return int(sequence), int(index)


def _is_example(path: str) -> bool:
    return path.startswith("example/")

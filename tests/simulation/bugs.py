"""Plausible bugs, each a small change of the product's own source text.

The simulation is worth what it finds. A run plants one bug by compiling one function again with a
changed line. docs/simulation.md lists how many worlds find each one (`make simulate-bugs`). If a
change of the product removes such a line, the test of the bug fails: plant the bug again at the new
place of the rule.
"""

import contextlib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from daemon import batches, folding, pipeline, redelivery
from daemon.pipeline import Pipeline
from daemon.publishing import operator_commands, protocol
from daemon.publishing.live_tree import ownership, sync
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.maintenance import recovery_rules, retention_rules
from daemon.publishing.maintenance.garbage_collector import GarbageCollector
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import Reader
from daemon.timers.freshness import FreshnessTimer
from daemon.used_states import UsedStates
from daemon.worker import Worker
from events.journal import Journal, database, dead_letters, lanes


@dataclass(frozen=True, slots=True)
class Bug:
    """`text` in `owner.name` becomes `instead`."""

    what: str
    owner: Any
    name: str
    text: str
    instead: str
    rare: bool = False
    """Found in fewer than one of fifty worlds."""

    def function(self) -> Callable[..., Any]:
        """The function with the bug in it.

        Raises:
            LookupError: its text no longer exists.
        """
        right = inspect.unwrap(inspect.getattr_static(self.owner, self.name))
        source = textwrap.dedent(inspect.getsource(right))
        if source.count(self.text) != 1:
            raise LookupError(
                f"{self.name} has {source.count(self.text)} times {self.text!r}: plant this bug again"
            )
        made: dict[str, Any] = {}
        code = compile(
            source.replace(self.text, self.instead),
            f"<bug in {self.name}>",
            "exec",
            dont_inherit=True,
        )
        exec(code, right.__globals__, made)  # the source of this project
        wrong = made[self.name]
        assert isinstance(wrong, FunctionType)
        return wrong


BUGS: dict[str, Bug] = {
    # -- the compare-and-swap and its result
    "failure-taken-as-lost": Bug(
        "an answer other than success counts as lost, without reading back",
        Publisher, "_try_swap",
        "return await self._resolve(scope, base, following)",
        "raise PointerMoved('lost')",
    ),
    "412-taken-as-lost": Bug(
        "a failed condition counts as lost, although it may answer a repeated request",
        Publisher, "_try_swap",
        "except (ConditionFailed, ObjectMissing, OutcomeUnknown, StoreUnavailable):",
        "except ConditionFailed:\n        raise PointerMoved('lost')\n"
        "    except (ObjectMissing, OutcomeUnknown, StoreUnavailable):",
    ),
    "unknown-taken-as-won": Bug(
        "a lost answer counts as success",
        Publisher, "_try_swap",
        "except (ConditionFailed, ObjectMissing, OutcomeUnknown, StoreUnavailable):",
        "except OutcomeUnknown:\n        return PointerRead(following, base.version)\n"
        "    except (ConditionFailed, ObjectMissing, StoreUnavailable):",
    ),
    "blind-retry": Bug(
        "after a lost compare-and-swap the same change is written over the present pointer",
        Publisher, "_resolve",
        "raise _moved(scope, current.pointer.sequence)",
        "entry = following.history[-1].model_copy(update={'sequence': current.pointer.sequence + 1})\n"
        "    following = following.model_copy(update={'sequence': entry.sequence, 'previous_chunk': current.pointer.previous_chunk,\n"
        "                                             'history': (*current.pointer.history, entry)})\n"
        "    return await self.swap(scope, current, following)",
    ),
    "resolve-by-newest-only": Bug(
        "the own write is searched only in the newest change, not in the lineage",
        protocol, "resolve",
        "read.knows_write(write_id)",
        "read.write_id == write_id",
    ),
    "chunks-not-searched": Bug(
        "a write that only the chunks record counts as lost",
        Publisher, "_resolve",
        "if any(entry.write_id == following.write_id for entry in entries):",
        "if any(entry.write_id == following.write_id for entry in current.pointer.history):",
        rare=True,
    ),
    "not-there-taken-as-lost": Bug(
        "a write that has not arrived yet counts as one that never will",
        protocol, "resolve",
        "return Resolution.NOT_APPLIED\n    reaches",
        "return Resolution.LOST\n    reaches",
    ),
    "kept-pointer-is-ours": Bug(
        "after reading back, the own pointer is cached with the version of a later one",
        Publisher, "_resolve",
        "case Resolution.WON:\n            return current",
        "case Resolution.WON:\n            return PointerRead(following, current.version)",
        rare=True,
    ),
    "settled-on-the-kept-pointer": Bug(
        "events settle without a compare-and-swap on the cached pointer, which may be outdated",
        Pipeline, "_try",
        "if cached is not None and self._last_own_pointers.get(scope) is None:",
        "if False:",
        rare=True,
    ),
    "archive-not-confirmed": Bug(
        "an upload whose answer was lost counts as stored",
        Publisher, "_create_own",
        'raise StoreUnavailable(\n'
        '                f"it is unknown whether {key} was stored: try again"\n'
        '            ) from error',
        "return",
    ),
    "pointer-before-archive": Bug(
        "the pointer does not wait for an upload that failed",
        Publisher, "store_state",
        "await concurrently(",
        "with __import__('contextlib').suppress(Exception): await concurrently(",
    ),
    # -- outcomes and positions
    "settled-before-published": Bug(
        "events are acknowledged before the compare-and-swap",
        Pipeline, "_commit",
        "await self._source.record(str(scope), following.write_id, outcomes)",
        "await self._source.settle(str(scope), outcomes)",
    ),
    "not-recorded": Bug(
        "outcomes are not recorded before the compare-and-swap",
        Pipeline, "_commit",
        "await self._source.record(str(scope), following.write_id, outcomes)",
        "pass",
        rare=True,
    ),
    "positions-not-advanced": Bug(
        "a publication does not say how far its sources are",
        protocol, "_progressed",
        '"positions": positions,',
        '"positions": dict(pointer.positions),',
    ),
    "positions-of-others-lost": Bug(
        "a publication forgets the positions of other sources",
        protocol, "_advanced",
        "        **positions,\n",
        "",
    ),
    "rollback-goes-back-in-positions": Bug(
        "a rollback takes the positions back, so that events are folded again",
        protocol, "rollback",
        "**counters,",
        "**(counters | {'positions': {}}),",
    ),
    "passed-is-folded-again": Bug(
        "events at or behind the recorded position are folded again",
        Pipeline, "_try",
        "outcomes = await self._redeliveries.outcomes(scope, base.pointer, waiting)",
        "outcomes = {}",
    ),
    "repetition-is-folded-again": Bug(
        "an event that came through another intake before is folded again",
        Pipeline, "_next_batch",
        "if folded == event.event:",
        "if False:",
    ),
    "repetitions-unremembered": Bug(
        "the pointer does not remember which events were folded",
        batches, "progress",
        "folded_events = tuple(",
        "folded_events = () and tuple(",
        rare=True,
    ),
    # -- fold
    "old-base": Bug(
        "a scope's composition is cached by scope, not by digest",
        Pipeline, "_composition",
        "cached = self._compositions.get(publication.composition_digest)",
        "cached = self._compositions.get(scope) or self._compositions.put(\n"
        "        scope, (await self._reader.manifest(scope, publication)).composition_value(), 1)",
    ),
    "burst-left-out": Bug(
        "of several states in one batch only the last one is retained",
        protocol, "publish",
        "retained=(*pointer.retained, *published),",
        "retained=(*pointer.retained, *published[-1:]),",
    ),
    "late-moves-desired": Bug(
        "a state that comes late becomes desired",
        protocol, "publish",
        "moving = [publication for publication in published if not publication.late]",
        "moving = list(published)",
    ),
    "late-not-seen": Bug(
        "a state with a lower number than the newest one is not late",
        folding, "_fold_state",
        "is_late = change.revision <= desired.highest_revision.producer",
        "is_late = change.revision < 0",
    ),
    "number-goes-down": Bug(
        "the producer's number follows the batch, and may decrease",
        protocol, "rollback",
        "hold=hold,",
        "hold=hold, highest_revision=target.revision,",
    ),
    "derived-not-counted": Bug(
        "a model's move does not raise the derived number",
        folding, "_fold_model",
        "revision = desired.highest_revision.next_derived()",
        "revision = desired.highest_revision if desired.highest_revision.derived else desired.highest_revision.next_derived()",
    ),
    # -- operators
    "hold-ignored": Bug(
        "a publication becomes live despite a hold",
        protocol, "publish",
        "        and pointer.hold is None\n",
        "",
    ),
    "hold-dropped": Bug(
        "a publication ends a hold",
        protocol, "publish",
        "retained=(*pointer.retained, *published),",
        "retained=(*pointer.retained, *published), hold=None,",
    ),
    "rollback-without-hold": Bug(
        "a rollback sets no hold, so the next event undoes it",
        protocol, "rollback",
        "hold = None if discard_newer else _hold(writing)",
        "hold = None",
    ),
    "rollback-lowers-the-sequence": Bug(
        "a rollback does not raise the sequence",
        protocol, "rollback",
        "return _next(\n        pointer,",
        "return _next(\n        pointer.model_copy(update={'sequence': pointer.sequence - 1}),",
    ),
    "rollback-to-anything": Bug(
        "a rollback goes to a quarantined composition",
        protocol, "rollback",
        "_refuse_quarantined(pointer, target)",
        "pass",
        rare=True,
    ),
    "quarantine-ignored": Bug(
        "a publication of a quarantined composition becomes live",
        protocol, "publish",
        " and not _is_quarantined(pointer, desired)",
        "",
        rare=True,
    ),
    "resume-ignores-quarantine": Bug(
        "resume makes a quarantined composition live",
        protocol, "resume",
        "if pointer.desired is not None and _is_quarantined(pointer, pointer.desired):",
        "if False:",
        rare=True,
    ),
    "command-on-an-old-pointer": Bug(
        "an overtaken command writes its old decision over the new pointer",
        operator_commands.Operations, "carry_out",
        "return await self._swap(scope, started, command, by, reason)",
        "kept = change.__dict__.setdefault('kept', [])\n"
        "        return await self._swap(\n"
        "            scope, started, lambda *now: kept[0] if kept else (kept.append(command(*now)), kept[0])[1], by, reason\n"
        "        )",
    ),
    # -- history
    "chunk-not-linked": Bug(
        "the pointer does not reference the chunk with its oldest entries",
        protocol, "without_chunk",
        '"previous_chunk": stored}',
        '"previous_chunk": pointer.previous_chunk}',
    ),
    "chunk-not-stored": Bug(
        "the entries are dropped before their chunk is stored",
        Publisher, "_with_short_history",
        "await self._create_own(key, Content(body, _JSON))",
        "pass",
    ),
    # -- collection
    "collection-without-a-fence": Bug(
        "orphans are deleted without a compare-and-swap that raises the epoch",
        GarbageCollector, "_fenced",
        "if _covers(earlier, plan) and not protocol.idle_journals(seen.read.pointer, as_of):\n"
        "        return plan, earlier\n    return plan, await",
        "if not plan.released:\n        return plan, _Fence(seen.read.pointer.gc_epoch, plan.verdicts, plan.expired)\n"
        "    return plan, await",
    ),
    "deleted-before-released": Bug(
        "objects are deleted before the pointer releases them",
        GarbageCollector, "_release",
        "following = protocol.collect(",
        "early = _Fence(seen.read.pointer.gc_epoch, plan.verdicts, plan.expired)\n"
        "    await self._delete_all(seen.scope, early, lambda _: None)\n"
        "    following = protocol.collect(",
    ),
    "epoch-not-raised": Bug(
        "a collection does not raise the epoch",
        protocol, "collect",
        "gc_epoch=pointer.gc_epoch + 1,",
        "gc_epoch=pointer.gc_epoch,",
    ),
    "attempt-reused-after-collection": Bug(
        "a state stored before a collection is published after it",
        pipeline._Uploads, "keep_only",
        "if gc_epoch != self._gc_epoch:",
        "if False:",
        rare=True,
    ),
    "grace-ignored": Bug(
        "objects of any age are deleted",
        retention_rules, "_plan_deletion",
        "if folder.stored > as_of - timedelta(hours=policy.grace_hours):",
        "if False:",
    ),
    "fence-by-the-writers-clock": Bug(
        "a later deletion uses the clock of the process that committed the collection",
        retention_rules, "last_collection",
        '_time(entry.change.get("as_of"))',
        "_time(entry.at)",
        rare=True,
    ),
    "collection-by-its-own-clock": Bug(
        "a collection measures ages by the clock of its machine",
        GarbageCollector, "_fenced",
        "as_of = await store_time(self._store, self._runtime.random_id())",
        "as_of = self._runtime.now()",
        rare=True,
    ),
    # -- the live tree
    "no-second-listing": Bug(
        "the marker is synced without another listing",
        LiveTree, "_round",
        "else await self._shows(scope, wanted, {**base, **applied.versions})",
        "else tree",
    ),
    "marker-before-writes": Bug(
        "the marker is synced before the files are written",
        LiveTree, "_round",
        "begun = ownership.marker_before(marker, wanted)",
        "begun = ownership.marker_before(marker, wanted).model_copy(update={'status': 'synced'})",
    ),
    "marker-goes-back": Bug(
        "a pass that read an older pointer writes its marker over a newer one",
        LiveTree, "_round",
        "if marker is not None and marker.sequence > current.sequence:",
        "if False:",
        rare=True,
    ),
    "pass-after-pass-unfinished": Bug(
        "a pass that others disturbed counts as done",
        LiveTree, "_apply",
        "raced=None in results,",
        "raced=False,",
    ),
    "skip-unchanged": Bug(
        "a pass with an unchanged sequence does nothing, even if the listing differs",
        sync._LastPass, "is_still",
        "return pointer_same and tree_same and not due",
        "return self.result.sequence == current.sequence",
    ),
    "fresh-conditions": Bug(
        "a file is replaced under its present version, not under the version that was examined",
        LiveTree, "_put",
        "return await self._store.replace(key, content, put.over)",
        "return await self._store.replace(key, content, (await self._store.get(key)).version)",
        rare=True,
    ),
    "override-counts-as-a-default": Bug(
        "a file of example/ that an operator changed is replaced",
        ownership, "_plan_example",
        "if not there.ours:",
        "if False:",
    ),
    "example-goes-back": Bug(
        "a rollback restores older defaults of example/",
        ownership, "_plan_example",
        "wanted.commit <= written",
        "wanted.commit == written",
    ),
    "deleted-example-comes-back": Bug(
        "a file of example/ that an operator deleted is written again",
        ownership, "_plan_path",
        "DeletedByOperator(path) if in_example and recorded else Put(path, None)",
        "Put(path, None)",
    ),
    "stray-deleted": Bug(
        "a file below base/ that Rebundle did not write is deleted",
        ownership, "_plan_path",
        "Remove(path, there.version) if there.ours else Stray(path)",
        "Remove(path, there.version)",
    ),
    "not-kept-aside": Bug(
        "an edit below base/ is replaced and not kept aside",
        ownership, "_plan_path",
        "keep_aside=not there.ours",
        "keep_aside=False",
    ),
    "late-write-taken-for-an-edit": Bug(
        "only files in the marker count as Rebundle's: a late write, or one before a crash, counts as an operator's",
        LiveTree, "_look",
        "ours = body.tagged or written or wanted.files.get(path) == body.sha256",
        "ours = written",
        rare=True,
    ),
    "marker-trusted-too-far": Bug(
        "the marker's record of a path counts, even if the listing differs",
        sync, "_known_without_reading",
        "or recorded.version != listed.version\n        or _may_move(path, recorded.sha256, wanted)\n",
        "\n",
    ),
    "newest-copy-collected": Bug(
        "a collection deletes every old copy of replaced bytes, even the newest one of a path",
        retention_rules, "expired",
        "key=lambda one: (one.modified, one.key))[:-1]",
        "key=lambda one: (one.modified, one.key))",
    ),
    "example-marked-before-written": Bug(
        "a path of example/ is in the marker before its file is confirmed",
        ownership, "marker_before",
        'return _marked(marker, wanted, "updating", marker.files if marker else {})',
        'more = {p: MarkerFile(sha256=s, publication="", commit=wanted.commit) for p, s in wanted.files.items()}\n'
        '    return _marked(marker, wanted, "updating", more | (marker.files if marker else {}))',
    ),
    # -- the outcome of an event: each case needs its reason
    "state-refused-for-nothing": Bug(
        "every fourth state becomes a dead letter, with the reason of a used id",
        folding, "_fold_state",
        "    if clash is not None:",
        "    if change.revision % 4 == 2:\n        said = f'revision {change.revision} is state {change.state} already'\n        return Outcome(OutcomeKind.DEAD_LETTERED, said)\n    if clash is not None:",
    ),
    "every-fifth-state-ignored": Bug(
        "every fifth state is ignored as already published",
        folding, "_fold_state",
        "    if any(desired.used.same(change.state, change.revision, digest) for digest in digests):",
        "    if change.revision % 5 == 0 or any(desired.used.same(change.state, change.revision, digest) for digest in digests):",
    ),
    "model-superseded-for-nothing": Bug(
        "every `.created` model version counts as lower than the present one",
        folding, "_unmoved",
        "not change.may_move_back and _is_lower(model.version, current.version)",
        "not change.may_move_back",
    ),
    "updated-never-moves-back": Bug(
        "an `.updated` event cannot lower a model version either",
        folding, "_unmoved",
        "current and not change.may_move_back and",
        "current and",
    ),
    "versions-compared-as-text": Bug(
        "version 10 counts as lower than version 2",
        folding, "_is_lower",
        "return _is_number(version) and _is_number(than) and int(version) < int(than)",
        "return version < than",
    ),
    "number-used-twice": Bug(
        "a number that another state has may be used again",
        UsedStates, "clash",
        "used.state == state or used.number == number",
        "used.state == state",
    ),
    "late-state-replaces-moves": Bug(
        "a late state skips the model versions before it",
        folding, "plan",
        "publications.append(_explicit(change, composition, delivery, late=True))",
        "publications.append(_explicit(change, composition, delivery, late=True, skipped=skip_moves(change.state)))",
    ),
    "too-many-states": Bug(
        "a batch has two states more than it may",
        batches, "size_of_first",
        "states > MOST_STATES",
        "states > MOST_STATES + 2",
    ),
    "settled-beyond-the-batch": Bug(
        "an event after the end of its batch settles with it",
        batches, "before",
        "lambda delivery: delivery is not end",
        "lambda delivery: True",
    ),
    "dead-letters-remembered": Bug(
        "the pointer remembers dead letters, so their replays change nothing",
        batches, "progress",
        "if outcomes.get(delivery.position, _NO_OUTCOME).kind is not OutcomeKind.DEAD_LETTERED",
        "if True",
    ),
    "expected-state-not-compared": Bug(
        "a rollback request does not compare the expected live state",
        batches, "rollback_refusal",
        "if found is not None:",
        "if False:",
    ),
    "late-reported-as-withheld": Bug(
        "a late state of a quarantined composition is withheld",
        batches, "published_outcomes",
        "        if planned.late:",
        "        if planned.late and not following.is_quarantined(planned.composition.digest):",
        rare=True,
    ),
    "other-content-ignored": Bug(
        "an event with a known id and another content is ignored",
        Pipeline, "_next_batch",
        "if folded == event.event:",
        "if folded is not None:",
    ),
    "gate-blames-the-first": Bug(
        "of several model versions the first is blamed for the gate's refusal",
        Pipeline, "_publish",
        "if len(refused.planned.deliveries) > 1:",
        "if False:",
    ),
    "unnamed-to-one-scope": Bug(
        "an event that names no scope goes only to the first one of the bucket",
        Worker, "_all_scopes",
        "{*confirmed.listing.scopes, *self._lanes}",
        "set(sorted(confirmed.listing.scopes)[:1])",
    ),
    # -- what a pointer records
    "memory-keeps-the-oldest": Bug(
        "the pointer remembers the first events, not the last ones",
        protocol, "_progressed",
        "[-MOST_FOLDED_EVENTS:]",
        "[:MOST_FOLDED_EVENTS]",
    ),
    "used-ids-are-lost": Bug(
        "ids and numbers of states that leave the pointer are lost",
        protocol, "_used_up_by",
        'if publication.kind == "explicit"',
        "if False",
    ),
    "superseded-since-now": Bug(
        "every change of the pointer resets the time at which states were superseded",
        protocol, "_marked",
        "publication.superseded_at or at",
        "at",
    ),
    "newest-are-dropped": Bug(
        "a full pointer drops the newest publications",
        protocol, "_within_limit",
        "expendable[: max(0, len(retained) - MOST_RETAINED)]",
        "expendable[len(expendable) - max(0, len(retained) - MOST_RETAINED) :]",
    ),
    "retired-and-desired": Bug(
        "a retired scope still has a desired state",
        protocol, "retire",
        "live=None, desired=None, hold=None",
        "live=None, hold=None",
    ),
    "lift-lifts-all": Bug(
        "lifting one quarantine lifts all",
        protocol, "lift_quarantine",
        "if entry.composition_digest != composition_digest",
        "if False",
        rare=True,
    ),
    "ninth-quarantine-forgets": Bug(
        "a pointer has room for eight quarantines",
        protocol, "quarantine",
        "(*pointer.quarantined, rejected)",
        "(*pointer.quarantined, rejected)[-8:]",
        rare=True,
    ),
    "oldest-attempt-meant": Bug(
        "of several attempts of a state a command selects the oldest",
        operator_commands, "find_exactly",
        "return matching[-1]",
        "return matching[0]",
        rare=True,
    ),
    "oldest-are-kept": Bug(
        "retention keeps the oldest states, not the newest",
        retention_rules, "retention_of",
        "pointer.retained[-policy.newest :]",
        "pointer.retained[: policy.newest]",
        rare=True,
    ),
    "released-at-once": Bug(
        "retention releases publications that were just superseded",
        retention_rules, "_retention_of",
        "if days < policy.days:",
        "if days < 0:",
    ),
    "only-the-newest-chunk": Bug(
        "the history is read back to the newest chunk only",
        Reader, "history",
        "previous = chunk.previous_chunk",
        "previous = None",
    ),
    # -- the index of models
    "index-not-confirmed": Bug(
        "a scope is left out although its pointer may have changed since it was indexed",
        Worker, "_confirm",
        "in await self._reader.still_current(pointers):",
        "in pointers:",
        rare=True,
    ),
    "index-of-busy-lanes": Bug(
        "a scope is left out although an event that may add the model waits there",
        Worker, "_busy",
        "if lane.idle_since is None",
        "if False",
    ),
    # -- sources with several instances, and without durable memory
    "one-position-for-all": Bug(
        "the positions of several instances are committed as those of one",
        batches, "progress",
        "positions[position.instance] = max(",
        "positions[next(iter(positions), position.instance)] = max(",
    ),
    "lost-dead-letter-counts": Bug(
        "the dead letter of a lost write is the outcome of an event that another write passed",
        redelivery, "_effective",
        "if lineage.whole:",
        "if False:",
        rare=True,
    ),
    # -- the journal
    "newest-first": Bug(
        "a lane gets its events in the reverse order",
        lanes, "waiting",
        "ORDER BY l.position",
        "ORDER BY l.position DESC",
    ),
    "acknowledged-in-one-scope": Bug(
        "an event is acknowledged when it has settled in one of its scopes",
        lanes, "_acknowledge",
        "SELECT 1 FROM lanes WHERE position = ? AND lanes.settled_at IS NULL",
        "SELECT 1 FROM lanes WHERE position = ? AND 0",
    ),
    "copy-not-noticed": Bug(
        "a copied journal continues under the instance of the original",
        database, "_renew_copy",
        'renew_instance(db, f"journal:{token()}")',
        "pass",
        rare=True,
    ),
    "restore-not-noticed": Bug(
        "a journal restored from a backup continues under its instance",
        Journal, "compare",
        "if not unaccounted and",
        "if not unaccounted or",
        rare=True,
    ),
    "not-delivered-again": Bug(
        "after a change of instance, delivered events are not delivered again",
        Journal, "_take_new_instance",
        "self._cursor = 0",
        "pass",
        rare=True,
    ),
    "replayed-everywhere": Bug(
        "a replay goes to every scope",
        dead_letters, "replay",
        "scopes=(letter.scope,)",
        "scopes=None",
        rare=True,
    ),
    # -- recovery
    "recovered-too-low": Bug(
        "a recovery continues at a sequence that may have been used",
        recovery_rules, "_numbered",
        '"sequence": highest + MOST_HISTORY,',
        '"sequence": highest - 1,',
    ),
    "recovered-not-held": Bug(
        "a recovered scope is not held",
        recovery_rules, "_rebuild",
        "(_hold(writing) if diverged or (options.hold and not retired) else None)",
        "None",
    ),
    "recovered-apart": Bug(
        "a recovery leaves live and desired apart without a hold",
        recovery_rules, "_rebuild",
        "if diverged or (options.hold and not retired)",
        "if (options.hold and not retired)",
        rare=True,
    ),
    "recovered-uncommitted": Bug(
        "a recovery publishes uploads in a scope that never had a pointer",
        recovery_rules, "recover",
        "if not remains.was_published:",
        "if not remains.was_published and not remains.found:",
        rare=True,
    ),
    "orphans-count-as-folded": Bug(
        "a recovery passes events of publications that were never committed",
        recovery_rules, "_passed",
        "if str(found.publication.id) in committed",
        "if True",
        rare=True,
    ),
    "freshness-ahead": Bug(
        "freshness.json names a sequence that does not exist yet",
        FreshnessTimer, "renew",
        "Freshness.of, scope, newest.sequence,",
        "Freshness.of, scope, newest.sequence + 1,",
    ),
    # -- the live tree, again
    "defaults-never-updated": Bug(
        "an unchanged default of example/ is not updated",
        ownership, "_plan_example",
        "if path not in wanted.files or wanted.commit <= written:",
        "if True:",
    ),
    "restored-without-a-copy": Bug(
        "`example restore` replaces an operator's file and keeps no copy",
        LiveTree, "restore_example",
        "keep_aside=True",
        "keep_aside=False",
        rare=True,
    ),
}  # fmt: skip


@contextlib.contextmanager
def planted(name: str | None) -> Iterator[None]:
    """The product with this bug in it. None: unchanged."""
    if name is None:
        yield
        return
    bug = BUGS[name]
    right = inspect.getattr_static(bug.owner, bug.name)
    setattr(bug.owner, bug.name, bug.function())
    try:
        yield
    finally:
        setattr(bug.owner, bug.name, right)

"""The start-up probe: how it classifies each kind of broken store, and that its leftovers do not
grow.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest

from daemon.stores.errors import ConditionFailed, ObjectMissing, StoreRefused, StoreUnavailable
from daemon.stores.port import Content, Listing, ObjectStore, Stored, Version
from daemon.stores.probe import PREFIX, ProbeResult, UnsafeStore, Verdict, probe
from tests.builders_runtime import InlineRuntime
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.memory_store import MemoryStore

EVERY_STEP = [
    "create",
    "create once",
    "replace",
    "replace stale",
    "replace absent",
    "read back",
    "list",
    "delete stale",
    "clean up",
]


def memory(*, by_content: bool = False) -> MemoryStore:
    return MemoryStore(InlineRuntime(), versions_by_content=by_content)


def probed(store: ObjectStore, name: str = "") -> ProbeResult:
    return asyncio.run(probe(store, InlineRuntime(name)))


def keys(store: ObjectStore) -> list[str]:
    return [entry.key for entry in asyncio.run(store.scan(""))]


def verdicts(result: ProbeResult) -> dict[str, str]:
    return {finding.step: str(finding.verdict) for finding in result.findings}


@dataclass
class Passing:
    """A store that passes calls on to another one. Tests override what differs."""

    inner: ObjectStore = field(default_factory=memory)

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        return await self.inner.get(key, max_bytes=max_bytes)

    async def versions(self, keys: Sequence[str]) -> Mapping[str, Version]:
        return await self.inner.versions(keys)

    async def scan(self, prefix: str) -> Listing:
        return await self.inner.scan(prefix)

    async def folders(self, prefix: str) -> Sequence[str]:
        return await self.inner.folders(prefix)

    async def create(self, key: str, content: Content) -> Version:
        return await self.inner.create(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        return await self.inner.replace(key, content, version)

    async def delete(self, key: str, version: Version) -> None:
        await self.inner.delete(key, version)

    async def put(self, key: str, content: Content) -> Version:
        try:
            return await self.inner.replace(key, content, (await self.inner.get(key)).version)
        except ObjectMissing:
            return await self.inner.create(key, content)


class IgnoresCreate(Passing):
    async def create(self, key, content):
        return await self.put(key, content)


class IgnoresReplace(Passing):
    async def replace(self, key, content, version):
        if key.endswith("-absent"):
            raise ObjectMissing(key)
        return await self.put(key, content)


class MakesAbsent(Passing):
    async def replace(self, key, content, version):
        return await (
            self.put(key, content)
            if key.endswith("-absent")
            else super().replace(key, content, version)
        )


class RefusesEveryReplacement(Passing):
    async def replace(self, key, content, version):
        raise ConditionFailed(key)


class SameVersion(Passing):
    async def create(self, key, content):
        await self.inner.create(key, content)
        return Version("1")

    async def replace(self, key, content, version):
        await self.put(key, content)
        return Version("1")


class OtherBytes(Passing):
    async def get(self, key, *, max_bytes=None):
        return replace(await self.inner.get(key), body=b"compressed")


class NoTags(Passing):
    async def get(self, key, *, max_bytes=None):
        return replace(await self.inner.get(key), tag={})


class EmptyListing(Passing):
    async def scan(self, prefix):
        return Listing()


class OtherVersionsListed(Passing):
    async def scan(self, prefix):
        return Listing(
            tuple(
                replace(entry, version=Version("other")) for entry in await self.inner.scan(prefix)
            )
        )


@pytest.mark.parametrize("by_content", [False, True])
def test_a_conforming_store_passes_every_step_and_stays_unchanged(by_content):
    store = memory(by_content=by_content)

    result = probed(store)

    assert verdicts(result) == dict.fromkeys(EVERY_STEP, "ok")
    assert result.usable
    assert result.ahead == 0
    assert keys(store) == []


@pytest.mark.parametrize(
    ("store", "step", "expected"),
    [
        (IgnoresCreate, "create once", "published states could be overwritten"),
        (IgnoresReplace, "replace stale", "overwrite the other's pointer"),
        (MakesAbsent, "replace absent", "without its history"),
        (RefusesEveryReplacement, "replace", "a replacement of the current version is refused"),
        (SameVersion, "replace", "changes could not be detected"),
        (OtherBytes, "read back", "bytes"),
        (NoTags, "read back", "overrides"),
        (EmptyListing, "list", "could not be trusted"),
        (OtherVersionsListed, "list", "live tree"),
    ],
)
def test_a_store_that_breaks_one_promise_is_refused_at_that_step(store, step, expected):
    result = probed(store())

    assert result.refusal is not None
    assert not result.usable
    assert result.refusal.step == step
    assert expected in result.refusal.explanation
    assert [finding.step for finding in result.findings if finding.verdict is Verdict.OK][
        : EVERY_STEP.index(step)
    ] == (EVERY_STEP[: EVERY_STEP.index(step)])
    assert expected in str(UnsafeStore(result.refusal))


def test_an_ignored_condition_leaves_no_object_that_was_absent():
    store = MakesAbsent()

    assert not probed(store).usable

    assert keys(store.inner) == []


class DeletesAnything(Passing):
    async def delete(self, key, version):
        await self.inner.delete(key, (await self.inner.get(key)).version)


def test_a_deletion_without_condition_is_reported_and_not_refused():
    store = DeletesAnything()

    result = probed(store)

    assert verdicts(result)["delete stale"] == "unsupported"
    assert result.usable
    assert keys(store.inner) == []


class MayNotDelete(Passing):
    async def delete(self, key, version):
        raise StoreRefused("AccessDenied")


def test_without_delete_permission_the_leftovers_never_grow():
    store = MayNotDelete()

    results = [probed(store, str(turn)) for turn in range(600)]

    assert all(result.usable for result in results)
    assert {verdicts(result)["clean up"] for result in results} == {"note"}
    assert {verdicts(result)["delete stale"] for result in results} == {"note"}
    assert 200 < len(keys(store.inner)) <= 256


def test_the_leftovers_of_a_crash_are_reused_and_removed():
    store = memory()
    left = f"{PREFIX}{InlineRuntime('').random_id()[:2]}"
    asyncio.run(store.create(left, Content(b"left by a crash")))

    assert probed(store).usable

    assert keys(store) == []


@pytest.mark.parametrize(
    ("turn", "fault"),
    [
        *((turn, fault) for turn in range(5) for fault in (Fault.LOST_BEFORE, Fault.AWAY)),
        (0, Fault.LOST_AFTER),
        (2, Fault.LOST_AFTER),
    ],
)
def test_a_write_without_an_answer_is_inconclusive(fault, turn):
    store = FaultyStore(memory(), faults={"": [*[Fault.NONE] * turn, fault]})

    result = probed(store)

    assert result.failure is not None
    assert result.refusal is None


@pytest.mark.parametrize("turn", [1, 3])
def test_a_refusal_of_an_applied_write_is_not_a_fault_of_the_store(turn):
    """`create` and `replace`, each sent twice by something on the network path."""
    store = FaultyStore(memory(), faults={"": [*[Fault.NONE] * (turn - 1), Fault.OWN_SUCCESS]})

    result = probed(store)

    assert result.refusal is None
    assert result.usable == (turn == 1)


def test_two_probes_at_one_key_refuse_nothing():
    store = memory()

    async def both() -> list[ProbeResult]:
        return await asyncio.gather(*(probe(store, InlineRuntime("same")) for _ in range(2)))

    one, other = asyncio.run(both())

    assert one.refusal is None
    assert other.refusal is None


async def takes_over(store: ObjectStore, key: str) -> None:
    """As another probe at this key begins."""
    await store.replace(key, Content(b"another probe"), (await store.get(key)).version)


async def cleans_up(store: ObjectStore, key: str) -> None:
    """As another probe at this key ends."""
    await store.delete(key, (await store.get(key)).version)


def between(
    operation: str,
    turn: int,
    act: Callable[[ObjectStore, str], Awaitable[None]],
    *,
    by_content: bool,
) -> FaultyStore:
    """A conforming store, and another probe that acts just before a call of this probe."""
    store, calls = memory(by_content=by_content), Counter[str]()

    async def before(called: str, key: str) -> None:
        calls[called] += 1
        if (called, calls[called]) == (operation, turn):
            await act(store, key)

    return FaultyStore(store, before=before)


@pytest.mark.parametrize("by_content", [False, True])
@pytest.mark.parametrize("act", [takes_over, cleans_up])
@pytest.mark.parametrize(
    ("operation", "turn"),
    [("create", 2), ("replace", 1), ("replace", 2), ("get", 1), ("scan", 1), ("delete", 1)],
)
def test_another_probe_at_the_same_key_refuses_nothing(
    operation: str, turn: int, act: Callable[[ObjectStore, str], Awaitable[None]], by_content: bool
) -> None:
    result = probed(between(operation, turn, act, by_content=by_content))

    assert result.refusal is None


@pytest.mark.parametrize("by_content", [False, True])
def test_a_key_that_another_probe_removed_is_created_once_more(by_content: bool) -> None:
    assert verdicts(
        probed(between("create", 2, cleans_up, by_content=by_content))
    ) == dict.fromkeys(EVERY_STEP, "ok")


class Hangs(Passing):
    async def replace(self, key, content, version):
        await asyncio.Event().wait()


def test_a_store_that_does_not_answer_fails_the_step():
    result = asyncio.run(probe(Hangs(), InlineRuntime(), seconds=0.01))

    assert result.failure is not None
    assert (result.failure.step, result.failure.explanation) == (
        "replace",
        "no answer within 0.01 s",
    )


class Away(Passing):
    async def create(self, key, content):
        raise StoreUnavailable("connection refused")


def test_an_unavailable_store_is_neither_usable_nor_refused():
    result = probed(Away())

    assert (result.refusal, verdicts(result)) == (None, {"create": "failed"})
    assert not result.usable


@dataclass
class Shows(Passing):
    """An adapter that shows the behaviour of its server alone."""

    compares_digests: bool = True
    compares_versions: bool = True

    async def refuses_damage(self, key: str) -> bool:
        if not self.compares_digests:
            await self.inner.create(key, Content(b"damaged"))
        return self.compares_digests

    async def refuses_stale_deletion(self, key: str, version: Version) -> bool:
        if not self.compares_versions:
            await DeletesAnything(self.inner).delete(key, version)
        return self.compares_versions


@pytest.mark.parametrize(("digests", "checksum"), [(True, "ok"), (False, "note")])
@pytest.mark.parametrize(("versions", "deletion"), [(True, "ok"), (False, "unsupported")])
def test_the_behaviour_of_a_server_without_adapter_precautions_is_reported(
    digests, checksum, versions, deletion
):
    store = Shows(compares_digests=digests, compares_versions=versions)

    result = asyncio.run(probe(store, InlineRuntime(), bare=store))

    assert verdicts(result)["checksum"] == checksum
    assert verdicts(result)["delete stale"] == deletion
    assert result.usable
    assert keys(store.inner) == []


def test_a_damaged_leftover_that_cannot_be_deleted_is_not_a_reason_to_refuse():
    store = Shows(compares_digests=False)
    asyncio.run(
        store.create(f"{PREFIX}{InlineRuntime('').random_id()[:2]}-damaged", Content(b"damaged"))
    )

    result = asyncio.run(probe(store, InlineRuntime(""), bare=store))

    assert (verdicts(result)["checksum"], result.usable) == ("note", True)


@dataclass
class OtherClock(Passing):
    ahead: float = 0

    async def scan(self, prefix):
        later = timedelta(seconds=self.ahead)
        return Listing(
            tuple(
                replace(entry, modified=entry.modified + later)
                for entry in await self.inner.scan(prefix)
            )
        )


@pytest.mark.parametrize(
    ("ahead", "reported"), [(59, None), (90, "90 s ahead of"), (-3600, "3600 s behind")]
)
def test_a_clock_difference_is_reported(ahead, reported):
    result = probed(OtherClock(ahead=ahead))

    listing = next(finding for finding in result.findings if finding.step == "list")
    assert result.ahead == ahead
    assert result.usable
    assert listing.verdict is (Verdict.OK if reported is None else Verdict.NOTE)
    assert (reported or "time") in listing.explanation

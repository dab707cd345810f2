"""Collection and recovery on real servers with signatures, followed by a reader with a policy that
has seen everything.

Released publications are deleted there. A pointer that is missing, or was restored from a backup,
is rebuilt above every sequence that a reader may have seen, and publishing continues.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from daemon.publishing import layout
from daemon.publishing.errors import PointerLost, SequenceWentBack
from daemon.publishing.live_tree.results import FinishedPass
from daemon.publishing.maintenance.garbage_collector import Collected, GarbageCollector
from daemon.publishing.maintenance.recovery import Recoverer, Recovery
from daemon.publishing.maintenance.recovery_rules import RecoveryOptions
from daemon.publishing.maintenance.retention_rules import RetentionPolicy
from daemon.publishing.operator_commands import rollback
from daemon.publishing.trust import keys
from daemon.publishing.trust.policy import TrustedKey, TrustPolicy
from daemon.runtime import Runtime
from daemon.stores.port import Content, ObjectStore
from tests.builders_publishing import SCOPE, Bucket, make_state, tree
from tests.builders_runtime import ThreadRuntime
from tests.contract.servers import ACCESS_KEY, SECRET_KEY, SERVERS, Opens
from tests.services.availability import available

pytestmark = pytest.mark.slow

OVERRIDE = layout.live_tree(SCOPE, "example/conf/bundle/.env")
NOTHING_KEPT_LONG = RetentionPolicy(newest=1, days=0, dropped_days=0, grace_hours=0)


@pytest.fixture(scope="module", params=SERVERS, ids=lambda server: server.name)
def opens(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Opens]:
    with ExitStack() as stack:
        yield available(
            lambda: request.param.start(stack, tmp_path_factory.mktemp(request.param.name))
        )


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


@dataclass(frozen=True)
class Tended:
    """A scope on a server: its writer, and a reader that requires signatures and remembers what it
    accepted.
    """

    store: ObjectStore
    runtime: Runtime
    writer: Bucket
    watcher: Bucket

    async def publish(self, *numbers: int) -> None:
        for number in numbers:
            await self.writer.publish(make_state(number))
            assert isinstance(await self.writer.live_tree.reconcile(SCOPE), FinishedPass)
        await self.seen(f"state-{numbers[-1]}")

    async def seen(self, live: str) -> int:
        """The sequence that the reader accepts, with every retained state in full."""
        pointer = (await self.watcher.reader.existing(SCOPE)).pointer
        assert pointer.live is not None
        assert pointer.live.state == live
        for publication in pointer.retained:
            await self.watcher.reader.files(SCOPE, publication)
        assert (await self.writer.live_tree.survey(SCOPE)).synced
        return pointer.sequence

    async def collect(self, policy: RetentionPolicy = NOTHING_KEPT_LONG) -> Collected:
        collector = GarbageCollector(
            self.store, self.writer.reader, self.writer.publisher, self.runtime, policy
        )
        collected = await collector.collect(SCOPE, "ann", "room")
        await self.writer.live_tree.reconcile(SCOPE)
        return collected

    async def recover(self) -> Recovery:
        parts = self.writer.reader, self.writer.publisher, self.writer.live_tree
        return await Recoverer(self.store, *parts).recover(
            SCOPE, RecoveryOptions(None, hold=False), "ann", "it was lost"
        )

    async def states(self) -> Sequence[str]:
        return await self.store.folders(layout.states(SCOPE))


async def tended(store: ObjectStore, runtime: Runtime, folder: Path) -> Tended:
    private, public = keys.generate()
    key = folder / "key"
    key.write_text(private)
    key.chmod(0o600)
    policy = TrustPolicy(
        keys=(
            TrustedKey(
                keyid=public.keyid, public=public.pem, roles=("publish", "pointer"), scopes=("*",)
            ),
        )
    )
    writer = Bucket(store, runtime, signers=[keys.load(key)])
    scope = Tended(store, runtime, writer, Bucket(store, runtime, trust=policy))
    await scope.publish(1, 2, 3)
    override = await store.get(OVERRIDE)
    await store.replace(OVERRIDE, Content(b"# ours\n"), override.version)
    return scope


def test_collected_publications_are_gone_and_the_rest_is_unchanged(
    opens: Opens, tmp_path: Path
) -> None:
    async def scenario(scope: Tended) -> None:
        before = await tree(scope.store)
        kept = await scope.collect(RetentionPolicy(newest=1, days=0))
        assert (len(kept.released), kept.deleted) == (2, ()), (
            "the server's clock says that they are new"
        )
        assert await scope.states() == ["state-1", "state-2", "state-3"]

        collected = await scope.collect()

        assert sorted(deletable.folder.id.state for deletable in collected.deleted) == [
            "state-1",
            "state-2",
        ]
        assert collected.size > 0
        assert await scope.states() == ["state-3"]
        assert await tree(scope.store) == before
        await scope.seen("state-3")
        await scope.publish(4)
        assert (await scope.store.get(OVERRIDE)).body == b"# ours\n"
        assert (await scope.collect(RetentionPolicy())).deleted == ()

    play(scenario, opens, tmp_path)


def test_a_missing_pointer_is_rebuilt_above_every_sequence_that_was_seen(
    opens: Opens, tmp_path: Path
) -> None:
    async def scenario(scope: Tended) -> None:
        sequence = await scope.seen("state-3")
        pointer = await scope.store.get(layout.pointer(SCOPE))
        await scope.store.delete(layout.pointer(SCOPE), pointer.version)
        with pytest.raises(PointerLost):
            await scope.writer.live_tree.refuse_lost_pointer(SCOPE)

        recovery = await scope.recover()

        assert recovery.damage is not None
        assert await scope.seen("state-3") > sequence
        assert [publication.state for publication in (await scope.writer.pointer()).retained] == [
            "state-1",
            "state-2",
            "state-3",
        ]
        await scope.publish(4)
        await scope.writer.operations.carry_out(SCOPE, rollback("state-1"), "ann", "worse")
        await scope.seen("state-1")
        assert (await scope.store.get(OVERRIDE)).body == b"# ours\n"

    play(scenario, opens, tmp_path)


def test_a_pointer_from_a_backup_is_refused_and_recovered_without_the_missing_states(
    opens: Opens, tmp_path: Path
) -> None:
    async def scenario(scope: Tended) -> None:
        backup = await scope.store.get(layout.pointer(SCOPE))
        await scope.collect()
        await scope.publish(4)
        sequence = await scope.seen("state-4")
        newest = await scope.store.get(layout.pointer(SCOPE))
        await scope.store.replace(
            layout.pointer(SCOPE), Content(backup.body, tag=backup.tag), newest.version
        )
        with pytest.raises(SequenceWentBack):
            await scope.seen("state-3")

        await scope.recover()

        assert await scope.seen("state-4") > sequence
        assert [publication.state for publication in (await scope.writer.pointer()).retained] == [
            "state-3",
            "state-4",
        ]
        await scope.publish(5)
        assert (await scope.store.get(OVERRIDE)).body == b"# ours\n"

    play(scenario, opens, tmp_path)


def play(scenario: Callable[[Tended], Awaitable[None]], opens: Opens, folder: Path) -> None:
    async def run() -> None:
        with ThreadRuntime(16) as runtime, closing(opens(runtime, f"team/{uuid4().hex}")) as store:
            await scenario(await tended(store, runtime, folder))

    asyncio.run(asyncio.wait_for(run(), 120))

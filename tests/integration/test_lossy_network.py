"""Publications on real servers, through the real SDKs, while requests and answers are lost.

One scenario runs with a fault at each kind of request: a scope is created, published twice more,
and has an override of an operator. With any fault, each state is committed exactly once, no writer
mistakes its own success for a loss, nothing immutable is written twice, the override stays byte for
byte, and the next try repairs the rest. The same holds if requests reach the server after their
client has given up. The results are read directly from the server.
"""

import asyncio
import gc
import itertools
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

from daemon.bucket import Bucket, bucket_on, open_store
from daemon.publishing import layout, operator_commands, pointer, protocol
from daemon.publishing.live_tree.results import FinishedPass
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.pointer import MOST_HISTORY, Pointer
from daemon.publishing.protocol import Writing
from daemon.publishing.reader import Reader
from daemon.stores.errors import StoreError
from daemon.stores.gcs import GcsStore
from daemon.stores.port import Content, ObjectStore
from events.model import Event, OutcomeKind
from renderers.bundle import Renderer
from tests.builders_runtime import ThreadRuntime
from tests.services import gcs, testbench, versitygw
from tests.services.availability import available
from tests.support.crashes import check_history, read_whole
from tests.support.lossy_network import (
    Applied,
    Dialect,
    Fault,
    LossyNetwork,
    Operation,
    Reply,
    lossy_network,
)
from tests.support.scenes import GOLDEN, Scene, open_scene, state_event

pytestmark = [
    pytest.mark.slow,
    # google-cloud-storage leaves the response to a failed download open until it is collected.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

OVERRIDE = "example/conf/bundle/.env"
OVERRIDDEN = b"# ours, not yours\nSERVING_101_CPU_LIMIT=7\n"
_CALL_SECONDS = 30.0
_SHORT_CALL_SECONDS = 2.0
"""For tests in which calls reach their limit.

In others no call may, on the slowest machine: each is counted.
"""
_SILENCE_SECONDS = 3.0
_RENDERER = Renderer()


@dataclass(frozen=True, slots=True)
class Server:
    """A real server, with a bucket and a folder per test."""

    dialect: Dialect
    address: str

    def url(self, folder: str, address: str) -> str:
        """The bucket's URL through an address."""
        scheme, region = ("s3", "&region=us-east-1") if self.dialect is Dialect.S3 else ("gs", "")
        return f"{scheme}://lossy/{folder}?endpoint={address}{region}"


def _versitygw(stack: ExitStack, folder: Path) -> Server:
    address = available(lambda: stack.enter_context(versitygw.versitygw(folder)))
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
    client.create_bucket(Bucket="lossy")
    client.close()
    return Server(Dialect.S3, address)


def _fake_gcs_server(stack: ExitStack, folder: Path) -> Server:
    return _gcs(available(lambda: stack.enter_context(gcs.gcs(folder))))


def _testbench(stack: ExitStack, folder: Path) -> Server:
    return _gcs(available(lambda: stack.enter_context(testbench.testbench(folder))))


def _gcs(server: gcs.Gcs) -> Server:
    server.create_bucket("lossy")
    return Server(Dialect.GCS, server.address)


SERVERS = {
    "versitygw": _versitygw,
    "fake-gcs-server": _fake_gcs_server,
    "storage-testbench": _testbench,
}
ONE_OF_EACH_KIND = pytest.mark.parametrize(
    "server", ["versitygw", "fake-gcs-server"], indirect=True
)


@pytest.fixture(scope="module", params=SERVERS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with ExitStack() as stack, pytest.MonkeyPatch.context() as environment:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            environment.delenv(name)
        environment.setenv("AWS_ACCESS_KEY_ID", versitygw.ACCESS_KEY)
        environment.setenv("AWS_SECRET_ACCESS_KEY", versitygw.SECRET_KEY)
        yield SERVERS[request.param](stack, tmp_path_factory.mktemp("server"))


Opened = Callable[..., Bucket]
"""Opens the bucket that a URL names."""


@dataclass(frozen=True, slots=True)
class Play:
    """A daemon behind the lossy network, and the same bucket without it."""

    network: LossyNetwork
    url: str
    opened: Opened
    direct: Bucket
    scene: Scene
    call_seconds: float

    @asynccontextmanager
    async def joined_by(self, journal: Path) -> AsyncIterator["Play"]:
        """One more daemon on the bucket, without any cache."""
        async with daemon(self.opened, self.url, journal, self.call_seconds) as scene:
            yield replace(self, scene=scene)

    async def publish(self, *revisions: int) -> None:
        """States, one after the other, each until nothing waits in the journal."""
        for revision in revisions:
            [outcome] = await self.scene.send(state(revision))
            assert (outcome.kind, outcome.state) == (OutcomeKind.PUBLISHED, f"state-{revision}")

    async def until_in_step(self) -> None:
        """Passes over the live tree, like those of the timer, until one finds nothing to do."""
        for _ in range(10):
            try:
                result = await self.scene.pipeline.reconcile(GOLDEN)
            except StoreError as error:
                print("a pass has failed:", error)
                continue
            if isinstance(result, FinishedPass) and not result.written:
                return
        raise AssertionError("the live tree does not come into step")

    async def override(self) -> None:
        """An operator edits a file of example/."""
        key = layout.live_tree(GOLDEN, OVERRIDE)
        await self.direct.store.replace(
            key, Content(OVERRIDDEN), (await self.direct.store.get(key)).version
        )

    async def pin(self) -> None:
        """Another writer moves the pointer meanwhile."""
        done = await self.direct.operations.carry_out(
            GOLDEN, operator_commands.pin("state-1", pinned=True), "rival"
        )
        assert done.changed


def state(revision: int, contents: int | None = None) -> Event:
    """A state with the contents of its own number, or of another one.

    Odd ones have a model more than even ones. It brings a file of base/, and changes one of
    example/. The compose file of each differs: on S3 a condition does not refuse a late write
    once the contents that it expects are back.
    """
    contents = contents or revision
    event = state_event(revision, version=str(contents))
    event.data["models"][-1]["serving"] |= {"start_period": 60 + contents}
    if contents % 2:
        event.data["models"][0]["serving"] |= {"batching": {"parameters": {"max_batch_size": 64}}}
    else:
        del event.data["models"][0]
    return event


@asynccontextmanager
async def playing(server: Server, journal: Path, call_seconds: float) -> AsyncIterator[Play]:
    folder = uuid4().hex
    async with (
        lossy_network(server.address, server.dialect, _SILENCE_SECONDS) as network,
        clients() as opened,
    ):
        direct = opened(server.url(folder, server.address))
        url = server.url(folder, network.address)
        async with daemon(opened, url, journal, call_seconds) as scene:
            yield Play(network, url, opened, direct, scene, call_seconds)


@asynccontextmanager
async def daemon(
    opened: Opened, url: str, journal: Path, call_seconds: float
) -> AsyncIterator[Scene]:
    bucket = opened(url, call_seconds=call_seconds)
    async with open_scene(journal, bucket.store, renderer=_RENDERER) as scene:
        yield scene


@asynccontextmanager
async def clients() -> AsyncIterator[Opened]:
    """Opens buckets.

    At the end, it waits until all repeated requests of their SDKs are answered.
    """
    runtime = ThreadRuntime(32)
    stores: list[ObjectStore] = []

    def keep(store: ObjectStore) -> ObjectStore:
        stores.append(store)
        return store

    def opened(url: str, **options: float) -> Bucket:
        return bucket_on(
            open_store(url, runtime, gcs_write_seconds=0, around=keep, **options), runtime
        )

    try:
        yield opened
    finally:
        await asyncio.to_thread(runtime.close)
        for item in stores:
            if isinstance(item, GcsStore):
                item.close()
        gc.collect()


def play(
    server: Server,
    tmp_path: Path,
    script: Callable[[Play], Awaitable[None]],
    *,
    call_seconds: float = _CALL_SECONDS,
) -> None:
    async def run() -> None:
        async with (
            asyncio.timeout(120),
            playing(server, tmp_path / "journal.db", call_seconds) as played,
        ):
            try:
                await script(played)
            finally:
                print(*played.network.passed, sep="\n")

    asyncio.run(run())


# ---- required results, read from the server


async def check(played: Play, *revisions: int, others: int = 0, conflicts: int = 0) -> None:
    """Checks that these states and so many other changes are committed once each, and that all is
    whole and synced.
    """
    reader = Reader(played.direct.store, played.direct.runtime)
    current = (await reader.existing(GOLDEN)).pointer
    entries = await reader.history(current)
    states = [name.partition("@")[0] for entry in entries for name in entry.published]
    assert states == [f"state-{revision}" for revision in revisions]
    assert current.sequence == len(revisions) + others
    assert len({entry.write_id for entry in entries}) == len(entries)
    await check_history(reader, current)
    assert await read_whole(played.direct.store, played.direct.runtime) == current

    assert len(played.network.writes("*/pointer.json")) == len(revisions)
    assert played.scene.watcher.conflicts == conflicts
    immutable = Counter(
        write.key for keys in ("*/states/*", "*/history/*") for write in played.network.writes(keys)
    )
    assert set(immutable.values()) == {1}

    backlog = await played.scene.journal.backlog()
    assert (backlog.events, await played.scene.journal.dead_letters()) == (0, ())
    await check_live_tree(played, reader, current)


async def check_live_tree(played: Play, reader: Reader, current: Pointer) -> None:
    """Reads every file, without trusting the marker and the tags."""
    assert current.live is not None
    prefix = layout.live_tree(GOLDEN)
    files = {file.path: file.body for file in await reader.files(GOLDEN, current.live)} | {
        OVERRIDE: OVERRIDDEN
    }
    there = {entry.key.removeprefix(prefix) for entry in await played.direct.store.scan(prefix)}
    assert there == {*files, layout.MARKER}
    for path, body in files.items():
        assert (await played.direct.store.get(prefix + path)).body == body, path
    survey = await LiveTree(played.direct.store, reader, played.direct.runtime).survey(GOLDEN)
    assert survey.synced
    assert survey.report.overrides == (OVERRIDE,)


# ---- one fault at one request

PUBLICATION = ("*/states/*/bundle.tar.gz", "*/states/*/manifest.json")
POINTER = "*/pointer.json"
MARKER = "*/docker-compose-gen/.rebundle.json"
COMPOSE = "*/docker-compose-gen/base/bundle/docker-compose.yaml"
EXAMPLE = f"*/docker-compose-gen/{OVERRIDE}"
REMOVED = "*/docker-compose-gen/base/bundle/batching_101.txt"

FAULTS_OF_WRITES = [
    Fault(Applied.FIRST, Reply.RESET),
    Fault(Applied.FIRST, Reply.UNAVAILABLE),
    Fault(Applied.FIRST, Reply.FAILED),
    Fault(Applied.FIRST, Reply.SILENCE),
    Fault(Applied.FIRST, Reply.REFUSED),
    Fault(Applied.NEVER, Reply.RESET),
    Fault(Applied.NEVER, Reply.UNAVAILABLE),
    Fault(Applied.NEVER, Reply.BUSY),
    Fault(Applied.NEVER, Reply.CONFLICT),
    Fault(Applied.NEVER, Reply.SILENCE),
    Fault(Applied.BEFORE_THE_NEXT, Reply.RESET),
    Fault(Applied.WHEN_RELEASED, Reply.RESET),
    Fault(Applied.WHEN_RELEASED, Reply.UNAVAILABLE),
]


def _named(fault: Fault) -> str:
    return f"{fault.reply}-applied-{fault.applied}"


@pytest.mark.parametrize(
    ("server", "fault"),
    [
        pytest.param(server, fault, id=f"{server}-{_named(fault)}")
        for server, fault in itertools.product(SERVERS, FAULTS_OF_WRITES)
        # The third one differs from the second by its conditional deletions, which late requests
        # meet.
        if server != "storage-testbench"
        or fault.applied in {Applied.BEFORE_THE_NEXT, Applied.WHEN_RELEASED}
    ],
    indirect=["server"],
)
def test_every_kind_of_write_survives_faults(server: Server, tmp_path: Path, fault: Fault) -> None:
    async def script(played: Play) -> None:
        network = played.network
        rules = [
            network.on(Operation.CREATE, keys, fault)
            for keys in (*PUBLICATION, POINTER, MARKER, COMPOSE, EXAMPLE)
        ]
        await played.publish(1)
        await played.until_in_step()
        assert [rule.met for rule in rules] == [1] * len(rules)

        rules = [network.on(Operation.CREATE, keys, fault) for keys in PUBLICATION]
        rules += [
            network.on(Operation.REPLACE, keys, fault)
            for keys in (POINTER, MARKER, COMPOSE, EXAMPLE)
        ]
        rules.append(network.on(Operation.DELETE, REMOVED, fault))
        await played.publish(2)
        await played.until_in_step()
        assert [rule.met for rule in rules] == [1] * len(rules)

        await played.override()
        await played.publish(3)
        late = await network.release()
        assert not [
            request for request in late if request.wrote and request.operation is Operation.REPLACE
        ]
        await played.until_in_step()
        await check(played, 1, 2, 3)

    play(
        server,
        tmp_path,
        script,
        call_seconds=_SHORT_CALL_SECONDS if fault.reply is Reply.SILENCE else _CALL_SECONDS,
    )


@ONE_OF_EACH_KIND
@pytest.mark.parametrize("reply", [Reply.RESET, Reply.UNAVAILABLE])
def test_a_write_that_an_sdk_gave_up_is_not_assumed_stored(
    server: Server, tmp_path: Path, reply: Reply
) -> None:
    """It is lost as often as an SDK repeats the creation of an object."""

    async def script(played: Play) -> None:
        fault = Fault(Applied.NEVER, reply)
        created = (*PUBLICATION, POINTER, MARKER, COMPOSE, EXAMPLE)
        rules = [played.network.on(Operation.CREATE, keys, fault, times=3) for keys in created]
        await played.publish(1)
        await played.until_in_step()
        assert [rule.met for rule in rules] == [3] * len(rules)

        await played.override()
        await played.publish(2)
        await check(played, 1, 2)

    play(server, tmp_path, script, call_seconds=_SHORT_CALL_SECONDS)


@ONE_OF_EACH_KIND
def test_a_file_that_a_late_write_recreates_is_removed_again(
    server: Server, tmp_path: Path
) -> None:
    """No condition prevents it: the file is absent when the write arrives, as it was when it was
    sent.
    """

    async def script(played: Play) -> None:
        # An SDK does not repeat a refused request.
        rule = played.network.on(
            Operation.CREATE, REMOVED, Fault(Applied.WHEN_RELEASED, Reply.REFUSED)
        )
        await played.publish(1)
        await played.until_in_step()
        assert rule.met == 1

        await played.override()
        removed = Fault(Applied.FIRST, Reply.TRUTH, after=played.network.release)
        rule = played.network.on(Operation.DELETE, REMOVED, removed)
        await played.publish(2)
        assert rule.met == 1
        assert [write.operation for write in played.network.writes(REMOVED)][:3] == [
            "create",
            "delete",
            "create",
        ]
        await check(played, 1, 2)

    play(server, tmp_path, script)


@pytest.mark.parametrize("server", ["versitygw"], indirect=True)
def test_a_late_write_is_overwritten_where_the_contents_that_it_expects_are_back(
    server: Server, tmp_path: Path
) -> None:
    """An ETag of S3 is that of the contents, so the condition does not refuse the write."""

    async def script(played: Play) -> None:
        await played.publish(1)
        await played.until_in_step()
        late = Fault(Applied.WHEN_RELEASED, Reply.UNAVAILABLE)
        rule = played.network.on(Operation.REPLACE, COMPOSE, late)
        await played.publish(2)
        await played.until_in_step()
        assert rule.met == 1

        await played.override()
        [outcome] = await played.scene.send(state(3, contents=1))
        assert (outcome.kind, outcome.state) == (OutcomeKind.PUBLISHED, "state-3")
        assert [request.wrote for request in await played.network.release()] == [True]
        await played.until_in_step()
        await check(played, 1, 2, 3)

    play(server, tmp_path, script)


@ONE_OF_EACH_KIND
def test_an_edit_in_the_middle_of_a_pass_is_an_override(server: Server, tmp_path: Path) -> None:
    async def script(played: Play) -> None:
        await played.publish(1)
        # The marker is written after the decision what to write, and before the writes.
        decided = Fault(Applied.FIRST, Reply.TRUTH, after=played.override)
        rule = played.network.on(Operation.REPLACE, MARKER, decided)
        await played.publish(2)
        assert rule.met == 1
        await check(played, 1, 2)
        assert not [
            write
            for write in played.network.writes(EXAMPLE)
            if write.operation is Operation.REPLACE
        ]

    play(server, tmp_path, script)


FAULTS_OF_CHUNKS = [
    fault
    for fault in FAULTS_OF_WRITES
    if fault.reply in {Reply.RESET, Reply.REFUSED, Reply.CONFLICT}
]


@ONE_OF_EACH_KIND
@pytest.mark.parametrize("fault", FAULTS_OF_CHUNKS, ids=_named)
def test_a_chunk_of_history_survives_faults(server: Server, tmp_path: Path, fault: Fault) -> None:
    async def script(played: Play) -> None:
        await played.publish(1)
        await played.override()
        added = await lengthen_history(played.direct)
        rule = played.network.on(Operation.CREATE, "*/history/1-64-*.json", fault)
        await played.publish(2)
        assert rule.met == 1

        await played.network.release()
        await played.until_in_step()
        # The cached pointer of its last write was outdated: the first try has lost, to another
        # writer.
        await check(played, 1, 2, others=added, conflicts=1)
        assert await played.direct.store.folders(f"{GOLDEN}/") == [
            "docker-compose-gen",
            "history",
            "states",
        ]

    play(server, tmp_path, script)


async def lengthen_history(direct: Bucket) -> int:
    """Pins of another writer in one write, as many as a pointer takes without a chunk.

    Returns their number.
    """
    base = await direct.reader.existing(GOLDEN)
    changed = base.pointer
    while len(changed.history) < MOST_HISTORY:
        writing = Writing(f"write-{len(changed.history)}", "2026-01-01T00:00:00.000Z", "rival")
        [target] = changed.retained
        changed = protocol.pin(changed, writing, target, pinned=not target.pinned) or changed
    assert base.version is not None
    await direct.store.replace(
        layout.pointer(GOLDEN), Content(pointer.encode(changed)), base.version
    )
    return changed.sequence - base.pointer.sequence


FAULTS_OF_READS = [
    Fault(Applied.FIRST, Reply.RESET),
    Fault(Applied.FIRST, Reply.UNAVAILABLE),
    Fault(Applied.NEVER, Reply.BUSY),
    Fault(Applied.NEVER, Reply.SILENCE),
]


@ONE_OF_EACH_KIND
@pytest.mark.parametrize("fault", FAULTS_OF_READS, ids=_named)
def test_every_kind_of_read_survives_faults(server: Server, tmp_path: Path, fault: Fault) -> None:
    async def script(played: Play) -> None:
        await played.publish(1)
        await played.override()
        async with played.joined_by(tmp_path / "another.db") as another:
            network = another.network
            rules = [
                network.on(Operation.READ, keys, fault)
                for keys in (POINTER, MARKER, EXAMPLE, *PUBLICATION)
            ]
            rules += [
                network.on(Operation.LIST, keys, fault)
                for keys in ("*/core-versions/docker-compose-gen/", "")
            ]
            await another.until_in_step()
            await another.publish(2)
            await another.until_in_step()
            assert [rule.met for rule in rules[:-1]] == [1] * (len(rules) - 1)
            await check(another, 1, 2)

    play(
        server,
        tmp_path,
        script,
        call_seconds=_SHORT_CALL_SECONDS if fault.reply is Reply.SILENCE else _CALL_SECONDS,
    )


# ---- a write of the pointer, and other writers

LOST_ANSWERS = [Reply.RESET, Reply.UNAVAILABLE, Reply.FAILED, Reply.CONFLICT, Reply.REFUSED]


@ONE_OF_EACH_KIND
@pytest.mark.parametrize("reply", LOST_ANSWERS)
def test_a_writer_that_won_and_was_built_upon_finds_its_write_in_the_lineage(
    server: Server, tmp_path: Path, reply: Reply
) -> None:
    async def script(played: Play) -> None:
        await played.publish(1)
        await played.override()
        rule = played.network.on(
            Operation.REPLACE, POINTER, Fault(Applied.FIRST, reply, after=played.pin)
        )
        await played.publish(2)
        assert rule.met == 1

        await played.until_in_step()
        await check(played, 1, 2, others=1)

    play(server, tmp_path, script)


@ONE_OF_EACH_KIND
@pytest.mark.parametrize("reply", [*LOST_ANSWERS, Reply.TRUTH])
def test_a_writer_that_lost_publishes_once_on_top_of_the_winner(
    server: Server, tmp_path: Path, reply: Reply
) -> None:
    """Some servers answer losers with 409 or 500 (object-store rule 2)."""

    async def script(played: Play) -> None:
        await played.publish(1)
        await played.override()
        fault = Fault(Applied.FIRST, reply, only_losers=True, before=played.pin)
        rule = played.network.on(Operation.REPLACE, POINTER, fault)
        await played.publish(2)
        assert rule.met == 1

        await played.until_in_step()
        await check(played, 1, 2, others=1, conflicts=1)
        assert [publication.pinned for publication in (await played.scene.pointer()).retained] == [
            True,
            False,
        ]

    play(server, tmp_path, script)


@ONE_OF_EACH_KIND
@pytest.mark.parametrize("applied", [Applied.NEVER, Applied.WHEN_RELEASED])
def test_the_next_try_meets_a_write_that_was_given_up(
    server: Server, tmp_path: Path, applied: Applied
) -> None:
    """Sent as often as a publisher sends it, and never answered.

    It arrives, if at all, before the next write.
    """

    async def script(played: Play) -> None:
        network = played.network
        await played.publish(1)
        await played.override()
        rule = network.on(Operation.REPLACE, POINTER, Fault(applied, Reply.RESET), times=4)
        arriving = Fault(Applied.FIRST, Reply.TRUTH, before=network.release)
        network.on(Operation.REPLACE, POINTER, arriving, nth=5)
        await played.publish(2)
        assert rule.met == 4

        await played.until_in_step()
        # The next try has lost to its own earlier one.
        await check(played, 1, 2, conflicts=1 if applied is Applied.WHEN_RELEASED else 0)

    play(server, tmp_path, script)


@ONE_OF_EACH_KIND
def test_the_sdk_times_out_and_the_write_is_found(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's own limit, made short, is reached before that of a call."""
    monkeypatch.setattr("daemon.stores.s3._ONCE_SECONDS", 1.0)
    monkeypatch.setattr("daemon.stores.gcs._ONCE_SECONDS", (3, 1.0))

    async def script(played: Play) -> None:
        await played.publish(1)
        await played.override()
        rules = [
            played.network.on(Operation.REPLACE, keys, Fault(Applied.FIRST, Reply.SILENCE))
            for keys in (POINTER, MARKER)
        ]
        await played.publish(2)
        await played.until_in_step()
        assert [rule.met for rule in rules] == [1, 1]
        await check(played, 1, 2)

    play(server, tmp_path, script)


# ---- a server with a peculiarity


@pytest.mark.parametrize("server", ["versitygw"], indirect=True)
def test_a_server_that_compares_etags_without_quotes_is_published_to(
    server: Server, tmp_path: Path
) -> None:
    """Like Ceph, with the 500 that it returns to half of the losers (object-store rule 3)."""

    async def script(played: Play) -> None:
        played.network.compares_without_quotes = True
        await played.publish(1)
        await played.override()
        fault = Fault(Applied.FIRST, Reply.FAILED, only_losers=True, before=played.pin)
        rule = played.network.on(Operation.REPLACE, POINTER, fault)
        await played.publish(2)
        assert rule.met == 1

        await played.until_in_step()
        await check(played, 1, 2, others=1, conflicts=1)

    play(server, tmp_path, script)

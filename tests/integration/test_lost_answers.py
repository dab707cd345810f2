"""Publishing through a proxy that loses, delays and invents answers, on real servers and through the real SDKs.

A daemon publishes three states; one request of the second (or, for what is only created once, of the first) meets one
fault. Whatever the fault: each event is published once, nothing that was stored changes, operators' files stay, and the
daemon that has met it brings the lane to its end. What was held back reaches the server afterwards. It is judged by
another daemon on the same bucket, and by reading the server without the proxy.

A third of the faults on every machine, all of them by `make contract-long`.
"""

import asyncio
import contextlib
import gc
import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import boto3
import pytest

from daemon.publishing import layout, protocol
from daemon.publishing import pointer as pointers
from daemon.publishing.livetree import Survey
from daemon.publishing.protocol import Writing
from daemon.publishing.reader import Reader
from daemon.stores.gcs import GcsStore
from daemon.stores.limited import LimitedStore
from daemon.stores.port import Content, ObjectStore
from daemon.stores.quoting import QuotingStore
from daemon.stores.s3 import S3Store
from renderers.bundle import Renderer
from tests.builders_runtime import ThreadRuntime
from tests.services import gcs, versitygw
from tests.services.availability import available
from tests.support.crashes import Below
from tests.support.lossy_proxy import ALWAYS, Fault, LossyProxy, Rule, Silence, Told, When, lossy_proxy
from tests.support.scenes import GOLDEN, Scene, open_scene, state_event

pytestmark = [
    pytest.mark.slow,
    # google-cloud-storage leaves the connection of a download that was answered 503 to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

BUCKET = "lost-answers"
RENDERER = Renderer()
"""One for all: what is rendered is not in question here."""
EVERY_FAULT = "REBUNDLE_EVERY_FAULT" in os.environ
PATIENCE = 1.0
"""Seconds that a daemon waits for an answer here."""
OVERRIDE = f"{GOLDEN}/docker-compose-gen/example/conf/bundle/.env"
OVERRIDDEN = b"# ours, not yours\r\nSERVING_101_CPU_LIMIT=7\n"


@dataclass(frozen=True, slots=True)
class Server:
    """A real one, and how it is spoken to."""

    address: str
    writes: str
    """The method of an upload."""
    listing: str
    """A pattern that only listings match."""
    read: str
    """A pattern that only reads of the pointer match."""
    client: Callable[[str, str, ThreadRuntime], S3Store | GcsStore]
    """By address and prefix."""
    direct: ObjectStore
    """The whole bucket, without the proxy."""

    def below(self, prefix: str) -> ObjectStore:
        """One daemon's part of it."""
        return Below(self.direct, prefix)


def _s3_client(address: str, prefix: str, runtime: ThreadRuntime) -> S3Store:
    return S3Store(BUCKET, prefix, runtime, endpoint=address, region="us-east-1")


def _gcs_client(address: str, prefix: str, runtime: ThreadRuntime) -> GcsStore:
    return GcsStore(BUCKET, prefix, runtime, endpoint=address)


def _direct(
    stack: ExitStack, client: Callable[[str, str, ThreadRuntime], S3Store | GcsStore], address: str
) -> ObjectStore:
    store = client(address, "", stack.enter_context(ThreadRuntime(16)))
    stack.callback(store.close)
    return store


def _versitygw(stack: ExitStack, folder: Path) -> Server:
    address = available(lambda: stack.enter_context(versitygw.versitygw(folder)))
    environ = stack.enter_context(pytest.MonkeyPatch.context())
    environ.setenv("AWS_ACCESS_KEY_ID", versitygw.ACCESS_KEY)
    environ.setenv("AWS_SECRET_ACCESS_KEY", versitygw.SECRET_KEY)
    client = boto3.client("s3", endpoint_url=address, region_name="us-east-1")
    client.create_bucket(Bucket=BUCKET)
    client.close()
    listing, read = r"list-type=2.*docker-compose-gen/", r"/pointer\.json\?"
    return Server(address, "PUT", listing, read, _s3_client, _direct(stack, _s3_client, address))


def _fake_gcs_server(stack: ExitStack, folder: Path) -> Server:
    server = available(lambda: stack.enter_context(gcs.gcs(folder)))
    server.create_bucket(BUCKET)
    listing, read = r"/o\?.*prefix=.*docker-compose-gen/", r"/pointer\.json\?.*alt=media"
    return Server(server.address, "POST", listing, read, _gcs_client, _direct(stack, _gcs_client, server.address))


SERVERS = {"versitygw": _versitygw, "fake-gcs-server": _fake_gcs_server}


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ExitStack() as stack:
        yield SERVERS[request.param](stack, tmp_path_factory.mktemp("server"))
    gc.collect()  # while the warning of what is left behind is not an error


# ---- what is hit, and by what

FIRST_WRITES = {
    "pointer create": r"/pointer\.json\?",
    "archive create": r"/bundle\.tar\.gz\?",
    "manifest create": r"/manifest\.json\?",
    "marker create": r"/docker-compose-gen/\.rebundle\.json\?",
    "live tree create": r"/docker-compose-gen/base/bundle/docker-compose\.yaml\?",
}
LATER_WRITES = {
    "pointer replace": r"/pointer\.json\?",
    "marker replace": r"/docker-compose-gen/\.rebundle\.json\?",
    "live tree replace": r"/docker-compose-gen/base/bundle/docker-compose\.yaml\?",
    "history chunk": r"/history/\d+\.json\?",
}
SILENCES = {
    f"{told.name.lower()} {when.name.lower()}": Fault(when, told)
    for told, when in itertools.product(Silence, When)
    if (told, when) != (Silence.STALL, When.LATE)
}
WRITE_FAULTS = SILENCES | {
    "503 before": Fault(When.BEFORE, Told(503, "ServiceUnavailable")),
    "503 after": Fault(When.AFTER, Told(503, "ServiceUnavailable")),
    "500 late": Fault(When.LATE, Told(500)),
    "409": Fault(When.BEFORE, Told(409, "ConditionalRequestConflict")),
    "429": Fault(When.BEFORE, Told(429, "TooManyRequests")),
    "slow down": Fault(When.BEFORE, Told(503, "SlowDown")),
    "own success as 412": Fault(When.AFTER, Told(412, "PreconditionFailed")),
}
READ_FAULTS = {
    "reset": Fault(When.BEFORE, Silence.RESET),
    "stall": Fault(When.BEFORE, Silence.STALL),
    "503": Fault(When.BEFORE, Told(503, "ServiceUnavailable")),
    "slow down": Fault(When.BEFORE, Told(503, "SlowDown")),
}


def grid(kinds: Mapping[str, str]) -> pytest.MarkDecorator:
    """Each fault at each request on each server; unless there is time for all, a third and a pointer that comes late."""
    cells = itertools.product(enumerate(SERVERS), enumerate(kinds), enumerate(WRITE_FAULTS))
    chosen = [
        pytest.param(server, kind, fault, id=f"{server}-{kind}-{fault}")
        for (row, server), (column, kind), (number, fault) in cells
        if EVERY_FAULT or (row + column + number) % 3 == 0 or ("pointer" in kind and "late" in fault)
    ]
    return pytest.mark.parametrize(("server", "kind", "fault"), chosen, indirect=["server"])


@grid(FIRST_WRITES)
def test_a_fault_at_the_first_publication(server: Server, kind: str, fault: str, tmp_path: Path) -> None:
    rule = Rule(server.writes, FIRST_WRITES[kind], WRITE_FAULTS[fault])

    asyncio.run(story(server, tmp_path, at_first=(rule,)))


@grid(LATER_WRITES)
def test_a_fault_at_a_later_publication(server: Server, kind: str, fault: str, tmp_path: Path) -> None:
    rule = Rule(server.writes, LATER_WRITES[kind], WRITE_FAULTS[fault])

    asyncio.run(story(server, tmp_path, later=(rule,), with_long_history=kind == "history chunk"))


@pytest.mark.parametrize("fault", READ_FAULTS)
@pytest.mark.parametrize("kind", ["pointer", "list"])
def test_a_fault_at_a_read(server: Server, kind: str, fault: str, tmp_path: Path) -> None:
    rule = Rule("GET", server.read if kind == "pointer" else server.listing, READ_FAULTS[fault])

    asyncio.run(story(server, tmp_path, later=(rule,)))


@pytest.mark.parametrize("fault", ["reset late", "reset after", "stall before"] if EVERY_FAULT else ["reset late"])
def test_four_lost_answers_in_a_row_leave_it_open_and_the_next_try_of_the_lane_finds_out(
    server: Server, fault: str, tmp_path: Path
) -> None:
    """As many as a publisher sends before it gives up: the same write may reach the server four times, afterwards."""
    rule = Rule(server.writes, LATER_WRITES["pointer replace"], WRITE_FAULTS[fault], times=4)
    # Where it was applied, reading it back would tell.
    unreadable = Rule("GET", server.read, Fault(When.BEFORE, Told(503)), times=ALWAYS, once=rule)
    rules = (rule, unreadable) if fault == "reset after" else (rule,)

    asyncio.run(story(server, tmp_path, later=rules, freed_after=4))


def test_a_loser_who_is_told_500_is_a_loser(server: Server, tmp_path: Path) -> None:
    """Ceph tells half of them that (object-store protocol 1.1)."""

    async def play() -> None:
        async with lossy_proxy(server.address) as proxy:
            proxy.rules.append(
                Rule(server.writes, r"/pointer\.json\?", Fault(When.AFTER, Told(500)), times=ALWAYS, upon=412)
            )
            prefix = uuid4().hex
            async with daemon(server, proxy, prefix, tmp_path / "a.db") as one:
                await one.send(state_event(1))
                async with daemon(server, proxy, prefix, tmp_path / "b.db") as other:
                    await other.pipeline.reconcile(GOLDEN)
                    # Its next publication builds on the pointer of its last own write, which another one has replaced.
                    await other.send(state_event(2, version="7"))
                    outcomes = await one.send(state_event(3, version="8"))
            assert [str(each.kind) for each in outcomes] == ["published"]
            assert sum(rule.hits for rule in proxy.rules) > 0
        await judge(server, prefix, tmp_path / "judge.db", ["state-1", "state-2", "state-3"])

    asyncio.run(play())


def test_a_server_that_compares_etags_without_quotes_is_published_to(tmp_path: Path) -> None:
    """Ceph's way, played by the proxy: whatever comes in quotes does not match (object-store protocol 1.1)."""

    async def play(server: Server) -> None:
        async with lossy_proxy(server.address) as proxy:
            quirk = Rule(
                "PUT", "", Fault(When.BEFORE, Told(412, "PreconditionFailed")), times=ALWAYS, header='if-match: "'
            )
            proxy.rules.append(quirk)
            prefix = uuid4().hex
            with ThreadRuntime(16) as runtime:
                quoted = S3Store(BUCKET, prefix, runtime, endpoint=proxy.address, region="us-east-1")
                store = QuotingStore(quoted, quoted.unquoted(), runtime)
                async with open_scene(tmp_path / "journal.db", store, renderer=RENDERER) as scene:
                    outcomes = await scene.send(state_event(1)) + await scene.send(state_event(2, version="7"))
                quoted.close()
            assert [str(each.kind) for each in outcomes] == ["published", "published"]
            assert quirk.hits > 0
        await judge(server, prefix, tmp_path / "judge.db", ["state-1", "state-2"])

    with ExitStack() as stack:
        asyncio.run(play(_versitygw(stack, tmp_path)))


# ---- the story, and its judge


async def story(
    server: Server,
    folder: Path,
    *,
    at_first: tuple[Rule, ...] = (),
    later: tuple[Rule, ...] = (),
    with_long_history: bool = False,
    freed_after: int | None = None,
) -> None:
    """Three publications through the proxy, with an operator's file after the first, and what must be true afterwards.

    `freed_after`: when a rule has hit so often, what was held is let go, and the rules end.
    """
    prefix = uuid4().hex
    async with lossy_proxy(server.address) as proxy:
        proxy.rules.extend(at_first)
        async with daemon(server, proxy, prefix, folder / "journal.db") as scene:
            first = await scene.send(state_event(1))
            before = await stored_states(server, prefix)
            await override(server, prefix)
            if with_long_history:
                await lengthen_history(server, prefix)
            proxy.rules.extend(later)
            if freed_after is not None:
                second = await sent_and_freed(scene, proxy, later[0], freed_after)
            else:
                second = await scene.send(state_event(2, version="7"))
            # What was held back comes after a third state: there it must find nothing that it may replace.
            third = await scene.send(state_event(3, version="8"))
            # Who makes the history long is another writer, once.
            assert scene.watcher.conflicts == int(with_long_history), "a false LOST"
        assert [str(each.kind) for each in first + second + third] == ["published"] * 3
        assert all(rule.hits for rule in (*at_first, *later)), "a fault that never came proves nothing"
    if freed_after is None and any("pointer" in rule.pattern for rule in (*at_first, *later)):
        assert 200 not in proxy.late_answers, "a pointer that came late was written over a newer one"
    after = await stored_states(server, prefix)
    assert {key: after[key] for key in before} == before, "states never change"
    await judge(server, prefix, folder / "judge.db", ["state-1", "state-2", "state-3"])
    assert (await server.below(prefix).get(OVERRIDE)).body == OVERRIDDEN


async def sent_and_freed(scene: Scene, proxy: LossyProxy, rule: Rule, hits: int) -> list[Any]:
    async def free() -> None:
        while rule.hits < hits or not scene.watcher.failures:  # noqa: ASYNC110  # the proxy tells nobody
            await asyncio.sleep(0.01)
        proxy.rules.clear()
        await proxy.release()

    async with asyncio.TaskGroup() as group:
        sending = group.create_task(scene.send(state_event(2, version="7")))
        group.create_task(free())
    return sending.result()


@contextlib.asynccontextmanager
async def daemon(server: Server, proxy: LossyProxy, prefix: str, journal: Path) -> AsyncIterator[Scene]:
    """One that sees the server through the proxy. At its end all that its SDK still does has ended, too."""
    runtime = ThreadRuntime(16)
    client = server.client(proxy.address, prefix, runtime)
    try:
        async with open_scene(journal, LimitedStore(client, PATIENCE), renderer=RENDERER) as scene:
            yield scene
    finally:
        await proxy.release()
        await asyncio.to_thread(runtime.close)
        client.close()


async def stored_states(server: Server, prefix: str) -> dict[str, tuple[str, bytes]]:
    """Version and body of everything below states/."""
    store = server.below(prefix)
    keys = [each.key for each in await store.scan(layout.states(GOLDEN))]
    found = {key: await store.get(key) for key in keys}
    return {key: (str(each.version), each.body) for key, each in found.items()}


async def override(server: Server, prefix: str) -> None:
    store = server.below(prefix)
    await store.replace(OVERRIDE, Content(OVERRIDDEN), (await store.get(OVERRIDE)).version)


async def lengthen_history(server: Server, prefix: str) -> None:
    """As long as it gets without a chunk, a state pinned and unpinned, in one write."""
    store = server.below(prefix)
    key = layout.pointer(GOLDEN)
    stored = await store.get(key)
    pointer = pointers.decode(stored.body, GOLDEN)
    for number in range(protocol.MOST_HISTORY - len(pointer.history)):
        writing = Writing(f"w{number}", "2026-01-01T00:00:00.000Z", "ann", "to and fro")
        [target] = pointer.retained
        pointer = protocol.pin(pointer, writing, target, pinned=not target.pinned) or pointer
    await store.replace(key, Content(pointers.encode(pointer)), stored.version)


async def judge(server: Server, prefix: str, journal: Path, states: list[str]) -> None:
    """Each state committed once, everything whole, the tree as the last one has it: all seen by another daemon."""
    store = server.below(prefix)
    with ThreadRuntime(4) as runtime:
        reader = Reader(store, runtime)
        pointer = (await reader.existing(GOLDEN)).pointer
        entries = [*await reader.history(pointer)]
    committed = [name.partition("@")[0] for entry in entries for name in entry.published]
    assert sorted(committed) == states, "each is committed exactly once"
    sequences = sorted(entry.sequence for entry in entries)
    assert sequences[-1] == pointer.sequence
    assert all(after == before + 1 for before, after in itertools.pairwise(sequences))
    assert len({entry.write for entry in entries}) == len(entries)
    assert pointer.live is not None
    assert pointer.live.state == states[-1]

    async with open_scene(journal, store, renderer=RENDERER) as other:
        await other.pipeline.reconcile(GOLDEN)
        for publication in pointer.retained:
            assert await other.reader.files(GOLDEN, publication)
        surveyed: Survey = await other.live_tree.survey(GOLDEN)
        assert surveyed.in_step
        wanted = {each.path: each.body for each in await other.reader.files(GOLDEN, pointer.live)}
    folder = layout.live_tree(GOLDEN, "base/")
    base = {each.key for each in await store.scan(folder)}
    assert base == {layout.live_tree(GOLDEN, path) for path in wanted if path.startswith("base/")}
    for key in base:
        assert (await store.get(key)).body == wanted[key.removeprefix(layout.live_tree(GOLDEN))]

"""Commands that change live wait for the live tree, and exit 1 if hosts would still copy another
state.
"""

import asyncio
import json

import pytest

from daemon.cli.waiting import lag_of, wait_for
from daemon.publishing import layout, operator_commands
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.publishing.live_tree.sync import LiveTree
from daemon.stores.port import Content
from tests.builders_publishing import SCOPE as MEMORY_SCOPE
from tests.builders_publishing import Bucket, make_state
from tests.builders_runtime import InlineRuntime
from tests.support.buckets import SCOPE, composition_with, in_bucket, pointer
from tests.support.memory_store import MemoryStore

COMPOSE = "base/bundle/docker-compose.yaml"
COMMANDS = {
    "rollback": ("rollback", SCOPE, "state-1", "--reason", "r", "-y"),
    "resume": ("resume", SCOPE, "-y"),
    "quarantine": (
        "quarantine",
        SCOPE,
        "state-3",
        "--reason",
        "r",
        "--rollback-to",
        "state-1",
        "-y",
    ),
    "republish": ("republish", SCOPE),
    "recover": ("recover", SCOPE, "--reason", "r", "--live", "state-1", "-y"),
}


@pytest.fixture
def blocked(bucket):
    """A folder is at the path of a file of base/, so no pass can write that file."""
    path = bucket / str(SCOPE) / "docker-compose-gen" / COMPOSE
    path.unlink()
    path.mkdir()
    (path / "mine.txt").write_text("mine\n")
    return path


def prepared(bucket, name):
    if name == "resume":
        in_bucket(
            bucket,
            lambda it: it.operations.carry_out(SCOPE, operator_commands.rollback("state-1"), "ann"),
        )


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_live_tree_does_not_follow_exits_1_and_names_what_hosts_copy(
    bucket, rebundle, name, request
):
    prepared(bucket, name)
    request.getfixturevalue("blocked")

    result = rebundle(*COMMANDS[name], "--wait", "0.3", "-o", "json")

    assert result.code == 1
    assert COMPOSE in result.json["lag"]["reason"]
    assert COMPOSE in result.json["lag"]["pending"]
    assert "did not follow it within 0.3 s" in result.err
    assert "hosts that copy the live tree now get" in result.err
    assert f"`rebundle status {SCOPE}`" in result.err


@pytest.mark.parametrize("name", COMMANDS)
def test_without_waiting_one_pass_runs_and_the_exit_code_is_that_of_the_pointer(
    bucket, rebundle, name, request
):
    prepared(bucket, name)
    request.getfixturevalue("blocked")

    result = rebundle(*COMMANDS[name], "--wait", "0")

    assert (result.code, "not synced" in result.out) == (0, True), result.err
    assert (result.out + result.err).count("where a file belongs; ") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_a_change_is_reported_as_made_whatever_the_pass_after_it_raises(
    bucket, rebundle, monkeypatch, name
):
    prepared(bucket, name)
    before = pointer(bucket).sequence

    async def failing(*_arguments, **_options):
        raise ValueError("odd")

    monkeypatch.setattr(LiveTree, "reconcile", failing)
    monkeypatch.setattr(LiveTree, "survey", failing)
    result = rebundle(*COMMANDS[name], "--wait", "0.3", "-o", "json")

    after = pointer(bucket).sequence
    assert (result.code, after > before) == (1, True)
    assert result.json["live_tree"]["sequence"] == after
    assert f"committed as sequence {after}" in result.json["lag"]["reason"]
    assert "unexpected ValueError: odd" in result.json["lag"]["reason"]
    assert "the pointer is written, but the live tree did not follow it" in result.err


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_whose_live_tree_follows_exits_0(bucket, rebundle, name):
    prepared(bucket, name)

    result = rebundle(*COMMANDS[name], "-o", "json")

    assert (result.code, result.json["live_tree"]["follows"], result.json["lag"]) == (
        0,
        True,
        None,
    ), result.err


def test_the_same_command_again_waits_again(bucket, rebundle, blocked):
    rebundle(*COMMANDS["rollback"], "--wait", "0")
    (blocked / "mine.txt").unlink()
    blocked.rmdir()

    result = rebundle(*COMMANDS["rollback"], "-o", "json")

    assert (result.code, result.json["changed"], result.json["live_tree"]["follows"]) == (
        0,
        False,
        True,
    )
    assert json.loads((blocked.parents[1] / ".rebundle.json").read_bytes())["state"] == "state-1"


def test_a_blocked_path_of_example_does_not_count(bucket, rebundle):
    tree = bucket / str(SCOPE) / "docker-compose-gen"
    (tree / "example/conf/bundle/batching_103.txt").mkdir()
    in_bucket(bucket, lambda it: it.publish(composition_with("2", "1", "1"), "state-4", 4))

    result = rebundle("republish", SCOPE, "-o", "json")

    assert (result.code, result.json["lag"], result.json["live_tree"]["follows"]) == (
        0,
        None,
        True,
    ), result.err
    assert [blocked["path"] for blocked in result.json["live_tree"]["blocked"]] == [
        "example/conf/bundle/batching_103.txt"
    ]


# -- the wait itself, in virtual time


async def _rolled_back(runtime):
    bucket = Bucket(MemoryStore(runtime), runtime)
    await bucket.publish(make_state(1), make_state(2))
    assert isinstance(await bucket.live_tree.reconcile(MEMORY_SCOPE), FinishedPass)
    base = await bucket.reader.pointer(MEMORY_SCOPE)
    following = operator_commands.rollback("state-1")(base.pointer, bucket.publisher.writing("ann"))
    return bucket, (await bucket.publisher.swap(MEMORY_SCOPE, base, following)).pointer


class _Passes:
    """A live tree whose first passes do not finish."""

    def __init__(self, live_tree, failing):
        self._live_tree = live_tree
        self._failing = failing
        self.passes = 0

    async def follow(self, scope, sequence):
        self.passes += 1
        if self.passes <= self._failing:
            return UnfinishedPass(sequence, "busy")
        return await self._live_tree.follow(scope, sequence)


@pytest.mark.parametrize(
    ("failing", "seconds", "followed"), [(0, 10, True), (3, 10, True), (1000, 10, False)]
)
def test_passes_are_repeated_until_one_follows_or_the_time_is_up(failing, seconds, followed):
    async def run():
        runtime = InlineRuntime()
        bucket, _ = await _rolled_back(runtime)
        passes = _Passes(bucket.live_tree, failing)
        began = runtime.monotonic()
        tree = await wait_for(
            passes, runtime, MEMORY_SCOPE, UnfinishedPass(3, "busy"), seconds=seconds
        )
        return tree, passes.passes, runtime.monotonic() - began

    tree, passes, waited = asyncio.run(run())
    assert tree.follows == followed
    assert passes > failing if followed else passes > 3
    assert waited <= seconds


def test_no_wait_for_a_tree_that_follows_already_or_without_the_option():
    async def run():
        runtime = InlineRuntime()
        passes = _Passes(None, 0)
        done = await wait_for(passes, runtime, MEMORY_SCOPE, FinishedPass(3), seconds=10)
        unwaited = await wait_for(
            passes, runtime, MEMORY_SCOPE, UnfinishedPass(3, "busy"), seconds=0
        )
        return done, unwaited, passes.passes

    assert asyncio.run(run()) == (FinishedPass(3), UnfinishedPass(3, "busy"), 0)


def test_an_unreachable_bucket_ends_the_wait_with_the_result_of_the_last_pass():
    class Hanging:
        async def follow(self, scope, sequence):
            await asyncio.Event().wait()

    async def run():
        runtime = InlineRuntime()
        return await wait_for(
            Hanging(), runtime, MEMORY_SCOPE, UnfinishedPass(3, "busy"), seconds=0.2
        )

    assert asyncio.run(run()) == UnfinishedPass(3, "busy")


def lag_in(stamp):
    async def run():
        runtime = InlineRuntime()
        bucket, pointer = await _rolled_back(runtime)
        key = layout.live_tree(MEMORY_SCOPE, "base/.rebundle.json")
        there = await bucket.store.get(key)
        if stamp is None:
            await bucket.store.delete(key, there.version)
        else:
            await bucket.store.replace(key, Content(stamp), there.version)
        return await lag_of(
            bucket.store, bucket.live_tree, MEMORY_SCOPE, pointer, UnfinishedPass(3, "busy")
        )

    return asyncio.run(run())


def test_hosts_copy_the_state_that_the_stamp_of_base_names():
    lag = lag_in(b'{"state": "state-2"}')
    assert (lag.live, lag.copied) == ("state-1", "state-2")
    assert set(lag.pending) >= {"README.md", "base/docker-compose.yml"}
    assert not any(path.startswith("example/") for path in lag.pending)
    assert (
        "now get state-2, or parts of it, not state-1; paths that differ from state-1: README.md"
        in lag.words
    )
    assert "reason: busy" in lag.words


@pytest.mark.parametrize(
    "stamp",
    [
        b'{"composition":"0","revision":"1","schema":1,"scope":"a/b","state":"state-2"}\n',
        b'{"composition":"0","content":"1","revision":"1","schema":2,"scope":"a/b","services":{%b},'
        b'"state":"state-2"}\n'
        % b",".join(b'"s%ds":{"gpu":null,"model":"%d"}' % (one, one) for one in range(9_999)),
    ],
    ids=["schema 1", "schema 2"],
)
def test_the_stamp_of_every_schema_names_the_state(stamp):
    assert lag_in(stamp).copied == "state-2"


@pytest.mark.parametrize("stamp", [None, b"{]", b"[]", b'{"state": 7}'])
def test_a_base_without_a_stamp_is_an_unknown_state(stamp):
    lag = lag_in(stamp)
    assert lag.copied is None
    assert "files of another state" in lag.words


def test_a_half_written_base_is_a_mixture():
    assert "a mixture of state-1 and another state" in lag_in(b'{"state": "state-1"}').words


def test_a_tree_that_cannot_be_compared_still_reports_why():
    async def run():
        runtime = InlineRuntime()
        bucket, pointer = await _rolled_back(runtime)
        fresh = Bucket(bucket.store, runtime)
        for entry in await bucket.store.scan(layout.states(MEMORY_SCOPE)):
            await bucket.store.delete(entry.key, entry.version)
        return await lag_of(
            fresh.store, fresh.live_tree, MEMORY_SCOPE, pointer, UnfinishedPass(3, "")
        )

    lag = asyncio.run(run())
    assert (lag.pending, "gone from the bucket" in lag.reason) == ((), True)

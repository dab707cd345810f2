"""Single paths of the live tree that cannot be read or written: each has its own result (protocol
5, ADR 18).
"""

import asyncio
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.publishing import layout, protocol
from daemon.publishing.errors import OperationRefused
from daemon.publishing.live_tree.ownership import Blocked, Marker, MarkerFile
from daemon.publishing.live_tree.results import FinishedPass, UnfinishedPass
from daemon.stores.errors import ObjectDamaged, StoreRefused, StoreUnavailable
from daemon.stores.port import Content, ObjectStore
from tests.builders_publishing import SCOPE, Bucket, make_files, make_state, tree
from tests.builders_runtime import InlineRuntime, in_loop
from tests.support.faulty_store import Fault, FaultyStore
from tests.support.live_trees import edit, finished_pass, kept, marker_of, sha256
from tests.support.memory_store import MemoryStore
from tests.support.troubled_store import TroubledStore

README, COMPOSE, SCRIPT = "README.md", "base/docker-compose.yml", "base/bundle/download.sh"
ENV, NEW, CREDS = "example/conf/bundle/.env", "example/conf/new.env", "example/creds/s3.env"
IDLE = [("scan", layout.live_tree(SCOPE)), ("get", layout.pointer(SCOPE))]
RETRY_SECONDS = 300.0
TOO_LARGE = b"\0" * ((8 << 20) + 1)
PROCESSES = count()


@pytest.fixture(params=[False, True], ids=["generations", "versions-by-content"])
def memory(request: pytest.FixtureRequest) -> MemoryStore:
    return MemoryStore(InlineRuntime("store"), versions_by_content=request.param)


@pytest.fixture
def store(memory: MemoryStore) -> TroubledStore:
    return TroubledStore(memory)


@pytest.fixture
def runtime() -> InlineRuntime:
    return InlineRuntime("daemon")


def key_of(path: str) -> str:
    return layout.live_tree(SCOPE, path)


def another_process(store: ObjectStore) -> Bucket:
    return Bucket(store, InlineRuntime(f"other-{next(PROCESSES)}"))


def calls_of(store: FaultyStore) -> list[tuple[str, str]]:
    """Every call from now on."""
    calls: list[tuple[str, str]] = []

    async def note(operation: str, key: str) -> None:
        calls.append((operation, key))

    store.before = note
    return calls


async def two_states(store: ObjectStore, runtime: InlineRuntime, **more: str) -> Bucket:
    """The tree has state-1. state-2 is live and has more files, and the tree does not follow yet."""
    process = Bucket(store, runtime)
    await process.publish(make_state(1))
    await finished_pass(process)
    await process.publish(make_state(2, files=make_files("2", **more)))
    return process


# -- unwritable paths


@pytest.mark.parametrize("path", [NEW, "base/new"])
@in_loop
async def test_a_path_that_cannot_be_created_blocks_no_other(
    store: TroubledStore, memory: MemoryStore, runtime: InlineRuntime, path: str
) -> None:
    process = await two_states(store, runtime, **{NEW: "new\n", "base/new": "new\n"})
    store.unwritable.add(key_of(path))
    result = await finished_pass(process)
    [blocked] = result.blocked
    assert (blocked.path, "move it away" in blocked.reason) == (path, True)
    assert result.follows == path.startswith("example/")
    now = await tree(memory)
    live = {file.path: file.body for file in make_files("2", **{NEW: "new\n", "base/new": "new\n"})}
    assert {key: body for key, body in now.items() if key != CREDS} == {
        key: body for key, body in live.items() if key not in {path, CREDS}
    }
    marker = await marker_of(memory)
    assert (marker.sequence, marker.status, marker.blocked) == (
        2,
        "blocked",
        {path: blocked.reason},
    )
    assert path not in marker.files
    assert {NEW, "base/new"} - {path} <= marker.files.keys()


@in_loop
async def test_deleted_files_stay_deleted_while_another_path_is_blocked(
    store: TroubledStore, memory: MemoryStore, runtime: InlineRuntime
) -> None:
    other = "example/conf/other.env"
    process = await two_states(store, runtime, **{NEW: "new\n", other: "other\n"})
    store.unwritable.add(key_of(NEW))
    await finished_pass(process)
    await edit(memory, other, None)
    for bucket in (process, another_process(store)):
        assert (await finished_pass(bucket)).deleted_by_operator == (other,)
        assert other not in await tree(memory)


@in_loop
async def test_a_file_that_cannot_be_deleted_is_blocked_and_stays_recorded(
    store: TroubledStore, memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = Bucket(store, runtime)
    await process.publish(make_state(1, files=make_files("1", **{"base/old": "old\n"})))
    await finished_pass(process)
    await process.publish(make_state(2))
    store.unwritable.add(key_of("base/old"))
    result = await finished_pass(process)
    assert [blocked.path for blocked in result.blocked] == ["base/old"]
    assert not result.follows
    assert "base/old" in (await marker_of(memory)).files
    store.recover()
    await runtime.sleep(RETRY_SECONDS)
    assert (await finished_pass(process)).follows
    assert "base/old" not in await tree(memory)


@in_loop
async def test_a_blocked_path_is_tried_again_after_minutes_and_costs_nothing_until_then(
    store: TroubledStore, memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime, **{NEW: "new\n"})
    store.unwritable.add(key_of(NEW))
    said = await finished_pass(process)
    calls = calls_of(store)
    assert (await finished_pass(process)).blocked == said.blocked
    assert calls == IDLE

    await runtime.sleep(RETRY_SECONDS)
    store.writes.clear()
    assert (await finished_pass(process)).blocked == said.blocked
    assert store.writes == [], (
        "a retry without a change does not write the marker, so daemons do not wake one another"
    )

    store.recover()
    await runtime.sleep(RETRY_SECONDS)
    assert (await finished_pass(process)).blocked == ()
    assert (await tree(memory))[NEW] == b"new\n"
    marker = await marker_of(memory)
    assert (marker.status, marker.blocked) == ("synced", {})


@in_loop
async def test_a_blocked_path_is_tried_again_as_soon_as_the_listing_changes(
    store: TroubledStore, memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime, **{NEW: "new\n"})
    store.unwritable.add(key_of(NEW))
    await finished_pass(process)
    store.recover()
    await edit(memory, "example/own", b"mine")
    assert NEW in (await finished_pass(process)).written


@in_loop
async def test_an_unavailable_store_ends_the_pass_and_blocks_nothing(
    store: TroubledStore, memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime, **{NEW: "new\n"})
    store.faults = {NEW: [Fault.AWAY]}
    with pytest.raises(StoreUnavailable):
        await process.live_tree.reconcile(SCOPE)
    assert (await marker_of(memory)).status == "updating"
    assert (await finished_pass(process)).blocked == ()


@in_loop
async def test_bytes_that_cannot_be_kept_aside_are_not_replaced(
    store: TroubledStore, memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime)
    await edit(memory, COMPOSE, b"mine")
    store.unwritable.add(layout.replaced(SCOPE, COMPOSE, sha256(b"mine")))
    result = await finished_pass(process)
    assert [blocked.path for blocked in result.blocked] == [COMPOSE]
    now = await tree(memory)
    assert (now[COMPOSE], now[README]) == (b"mine", b"readme 2\n")


@in_loop
async def test_the_marker_has_the_files_that_an_interrupted_pass_wrote(
    memory: MemoryStore, runtime: InlineRuntime
) -> None:
    """A program that rewrites one file of base/ all the time does not cause deleted defaults to
    return.
    """
    process = await two_states(memory, runtime, **{NEW: "new\n"})
    saves = count()

    async def save(operation: str, key: str) -> None:
        if operation == "replace" and key == key_of(COMPOSE):
            await edit(memory, COMPOSE, f"# saved {next(saves)}\n".encode())

    disturbed = Bucket(FaultyStore(memory, before=save), runtime)
    assert isinstance(await disturbed.live_tree.reconcile(SCOPE), UnfinishedPass)
    marker = await marker_of(memory)
    assert (marker.status, NEW in marker.files, marker.files[COMPOSE].sha256) == (
        "updating",
        True,
        sha256(b"services 1\n"),
    )
    await edit(memory, NEW, None)
    assert (await finished_pass(process)).deleted_by_operator == (NEW,)


# -- unreadable paths


@in_loop
async def test_an_unreadable_file_in_example_is_an_override_and_base_follows(
    store: TroubledStore, memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime)
    await edit(memory, ENV, b"SECRET=1\n")
    await edit(memory, "example/own", b"mine")
    store.unreadable |= {key_of(ENV), key_of("example/own")}
    result = await finished_pass(process)
    assert (result.overrides, result.blocked, result.follows) == ((ENV, "example/own"), (), True)
    now = await tree(memory)
    assert (now[ENV], now[COMPOSE]) == (b"SECRET=1\n", b"services 2\n")
    assert (await marker_of(memory)).status == "synced"


@in_loop
async def test_an_unreadable_file_in_base_is_blocked_if_live_has_it_and_unknown_otherwise(
    store: TroubledStore, memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime)
    await edit(memory, "base/notes", b"mine")
    store.unreadable |= {key_of(COMPOSE), key_of(README), key_of("base/notes")}
    result = await finished_pass(process)
    assert [blocked.path for blocked in result.blocked] == [README, COMPOSE]
    assert all("give the daemon's user permission" in blocked.reason for blocked in result.blocked)
    assert (result.strays, result.follows) == (("base/notes",), False)
    assert (await tree(memory))[SCRIPT] == b"exit # 2\n"
    marker = await marker_of(memory)
    assert marker.files[COMPOSE].sha256 == sha256(b"services 1\n"), (
        "a file that was not written is not recorded"
    )
    store.recover()
    after = await finished_pass(process)
    assert (after.blocked, after.strays, set(after.written)) == (
        (),
        ("base/notes",),
        {README, COMPOSE},
    )
    assert await kept(memory) == set()


@in_loop
async def test_a_file_that_is_listed_as_unreadable_is_not_opened(
    store: TroubledStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime)
    secret = {key_of(ENV), key_of(COMPOSE)}
    store.unreadable |= secret
    store.forbidden = lambda operation, key: operation == "get" and key in secret
    [blocked] = (await finished_pass(process)).blocked
    assert blocked.path == COMPOSE


@in_loop
async def test_a_default_below_a_folder_that_cannot_be_listed_is_not_called_deleted(
    store: TroubledStore, runtime: InlineRuntime
) -> None:
    left = "example/conf/left.env"
    process = Bucket(store, runtime)
    await process.publish(make_state(1, files=make_files("1", **{left: "of a model that left\n"})))
    await finished_pass(process)
    await process.publish(make_state(2))
    store.closed.add(key_of("example/conf"))
    result = await finished_pass(process)
    assert (result.deleted_by_operator, result.overrides) == ((), (ENV, left))


@in_loop
async def test_a_folder_that_can_no_longer_be_listed_is_noticed_although_no_file_of_it_was_listed(
    store: TroubledStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime)
    await finished_pass(process)
    await finished_pass(process)
    store.closed.add(key_of("example/private"))
    assert (await finished_pass(process)).overrides == ("example/private/",)


@in_loop
async def test_a_tree_whose_base_can_no_longer_be_read_is_not_synced(
    store: TroubledStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime)
    await finished_pass(process)
    assert (await process.live_tree.survey(SCOPE)).synced
    store.unreadable.add(key_of(COMPOSE))
    survey = await process.live_tree.survey(SCOPE)
    assert (survey.marked, survey.synced, survey.follows) == (True, False, False)


@in_loop
async def test_an_unlistable_folder_of_example_hides_defaults_and_gets_no_write(
    store: TroubledStore, memory: MemoryStore, runtime: InlineRuntime
) -> None:
    hidden = "example/conf/bundle/new.env"
    process = await two_states(store, runtime, **{hidden: "new\n"})
    store.closed |= {key_of("example/conf/bundle"), key_of("example/private")}
    result = await finished_pass(process)
    assert result.overrides == (ENV, hidden, "example/private/")
    assert (result.deleted_by_operator, result.blocked) == ((), ())
    assert (await tree(memory))[COMPOSE] == b"services 2\n"
    calls = calls_of(store)
    assert (await finished_pass(process)).overrides == result.overrides
    assert calls == IDLE
    store.before = None
    store.recover()
    assert set((await finished_pass(process)).written) == {ENV, hidden}


@in_loop
async def test_an_unlistable_folder_of_base_blocks_its_live_files(
    store: TroubledStore, memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime)
    store.closed |= {key_of("base/bundle"), key_of("base/downloads")}
    result = await finished_pass(process)
    assert [blocked.path for blocked in result.blocked] == [SCRIPT]
    assert result.strays == ("base/downloads/",)
    now = await tree(memory)
    assert (now[SCRIPT], now[COMPOSE]) == (b"exit # 1\n", b"services 2\n")


@in_loop
async def test_a_link_in_place_of_a_folder_hides_the_files_below_it(
    store: TroubledStore, memory: MemoryStore, runtime: InlineRuntime
) -> None:
    """Listings show links like files that cannot be read."""
    process = Bucket(store, runtime)
    await process.publish(
        make_state(1, files=make_files("1", **{"example/linked/a": "a\n", "base/linked/b": "b\n"}))
    )
    for path in ("example/linked", "base/linked"):
        await edit(memory, path, b"target")
        store.unreadable.add(key_of(path))
    result = await finished_pass(process)
    assert (result.overrides, [blocked.path for blocked in result.blocked]) == (
        ("example/linked/a",),
        ["base/linked/b"],
    )
    assert result.strays == ()


@in_loop
async def test_a_closed_tree_is_blocked_and_credentials_in_a_closed_folder_are_not_named(
    store: TroubledStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime)
    store.closed.add(key_of("example/creds"))
    assert (await finished_pass(process)).verdicts != ()
    assert (await finished_pass(process)).verdicts == ()
    store.closed.add(str(SCOPE))
    with pytest.raises(StoreRefused):
        await process.live_tree.reconcile(SCOPE)


@pytest.mark.parametrize("error", [StoreRefused, ObjectDamaged])
@in_loop
async def test_a_refused_read_implies_nothing_about_other_paths(
    memory: MemoryStore, runtime: InlineRuntime, error: type[Exception]
) -> None:
    process = await two_states(memory, runtime)
    for path in (ENV, COMPOSE, "base/notes"):
        await edit(memory, path, b"mine")

    async def refuse(operation: str, key: str) -> None:
        if operation == "get" and key in {key_of(ENV), key_of(COMPOSE), key_of("base/notes")}:
            raise error(key)

    result = await finished_pass(Bucket(FaultyStore(memory, before=refuse), runtime))
    assert (result.overrides, [blocked.path for blocked in result.blocked], result.strays) == (
        (ENV,),
        [COMPOSE],
        ("base/notes",),
    )
    assert (await tree(memory))[README] == b"readme 2\n"
    assert set((await finished_pass(process)).kept_aside) == {COMPOSE}


# -- large files


@in_loop
async def test_a_large_file_of_an_operator_is_never_read(
    memory: MemoryStore, runtime: InlineRuntime
) -> None:
    await two_states(memory, runtime)
    large = {key_of(path) for path in (ENV, COMPOSE, "base/model.bin", "example/model.bin")}
    for key in large:
        await edit(memory, key.removeprefix(key_of("")), TOO_LARGE)
    process = Bucket(
        FaultyStore(memory, forbidden=lambda operation, key: operation == "get" and key in large),
        runtime,
    )
    result = await finished_pass(process)
    assert result.overrides == (ENV, "example/model.bin")
    assert result.strays == ("base/model.bin",)
    [blocked] = result.blocked
    assert (
        blocked.path,
        "8,388,609 bytes" in blocked.reason,
        "move it away" in blocked.reason,
    ) == (
        COMPOSE,
        True,
        True,
    )
    assert (await tree(memory))[README] == b"readme 2\n"
    assert await kept(memory) == set()


@in_loop
async def test_a_large_file_of_a_retained_state_is_recognised(
    memory: MemoryStore, runtime: InlineRuntime
) -> None:
    text = TOO_LARGE.decode()
    process = Bucket(memory, runtime)
    await process.publish(
        make_state(1, files=make_files("1", **{"base/large": text, "base/left": text}))
    )
    await finished_pass(process)
    for path in ("base/large", "base/left"):
        await edit(memory, path, TOO_LARGE)  # the same bytes without their tag, in another version
    await process.publish(make_state(2, files=make_files("2", **{"base/large": text + "2"})))
    result = await finished_pass(another_process(memory))
    assert (result.blocked, result.strays, result.kept_aside) == ((), (), ())
    assert "base/large" in result.written
    assert "base/left" not in await tree(memory)


@in_loop
async def test_a_default_is_not_restored_over_a_file_that_is_too_large_to_keep(
    memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = await two_states(memory, runtime)
    await edit(memory, ENV, TOO_LARGE)
    with pytest.raises(OperationRefused, match="move it away"):
        await process.live_tree.restore_example(SCOPE, ENV)


# -- defaults of earlier states, and copies


@in_loop
async def test_an_earlier_default_that_an_operator_restores_is_kept_aside_once(
    memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = Bucket(memory, runtime)
    await process.publish(make_state(1))
    await finished_pass(process)
    first = await memory.get(key_of(ENV))
    await process.publish(make_state(2))
    await finished_pass(process)
    assert await kept(memory) == set(), "an unchanged default is not kept aside"
    for _ in range(2):
        # With its tag: the directory store still finds the tag of the earlier body.
        version = (await memory.get(key_of(ENV))).version
        await memory.replace(key_of(ENV), Content(first.body, tag=first.tag), version)
        result = await finished_pass(process)
        assert result.kept_aside == (ENV,)
        assert (await tree(memory))[ENV] == b"# defaults 2\n"
        assert await kept(memory) == {(ENV, first.body)}


@in_loop
async def test_an_earlier_default_without_a_tag_is_kept_aside_when_it_is_replaced(
    memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = await two_states(memory, runtime)
    await finished_pass(process)
    await edit(memory, ENV, b"# defaults 1\n")
    assert (await finished_pass(process)).written == ()
    await process.publish(make_state(3))
    assert (await finished_pass(process)).kept_aside == (ENV,)
    assert await kept(memory) == {(ENV, b"# defaults 1\n")}


@in_loop
async def test_a_default_of_a_pass_that_crashed_before_its_marker_is_not_kept_aside(
    memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = await two_states(memory, runtime)
    dying = FaultyStore(memory, {key_of(layout.MARKER): [Fault.NONE, Fault.AWAY]})
    with pytest.raises(StoreUnavailable):
        await Bucket(dying, runtime).live_tree.reconcile(SCOPE)
    assert (await tree(memory))[ENV] == b"# defaults 2\n"
    await process.publish(make_state(3))
    assert (await finished_pass(process)).kept_aside == ()


@in_loop
async def test_a_copy_that_is_needed_again_restarts_its_retention(memory: MemoryStore) -> None:
    runtime = memory._runtime  # the clock of the store
    assert isinstance(runtime, InlineRuntime)
    process = await two_states(memory, runtime)
    await finished_pass(process)
    key = layout.replaced(SCOPE, COMPOSE, sha256(b"mine"))
    times = []
    for _ in range(2):
        await edit(memory, COMPOSE, b"mine")
        await finished_pass(process)
        [copy] = await memory.scan(layout.all_replaced(SCOPE))
        assert (copy.key, (await memory.get(key)).tag) == (key, {"sequence": "2"})
        times.append(copy.modified)
        await runtime.sleep(60)
    assert times[1] > times[0]


@in_loop
async def test_a_needed_copy_that_cannot_be_rewritten_is_enough(
    store: TroubledStore, memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime)
    for _ in range(2):
        await edit(memory, COMPOSE, b"mine")
        assert (await finished_pass(process)).kept_aside == (COMPOSE,)
        store.faults = {sha256(b"mine"): [Fault.NONE, Fault.REFUSED]}
    assert (await tree(memory))[COMPOSE] == b"services 2\n"


@in_loop
async def test_a_copy_whose_bytes_differ_from_its_name_is_not_used(
    memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = await two_states(memory, runtime)
    await memory.create(
        layout.replaced(SCOPE, COMPOSE, sha256(b"mine")), Content(b"of somebody else")
    )
    await edit(memory, COMPOSE, b"mine")
    [blocked] = (await finished_pass(process)).blocked
    assert "does not hold the bytes that its name says" in blocked.reason
    assert (await tree(memory))[COMPOSE] == b"mine"


# -- a damaged manifest of an old state


@in_loop
async def test_a_damaged_manifest_of_an_old_state_stops_no_tree_and_is_reported(
    memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = Bucket(memory, runtime)
    await process.publish(make_state(1), make_state(2))
    await finished_pass(process)
    [first] = (await process.pointer()).retained_of("state-1")
    key = layout.manifest(SCOPE, first.state, first.attempt)
    await memory.replace(key, Content(b"{"), (await memory.get(key)).version)
    await edit(memory, COMPOSE, b"services 1\n")
    await edit(memory, ENV, b"# defaults 1\n")
    await process.publish(make_state(3))
    result = await finished_pass(another_process(memory))
    assert [
        (damaged.publication, "does not match the digest" in damaged.reason)
        for damaged in result.damaged
    ] == [(first.id, True)]
    # Only the damaged manifest recorded that Rebundle wrote these bytes.
    assert (result.overrides, result.kept_aside) == ((ENV,), (COMPOSE,))
    assert await kept(memory) == {(COMPOSE, b"services 1\n")}
    assert (await tree(memory))[COMPOSE] == b"services 3\n"


@in_loop
async def test_an_unreadable_old_manifest_stops_no_tree_and_counts_again_once_readable(
    store: TroubledStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime)
    await finished_pass(process)
    [first] = (await process.pointer()).retained_of("state-1")
    store.unreadable.add(layout.manifest(SCOPE, first.state, first.attempt))
    await edit(store, ENV, b"# defaults 1\n")
    await process.publish(make_state(3))
    later = Bucket(store, runtime)
    result = await finished_pass(later)
    assert [(damaged.publication, damaged.unreadable) for damaged in result.damaged] == [
        (first.id, True)
    ]
    assert (result.follows, result.overrides) == (True, (ENV,))
    store.recover()
    await runtime.sleep(RETRY_SECONDS)
    result = await finished_pass(later)
    assert (result.damaged, result.overrides) == ((), ())


# -- markers and surveys


@pytest.mark.parametrize("status", ["blocked", "of a later release"])
@in_loop
async def test_a_marker_with_any_status_has_the_written_files(
    memory: MemoryStore, runtime: InlineRuntime, status: str
) -> None:
    process = Bucket(memory, runtime)
    await process.publish(make_state(1))
    await finished_pass(process)
    marker = (await marker_of(memory)).model_copy(update={"status": status})
    await edit(memory, layout.MARKER, marker.model_dump_json(by_alias=True).encode())
    await edit(memory, ENV, None)
    assert not (await another_process(memory).live_tree.survey(SCOPE)).synced
    assert (await finished_pass(another_process(memory))).deleted_by_operator == (ENV,)
    assert (await marker_of(memory)).status == "synced"


@in_loop
async def test_a_survey_reports_paths_that_the_last_pass_could_not_write(
    store: TroubledStore, runtime: InlineRuntime
) -> None:
    process = await two_states(store, runtime, **{NEW: "new\n", "base/new": "new\n"})
    store.unwritable |= {key_of(NEW), key_of("base/new")}
    result = await finished_pass(process)
    survey = await another_process(store).live_tree.survey(SCOPE)
    assert [replace(blocked, seen_at=None) for blocked in survey.report.blocked] == list(
        result.blocked
    )
    assert all(blocked.seen_at is not None for blocked in survey.report.blocked)
    assert (survey.would_write, survey.synced, survey.follows) == ((), False, False)
    store.unwritable.remove(key_of("base/new"))
    await runtime.sleep(RETRY_SECONDS)
    await finished_pass(process)
    assert (await another_process(store).live_tree.survey(SCOPE)).follows
    await process.operations.carry_out(SCOPE, protocol.hold, "ann")
    store.recover()
    await process.publish(make_state(3))
    survey = await another_process(store).live_tree.survey(SCOPE)
    assert (survey.report.blocked, survey.follows) == ((), True), "on hold: live has not moved"


@in_loop
async def test_a_survey_of_a_tree_that_needs_writes_does_not_follow(
    memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = await two_states(memory, runtime)
    assert not (await process.live_tree.survey(SCOPE)).follows
    await finished_pass(process)
    await edit(memory, ENV, None)
    assert (await process.live_tree.survey(SCOPE)).follows


@in_loop
async def test_a_deleted_default_of_a_removed_model_is_reported_before_the_model_returns(
    memory: MemoryStore, runtime: InlineRuntime
) -> None:
    process = Bucket(memory, runtime)
    await process.publish(make_state(1, files=make_files("1", **{NEW: "of the model\n"})))
    await finished_pass(process)
    await process.publish(make_state(2))
    await finished_pass(process)
    await edit(memory, NEW, None)
    assert (await finished_pass(process)).deleted_by_operator == (NEW,)
    await process.publish(make_state(3, files=make_files("3", **{NEW: "of the model\n"})))
    assert (await finished_pass(process)).deleted_by_operator == (NEW,)
    assert NEW not in await tree(memory)


# -- any mix of these faults

WANTED = (README, COMPOSE, SCRIPT, ENV, "example/.env")
OTHERS = ("base/notes", "base/bundle/model.bin", "example/own", "example/conf/bundle/own")
FOLDERS = ("base/bundle", "example/conf", "example/conf/bundle")
EDITS = st.sampled_from(["leave", "delete", "write", "earlier default"])
TROUBLES = st.sampled_from(["", "", "unreadable", "unwritable"])


def files_of(number: int) -> dict[str, bytes]:
    return {
        file.path: file.body
        for file in make_files(str(number), **{"example/.env": f"# project {number}\n"})
    }


@settings(max_examples=200, deadline=None)
@given(
    by_content=st.booleans(),
    edits=st.dictionaries(st.sampled_from((*WANTED, *OTHERS)), EDITS),
    troubles=st.dictionaries(st.sampled_from((*WANTED, *OTHERS)), TROUBLES),
    closed=st.sets(st.sampled_from(FOLDERS), max_size=1),
)
def test_with_any_obstacle_no_byte_is_lost_and_all_other_paths_follow(
    by_content: bool, edits: dict[str, str], troubles: dict[str, str], closed: set[str]
) -> None:
    asyncio.run(
        any_mix(
            MemoryStore(InlineRuntime("store"), versions_by_content=by_content),
            edits,
            troubles,
            closed,
        )
    )


async def any_mix(
    memory: MemoryStore, edits: dict[str, str], troubles: dict[str, str], closed: set[str]
) -> None:
    runtime, store = InlineRuntime("daemon"), TroubledStore(memory)
    process = Bucket(store, runtime)
    for number in (1, 2):
        await process.publish(
            make_state(
                number, files=make_files(str(number), **{"example/.env": f"# project {number}\n"})
            )
        )
        await finished_pass(process)
    before, then = await tree(memory), await marker_of(memory)
    for path, what in edits.items():
        body = {
            "leave": before.get(path),
            "delete": None,
            "write": b"mine\n",
            "earlier default": files_of(1).get(path),
        }
        await edit(memory, path, body[what])
    edited = await tree(memory)
    troubles = {
        path: item
        for path, item in troubles.items()
        if item and (path in edited or item == "unwritable")
    }
    for path, trouble in troubles.items():
        getattr(store, trouble).add(key_of(path))
    store.closed |= {key_of(folder) for folder in closed}
    await process.publish(make_state(3, files=make_files("3", **{"example/.env": "# project 3\n"})))
    troubled = {
        path
        for path in (*WANTED, *OTHERS)
        if troubles.get(path) or any(path.startswith(f"{item}/") for item in closed)
    }

    result = await finished_pass(process)
    after, marker, copies = await tree(memory), await marker_of(memory), await kept(memory)

    check_nothing_lost(edited, after, copies)
    check_others_follow(edited, after, then, troubled)
    check_marker(marker, after, then, result)
    store.recover()
    await runtime.sleep(RETRY_SECONDS)
    healed = await finished_pass(process)
    assert (healed.blocked, healed.follows) == ((), True)
    check_nothing_lost(edited, await tree(memory), await kept(memory))
    check_others_follow(edited, await tree(memory), then, set())


def check_nothing_lost(
    edited: dict[str, bytes], after: dict[str, bytes], copies: set[tuple[str, bytes]]
) -> None:
    for path, body in edited.items():
        untouched = body == files_of(2).get(path)
        replaceable = untouched or (
            path.startswith(("base/", "README")) and body == files_of(1).get(path)
        )
        assert replaceable or after.get(path) == body or (path, body) in copies, path


def check_others_follow(
    edited: dict[str, bytes], after: dict[str, bytes], marker: Marker, troubled: set[str]
) -> None:
    for path in {*files_of(3), *edited} - troubled - {CREDS}:
        live, there = files_of(3).get(path), edited.get(path)
        if not path.startswith("example/"):
            assert after.get(path) == (live or there), path
        elif there is None:
            assert path not in after, path
        else:
            replaceable = there in {files_of(1).get(path), files_of(2).get(path)}
            assert after[path] == (live if replaceable else there), path


def check_marker(
    marker: Marker, after: dict[str, bytes], then: Marker, result: FinishedPass
) -> None:
    blocked = {item.path: item.reason for item in result.blocked}
    assert (marker.sequence, marker.status, marker.blocked) == (
        3,
        "blocked" if blocked else "synced",
        blocked,
    )
    for path, recorded in marker.files.items():
        if recorded.commit != (3, 0):
            assert then.files[path].sha256 == recorded.sha256
        else:
            assert sha256(after[path]) == recorded.sha256, "recorded but absent"
    assert not any(marker.files.get(path, NOTHING).commit == (3, 0) for path in blocked)


NOTHING = MarkerFile(sha256="", publication="", commit=(0, 0))


def test_only_a_blocked_path_of_base_keeps_base_behind() -> None:
    assert FinishedPass(1, (Blocked("example/a", "why"),)).follows
    assert not FinishedPass(1, (Blocked("README.md", "why"),)).follows
    assert not FinishedPass(1, (Blocked("base/a", "why"),)).follows

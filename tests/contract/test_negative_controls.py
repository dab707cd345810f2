"""Tests of the tests: clauses must fail on servers that break the contract, every time.

The servers are three wheels that ignore conditions, and one of this project that honours them and
loses races. A failing clause is one that found a broken promise. A server that does not answer
proves nothing, so some clauses must pass.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import boto3
import pytest

from daemon.stores.gcs import GcsStore
from daemon.stores.port import Content, ObjectStore
from daemon.stores.probe import UnsafeStore, probe
from daemon.stores.s3 import S3Store
from daemon.stores.wrappers.write_guard import GuardedStore
from tests.builders_runtime import ThreadRuntime
from tests.contract.object_store_clauses import CLAUSES
from tests.contract.races import (
    WRITERS,
    Arena,
    GcsArena,
    Round,
    S3Arena,
    faults,
    races_to_create,
    races_to_replace,
)
from tests.services import nonconforming_servers
from tests.services.availability import available
from tests.support.faulty_s3_server import BUCKET, Defect, faulty_s3

TURNS = 3
LOSERS = frozenset({409, 412, 500, 503})
Race = Callable[[Arena, int, int], list[Round]]

CREATES = frozenset({"create_refuses_a_key_that_exists"})
REPLACES = frozenset({"replace_refuses_every_version_but_the_present_one"})
RACES_TO_CREATE = frozenset({"a_race_to_create_has_one_winner"})
RACES_TO_REPLACE = frozenset({"a_race_to_replace_has_one_winner"})
HARMLESS = frozenset({"a_prefix_is_text_and_not_a_folder"})


@dataclass(frozen=True, slots=True)
class Broken:
    """A server that breaks the contract."""

    opened: "Callable[[ExitStack, Path], Opened]"
    red: frozenset[str]
    green: frozenset[str]
    races: tuple[Race, ...]
    writers: int = WRITERS
    is_seen_by_probe: bool = True


@dataclass(frozen=True, slots=True)
class Opened:
    """A running one, for sockets and for the adapter."""

    arena: Arena
    store: Callable[[ThreadRuntime, str], S3Store | GcsStore]


def _s3(stack: ExitStack, address: str, bucket: str) -> Opened:
    arena = S3Arena(
        address,
        bucket,
        access_key=nonconforming_servers.ACCESS_KEY,
        secret_key=nonconforming_servers.SECRET_KEY,
    )
    stack.callback(arena.close)
    return Opened(
        arena,
        lambda runtime, prefix: S3Store(
            bucket, prefix, runtime, endpoint=address, region="us-east-1"
        ),
    )


def _with_bucket(stack: ExitStack, address: str) -> Opened:
    client = boto3.client(
        "s3",
        endpoint_url=address,
        region_name="us-east-1",
        aws_access_key_id=nonconforming_servers.ACCESS_KEY,
        aws_secret_access_key=nonconforming_servers.SECRET_KEY,
    )
    client.create_bucket(Bucket="negative")
    client.close()
    return _s3(stack, address, "negative")


def _nanio(stack: ExitStack, folder: Path) -> Opened:
    return _with_bucket(
        stack, available(lambda: stack.enter_context(nonconforming_servers.nanio(folder)))
    )


def _localbucket(stack: ExitStack, folder: Path) -> Opened:
    return _with_bucket(
        stack, available(lambda: stack.enter_context(nonconforming_servers.localbucket(folder)))
    )


def _gcp_storage_emulator(stack: ExitStack, folder: Path) -> Opened:
    server = available(
        lambda: stack.enter_context(nonconforming_servers.gcp_storage_emulator(folder))
    )
    server.create_bucket("negative")
    return Opened(
        GcsArena(server.address, "negative"),
        lambda runtime, prefix: GcsStore("negative", prefix, runtime, endpoint=server.address),
    )


def _racy(stack: ExitStack, _folder: Path) -> Opened:
    return _s3(stack, stack.enter_context(faulty_s3(Defect.LOSES_RACES)).address, BUCKET)


BROKEN = {
    "nanio": Broken(
        _nanio,
        CREATES | REPLACES | RACES_TO_CREATE | RACES_TO_REPLACE,
        HARMLESS,
        (races_to_create, races_to_replace),
    ),
    "localbucket": Broken(_localbucket, REPLACES | RACES_TO_REPLACE, HARMLESS, (races_to_replace,)),
    "gcp-storage-emulator": Broken(
        _gcp_storage_emulator,
        CREATES | REPLACES | RACES_TO_CREATE | RACES_TO_REPLACE,
        HARMLESS,
        (races_to_create, races_to_replace),
        writers=4,  # it serves one connection after the other and lets few wait
    ),
    "racy": Broken(
        _racy,
        RACES_TO_CREATE | RACES_TO_REPLACE,
        HARMLESS | CREATES | REPLACES,
        (races_to_create, races_to_replace),
        is_seen_by_probe=False,
    ),
}


@pytest.fixture(scope="module", params=BROKEN)
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Broken, Opened]]:
    broken = BROKEN[request.param]
    with ExitStack() as stack, pytest.MonkeyPatch.context() as environ:
        environ.setenv("AWS_ACCESS_KEY_ID", nonconforming_servers.ACCESS_KEY)
        environ.setenv("AWS_SECRET_ACCESS_KEY", nonconforming_servers.SECRET_KEY)
        yield broken, broken.opened(stack, tmp_path_factory.mktemp("server"))


@pytest.mark.slow
def test_unguarded_races_fail_every_time(running: tuple[Broken, Opened]) -> None:
    broken, opened = running

    for race in broken.races:
        for _ in range(TURNS):
            assert faults(race(opened.arena, 1, broken.writers), LOSERS) != []


@pytest.mark.slow
def test_the_contract_fails_every_time(running: tuple[Broken, Opened]) -> None:
    broken, opened = running

    for _ in range(TURNS):
        assert broken_clauses(opened, broken.red | broken.green) == broken.red


@pytest.mark.slow
def test_the_probe_refuses_stores_that_ignore_conditions_and_cannot_see_lost_races(
    running: tuple[Broken, Opened],
) -> None:
    broken, opened = running

    with ThreadRuntime(16) as runtime:
        store = opened.store(runtime, "probed")
        result = asyncio.run(probe(store, runtime))
        store.close()

    assert result.failure is None
    assert (result.refusal is not None) == broken.is_seen_by_probe


@pytest.mark.slow
def test_one_request_before_the_first_write_detects_what_the_probe_detects(
    running: tuple[Broken, Opened],
) -> None:
    broken, opened = running

    with ThreadRuntime(16) as runtime:
        store = opened.store(runtime, "guarded")
        guarded = GuardedStore(store, runtime)
        written = asyncio.run(_taken(guarded))
        left = [entry.key for entry in asyncio.run(store.scan(""))]
        store.close()

    assert written != broken.is_seen_by_probe
    assert left == (["key"] if written else [])


async def _taken(store: ObjectStore) -> bool:
    try:
        await store.create("key", Content(b"a change"))
    except UnsafeStore:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Bucket:
    store: ObjectStore

    def open(self) -> ObjectStore:
        return self.store


def broken_clauses(opened: Opened, names: frozenset[str]) -> set[str]:
    """The clauses that find a broken promise. Any other failure is raised."""
    clauses = [clause for clause in CLAUSES if clause.__name__ in names]
    assert len(clauses) == len(names), "clauses were renamed"
    broken = set()
    with ThreadRuntime(16) as runtime:
        for clause in clauses:
            store = opened.store(runtime, f"clauses/{uuid4().hex}")
            try:
                asyncio.run(asyncio.wait_for(clause(_Bucket(store)), 60))
            except (AssertionError, pytest.fail.Exception):
                broken.add(clause.__name__)
            finally:
                store.close()
    return broken

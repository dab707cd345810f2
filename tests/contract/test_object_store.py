"""Every adapter of the store port against the same clauses, and the clauses against two stores that
break them.

A new adapter is one more function in `ADAPTERS`, or one more server in `tests.contract.servers`,
whose table declares its gaps.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from daemon.stores.directory.store import DirectoryStore
from daemon.stores.errors import ConditionFailed, ObjectMissing, StoreError
from daemon.stores.port import Content, Listing, ObjectStore, Stored, Version
from tests.builders_runtime import InlineRuntime, ThreadRuntime
from tests.contract.object_store_clauses import CLAUSES, Bucket, Clause
from tests.contract.servers import ACCESS_KEY, SECRET_KEY, SERVERS, Gap, Opens, Server
from tests.services.availability import NotGiven, Unavailable, available
from tests.support.memory_store import MemoryStore

CLAUSE_SECONDS = 60


class ContractBroken(Exception):
    """A clause does not hold."""


@dataclass(frozen=True, slots=True)
class OpenedBy:
    """A bucket whose clients are made by a function."""

    open: Callable[[], ObjectStore]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def in_memory(
    *, versions_by_content: bool = False, around: Callable[[ObjectStore], ObjectStore] | None = None
) -> Bucket:
    runtime = InlineRuntime()
    store: ObjectStore = MemoryStore(runtime, versions_by_content=versions_by_content)
    shared = around(store) if around else store
    return OpenedBy(lambda: shared, runtime.now)


def check_clause(clause: Clause, bucket: Bucket) -> None:
    """Raises ContractBroken, and nothing else that a store may cause."""
    try:
        asyncio.run(asyncio.wait_for(clause(bucket), CLAUSE_SECONDS))
    except (
        StoreError,
        AssertionError,
        TimeoutError,
        pytest.fail.Exception,
        ExceptionGroup,
    ) as error:
        raise ContractBroken(f"{clause.__name__}: {type(error).__name__}: {error}") from error


# ---- adapters that need no server


@contextmanager
def directory(folder: Path) -> Iterator[Bucket]:
    with ThreadRuntime() as runtime:
        yield OpenedBy(lambda: DirectoryStore(folder / "bucket", runtime))


@contextmanager
def memory_with_generations(_folder: Path) -> Iterator[Bucket]:
    yield in_memory()


@contextmanager
def memory_with_content_versions(_folder: Path) -> Iterator[Bucket]:
    yield in_memory(versions_by_content=True)


Adapter = Callable[[Path], AbstractContextManager[Bucket]]

ADAPTERS: list[Adapter] = [directory, memory_with_generations, memory_with_content_versions]


def _name(value: Callable[..., object]) -> str:
    return value.__name__


@pytest.mark.parametrize("clause", CLAUSES, ids=_name)
@pytest.mark.parametrize("adapter", ADAPTERS, ids=_name)
def test_an_adapter_keeps_the_contract(adapter: Adapter, clause: Clause, tmp_path: Path) -> None:
    with adapter(tmp_path) as bucket:
        check_clause(clause, bucket)


# ---- adapters on servers


@pytest.fixture(scope="session")
def opens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Server], Opens]]:
    """Opens clients of a server, which is started at the first use, and tried only once."""
    tried: dict[str, Opens | Unavailable | NotGiven] = {}

    def started(server: Server) -> Opens:
        if server.name not in tried:
            try:
                tried[server.name] = server.start(stack, tmp_path_factory.mktemp(server.name))
            except (Unavailable, NotGiven) as reason:
                tried[server.name] = reason
        found = tried[server.name]
        if isinstance(found, Exception):
            raise found
        return found

    with ExitStack() as stack:
        yield started


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


def _promises() -> Iterator[object]:
    for server in SERVERS:
        for clause in CLAUSES:
            marks = [pytest.mark.slow]
            match server.gaps.get(clause.__name__):
                case Gap(why, always=True):
                    marks.append(
                        pytest.mark.xfail(
                            reason=f"known gap: {why}", raises=ContractBroken, strict=True
                        )
                    )
                case Gap(why):
                    marks.append(
                        pytest.mark.xfail(
                            reason=f"may fail: {why}", raises=ContractBroken, strict=False
                        )
                    )
            yield pytest.param(server, clause, id=f"{server.name}-{clause.__name__}", marks=marks)


@pytest.mark.parametrize(("server", "clause"), list(_promises()))
@pytest.mark.usefixtures("credentials")
def test_an_adapter_keeps_the_contract_on_a_server(
    opens: Callable[[Server], Opens], server: Server, clause: Clause
) -> None:
    opener = available(lambda: opens(server))
    prefix = f"team/{uuid4().hex}"
    with ThreadRuntime(16) as runtime, ExitStack() as clients:
        check_clause(
            clause, OpenedBy(lambda: clients.enter_context(closing(opener(runtime, prefix))))
        )


def test_tables_name_clauses_that_exist() -> None:
    named = {name for server in SERVERS for name in server.gaps}

    assert named <= {clause.__name__ for clause in CLAUSES}


# ---- stores that break the contract


class DeafStore:
    """A store that accepts conditions and ignores them, as several S3 servers do."""

    def __init__(self, inner: ObjectStore) -> None:
        self._inner = inner

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        return await self._inner.get(key, max_bytes=max_bytes)

    async def versions(self, keys: Sequence[str]) -> Mapping[str, Version]:
        return await self._inner.versions(keys)

    async def scan(self, prefix: str) -> Listing:
        return await self._inner.scan(prefix)

    async def folders(self, prefix: str) -> Sequence[str]:
        return await self._inner.folders(prefix)

    async def create(self, key: str, content: Content) -> Version:
        return await self._put(key, content)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        return await self._put(key, content)

    async def delete(self, key: str, version: Version) -> None:
        await self._inner.delete(key, (await self._inner.get(key)).version)

    async def _put(self, key: str, content: Content) -> Version:
        while True:
            with suppress(ConditionFailed):
                try:
                    return await self._inner.replace(
                        key, content, (await self._inner.get(key)).version
                    )
                except ObjectMissing:
                    return await self._inner.create(key, content)


class SlowStore(DeafStore):
    """A store that checks first and writes later: its conditions hold only without concurrent
    writers.
    """

    async def create(self, key: str, content: Content) -> Version:
        try:
            await self._inner.get(key)
        except ObjectMissing:
            return await self._put(key, content)
        raise ConditionFailed(key)

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        if (await self._inner.get(key)).version != version:
            raise ConditionFailed(key)
        return await self._put(key, content)

    async def delete(self, key: str, version: Version) -> None:
        if (await self._inner.get(key)).version != version:
            raise ConditionFailed(key)
        await super().delete(key, version)


def broken_clauses(bucket: Callable[[], Bucket]) -> set[str]:
    broken = set()
    for clause in CLAUSES:
        try:
            check_clause(clause, bucket())
        except ContractBroken:
            broken.add(clause.__name__)
    return broken


@pytest.mark.parametrize("versions_by_content", [False, True])
def test_a_store_that_ignores_conditions_breaks_the_contract(versions_by_content: bool) -> None:
    broken = broken_clauses(
        lambda: in_memory(versions_by_content=versions_by_content, around=DeafStore)
    )

    assert broken >= {
        "create_refuses_a_key_that_exists",
        "replace_refuses_every_version_but_the_present_one",
        "delete_refuses_a_stale_version",
        "a_race_to_create_has_one_winner",
        "a_race_to_replace_has_one_winner",
        "a_race_of_increments_loses_no_update",
    }
    assert "a_listing_is_sorted_by_bytes_and_has_sizes" not in broken


@pytest.mark.parametrize("versions_by_content", [False, True])
def test_a_store_that_loses_races_breaks_the_contract(versions_by_content: bool) -> None:
    broken = broken_clauses(
        lambda: in_memory(versions_by_content=versions_by_content, around=SlowStore)
    )

    assert broken >= {
        "a_race_to_create_has_one_winner",
        "a_race_to_replace_has_one_winner",
        "a_race_of_increments_loses_no_update",
    }
    assert not any("race" not in name for name in broken)

"""A bucket whose calls never return: events are taken all the same, and the daemon asks to be restarted."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from daemon import wiring
from daemon.lifecycle import Stop
from daemon.settings import load
from daemon.stores.filesystem import Entry, RealFileSystem
from tests.unit.daemon.http.service import STRUCTURED, state_event

CALL_SECONDS = 0.05
SCOPES = 20


class Hanging(RealFileSystem):
    """Looking at anything of a scope takes until the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def status(self, path: Path) -> Entry | None:
        if "target-" in str(path):
            self.over.wait(60)
        return super().status(path)


def event(number: int, **data: object) -> dict[str, object]:
    made = state_event(number, id=f"event-{number}")
    made["data"] = made["data"] | {"bundle": {"name": "bundle", "target": f"target-{number}"}} | data
    return made


@contextmanager
def stopping(stops: list[Stop]) -> Iterator[None]:
    """The process of the tests keeps its own signals."""

    @contextmanager
    def noted(stop: Stop, _drain_seconds: float) -> Iterator[None]:
        stops.append(stop)
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wiring, "stop_on_signals", noted)
        yield


@asynccontextmanager
async def running(folder: Path, filesystem: Hanging) -> AsyncIterator[httpx.AsyncClient]:
    flags = {"bucket": str(folder / "bucket"), "journal.path": folder / "journal.db", "http.listen": "127.0.0.1:0"}
    patience = {
        "REBUNDLE_PUBLISH__TIMEOUT_SECONDS": str(CALL_SECONDS),
        "REBUNDLE_PUBLISH__RETRY_FIRST_SECONDS": "0.01",
        "REBUNDLE_PUBLISH__RETRY_MAX_SECONDS": "0.05",
    }
    settings = load(flags, patience, None).settings
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stops: list[Stop] = []
    with stopping(stops):
        daemon = asyncio.create_task(wiring.run(settings, "test", announce=listening.set_result, filesystem=filesystem))
        await asyncio.wait([daemon, listening], return_when=asyncio.FIRST_COMPLETED)
        address = (await listening).removeprefix("listening on ").partition(",")[0]
        async with httpx.AsyncClient(base_url=address, timeout=30, trust_env=False) as client:
            yield client
        filesystem.over.set()
        stops[0].request("the test is over")
        await daemon


def test_a_bucket_that_hangs_takes_every_thread_and_no_event_is_refused(tmp_path: Path) -> None:
    filesystem = Hanging()

    async def scenario() -> None:
        async with asyncio.timeout(60), running(tmp_path, filesystem) as client:
            assert (await client.get("/livez")).status_code == 200
            for number in range(1, SCOPES + 1):
                accepted = await client.post("/v1/events", json=event(number), headers=STRUCTURED)
                assert accepted.status_code == 202
            while (answer := await client.get("/livez")).status_code == 200:
                pass
            assert answer.json()["detail"].startswith("every thread has been in one call to the bucket")
            big = event(99, notes="x" * 100_000)
            assert (await client.post("/v1/events", json=big, headers=STRUCTURED)).status_code == 202
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["ready"]) == (200, True)
            degraded = {check["name"] for check in ready.json()["checks"] if check["degraded"]}
            assert {"lane", "threads"} <= degraded
            assert (await client.get("/metrics")).status_code == 200
            filesystem.over.set()
            while (await client.get("/livez")).status_code != 200:
                pass

    try:
        asyncio.run(scenario())
    finally:
        filesystem.over.set()

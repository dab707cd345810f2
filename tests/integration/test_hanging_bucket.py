"""A bucket whose calls never return: events are still accepted, and the daemon asks for a restart."""

import asyncio
import threading
from pathlib import Path

from daemon.stores.directory.filesystem import DirectoryEntry, RealFileSystem
from tests.support.daemon_in_process import running
from tests.unit.daemon.http.service import STRUCTURED, state_event

SCOPES = 20
IMPATIENT = {
    "REBUNDLE_PUBLISH__TIMEOUT_SECONDS": "0.05",
    "REBUNDLE_PUBLISH__RETRY_FIRST_SECONDS": "0.01",
    "REBUNDLE_PUBLISH__RETRY_MAX_SECONDS": "0.05",
}


class Hanging(RealFileSystem):
    """Every read of a scope hangs until the test is over."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def status(self, path: Path) -> DirectoryEntry | None:
        if "target-" in str(path):
            self.over.wait(60)
        return super().status(path)


def event(number: int, **data: object) -> dict[str, object]:
    made = state_event(number, id=f"event-{number}")
    made["data"] = (
        made["data"] | {"bundle": {"name": "bundle", "target": f"target-{number}"}} | data
    )
    return made


def test_a_hanging_bucket_blocks_every_thread_and_no_event_is_refused(tmp_path: Path) -> None:
    filesystem = Hanging()

    async def scenario() -> None:
        async with asyncio.timeout(60), running(tmp_path, IMPATIENT, filesystem) as client:
            assert (await client.get("/livez")).status_code == 200
            for number in range(1, SCOPES + 1):
                accepted = await client.post("/v1/events", json=event(number), headers=STRUCTURED)
                assert accepted.status_code == 202
            while (answer := await client.get("/livez")).status_code == 200:
                pass
            assert answer.json()["detail"].startswith(
                "every thread has been in one call to the bucket"
            )
            big = event(99, notes="x" * 100_000)
            assert (
                await client.post("/v1/events", json=big, headers=STRUCTURED)
            ).status_code == 202
            ready = await client.get("/readyz")
            assert (ready.status_code, ready.json()["ready"]) == (200, True)
            degraded = {check["name"] for check in ready.json()["checks"] if check["degraded"]}
            assert degraded == {"bucket", "threads"}
            assert (await client.get("/metrics")).status_code == 200
            filesystem.over.set()
            while (await client.get("/livez")).status_code != 200:
                pass

    try:
        asyncio.run(scenario())
    finally:
        filesystem.over.set()

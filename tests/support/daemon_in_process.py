"""Runs the daemon of `service.run` inside the tests' process, on a free loopback port."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from daemon import service
from daemon.lifecycle import Stop
from daemon.settings import load
from daemon.stores.directory.filesystem import FileSystem


@contextmanager
def _stopping(stops: list[Stop]) -> Iterator[None]:
    """The process of the tests keeps its own signals."""

    @contextmanager
    def noted(stop: Stop, _drain_seconds: float) -> Iterator[None]:
        stops.append(stop)
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "stop_on_signals", noted)
        yield


@asynccontextmanager
async def running(
    folder: Path, environment: Mapping[str, str], filesystem: FileSystem | None = None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the daemon, which stops afterwards; `environment` has further settings."""
    flags = {
        "bucket": str(folder / "bucket"),
        "journal.path": folder / "journal.db",
        "http.listen": "127.0.0.1:0",
    }
    settings = load(flags, environment, None).settings
    listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    stops: list[Stop] = []
    with _stopping(stops):
        daemon = asyncio.create_task(
            service.run(settings, "test", announce=listening.set_result, filesystem=filesystem)
        )
        await asyncio.wait([daemon, listening], return_when=asyncio.FIRST_COMPLETED)
        if daemon.done():
            daemon.result()
        address = listening.result().removeprefix("listening on ").partition(",")[0]
        try:
            async with httpx.AsyncClient(base_url=address, timeout=30, trust_env=False) as client:
                yield client
        finally:
            stops[0].request("the test is over")
            await daemon

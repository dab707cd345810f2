"""The daemon as its users start it: `rebundle run` as a process, on a free loopback port."""

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from events.journal import Journal
from events.model import Event, Outcome
from tests.builders_runtime import InlineRuntime

PROJECT = Path(__file__).parents[2]
START_SECONDS = 60.0
SETTLE_SECONDS = 120.0
_POLL = 0.02


class DaemonProcess:
    """One run of the daemon. Leaving the `with` kills it if it still runs."""

    def __init__(
        self,
        bucket: Path,
        journal: Path,
        log: Path,
        command: Sequence[str] = (),
        *,
        also: Sequence[str] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        place = (
            "--bucket",
            str(bucket),
            "--journal",
            str(journal),
            "--listen",
            "127.0.0.1:0",
            *also,
        )
        # A killed process writes no coverage data; measuring it would only slow it down.
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("REBUNDLE_", "COVERAGE_"))
        }
        given = {
            "PYTHONPATH": str(PROJECT),
            "REBUNDLE_PUBLISH__LIVE_TREE_SECONDS": "1",
            "REBUNDLE_PUBLISH__RETRY_FIRST_SECONDS": "0.05",
            "REBUNDLE_PUBLISH__RETRY_MAX_SECONDS": "1",
            **environment,
        }
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command or (sys.executable, "-m", "daemon", "run", *place),
                stdout=output,
                stderr=output,
                cwd=log.parent,
                env=kept | given,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    @property
    def log_text(self) -> str:
        """Its output so far."""
        return self._log.read_text(errors="replace")

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def port(self) -> int:
        """The port that it reports. Waits for that line."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            for line in self.log_text.splitlines(keepends=True):
                if line.startswith("listening on http://") and line.endswith("\n"):
                    return int(line.split(",")[0].rpartition(":")[2])
            assert self.runs, f"the daemon exited:\n{self.log_text[-3000:]}"
            time.sleep(_POLL)
        raise AssertionError(f"the daemon did not start:\n{self.log_text[-3000:]}")

    def kill(self) -> None:
        """SIGKILL. Returns once the process is gone."""
        if self.runs:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def ended(self, seconds: float = START_SECONDS) -> int:
        """The exit code of a daemon that exits without a signal."""
        return self._process.wait(seconds)

    def stop(self) -> int:
        """The exit code after SIGTERM."""
        self._process.terminate()
        return self._process.wait(START_SECONDS)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes


def post(port: int, *events: Event, seconds: float = 10) -> Answer | None:
    """The answer of the intake.

    None if no answer came back, so that the event may or may not have been accepted.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    body, kind = (
        b"[" + b",".join(event.structured() for event in events) + b"]",
        "application/cloudevents-batch+json",
    )
    try:
        connection.request("POST", "/v1/events", body, {"content-type": kind})
        response = connection.getresponse()
        return Answer(response.status, response.read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


async def _read_journal(
    path: Path, event_ids: Sequence[str]
) -> tuple[int, dict[str, dict[str, Outcome | None]]]:
    runtime = InlineRuntime("beside")
    async with await Journal.open(
        path, clock=runtime.now, token=runtime.random_id, run=False
    ) as journal:
        waiting = (await journal.backlog()).events
        found = {
            event_id: {
                lane.scope: lane.outcome
                for event in await journal.find(event_id)
                for lane in event.lanes
            }
            for event_id in event_ids
        }
    return waiting, found


def waiting(journal: Path) -> int:
    """The number of unsettled events, read beside the daemon."""
    return asyncio.run(_read_journal(journal, ()))[0]


def outcomes(journal: Path, event_ids: Sequence[str]) -> dict[str, dict[str, Outcome | None]]:
    """By event and scope. An unknown event has no scope, and a waiting one no outcome."""
    return asyncio.run(_read_journal(journal, event_ids))[1]


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Returns when the condition holds. Fails after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def until_settled(daemon: DaemonProcess, journal: Path) -> None:
    """Returns when nothing waits."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while waiting(journal):
        assert daemon.runs, daemon.log_text[-3000:]
        assert time.monotonic() < deadline, daemon.log_text[-3000:]
        time.sleep(_POLL)


@contextmanager
def clean_log(log: Path) -> Iterator[None]:
    """Checks afterwards that the daemon's log has no internal error."""
    yield
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    faults: list[Any] = [
        line for line in lines if line["level"] in {"error", "critical"} or "exception" in line
    ]
    assert faults == []

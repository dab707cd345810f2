"""Failing background jobs of a running daemon are reported to operators until they work again."""

import http.client
import json
import sys
import time
from pathlib import Path

from tests.support.daemon_process import DaemonProcess, post, until_settled
from tests.support.scenes import GOLDEN, state_event

DAEMON = """
import pathlib, sys
from daemon.timers import pruning
from daemon.cli import main
from daemon.publishing.maintenance.garbage_collector import GarbageCollector
from events.errors import SourceUnavailable
from events.journal import Journal

fault = pathlib.Path(sys.argv.pop(1))

def failing(right):
    async def tried(*arguments, **options):
        if fault.exists():
            raise SourceUnavailable("no permission")
        return await right(*arguments, **options)
    return tried

Journal.prune, GarbageCollector.collect = failing(Journal.prune), failing(GarbageCollector.collect)
pruning._RETRY_SECONDS = 0.1
main()
"""
"""`rebundle`, with pruning and collections that fail while the file of the first argument exists.
"""


def degraded(port: int) -> dict[str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/readyz")
        checks = json.loads(connection.getresponse().read())["checks"]
    finally:
        connection.close()
    return {check["name"]: check["detail"] for check in checks if check["degraded"]}


def test_a_prune_and_a_collection_that_fail_are_conditions_until_they_succeed(
    tmp_path: Path,
) -> None:
    bucket, journal, fault, config = (
        tmp_path / name for name in ("bucket", "journal.db", "fault", "rebundle.toml")
    )
    fault.touch()
    config.write_text("[retention]\nevery_hours = 0.0001\n")
    place = (
        "--bucket",
        bucket,
        "--journal",
        journal,
        "--listen",
        "127.0.0.1:0",
        "--config",
        config,
    )
    command = [sys.executable, "-c", DAEMON, *map(str, (fault, "run", *place))]
    with DaemonProcess(bucket, journal, tmp_path / "log", command) as daemon:
        port = daemon.port()
        post(port, state_event(1))
        until_settled(daemon, journal)
        found = until(port, {"pruning", "collection"})
        assert "no permission" in found["pruning"]
        assert (
            f"{GOLDEN}: no permission; rebundle gc {GOLDEN} --dry-run --bucket {bucket}"
            in found["collection"]
        )
        fault.unlink()
        until(port, set())
        assert daemon.stop() == 0


def until(port: int, kinds: set[str]) -> dict[str, str]:
    """Returns the degraded conditions once they are of exactly these kinds."""
    deadline = time.monotonic() + 60
    while (found := degraded(port)).keys() != kinds:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found

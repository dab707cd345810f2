"""Strangers who flood the daemon from one address of this machine while others use it from another. Bounded; loopback only.

`make flood` prints what it measures; `tests/acceptance/test_flood.py` asserts that everybody else is served.
"""

import http.client
import json
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.daemon_process import DaemonProcess, until_settled
from tests.unit.daemon.http.service import state_event

ATTACKER = "127.0.0.66"
PIPELINED = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 30
KEPT = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Figures:
    """What a user saw, in seconds, and what the daemon took."""

    livez: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    resident: int = 0
    """Bytes."""

    @property
    def summary(self) -> str:
        return (
            f"livez p50 {statistics.median(self.livez):.4f} p99 {p99(self.livez):.4f} max {max(self.livez):.3f} s; "
            f"events max {max(self.events, default=0):.3f} s; refused {len(self.refused)}; "
            f"rss {self.resident >> 20} MiB"
        )


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98] if len(values) > 1 else values[0]


class User:
    """Asks for /livez and sends events, each on a connection of its own."""

    def __init__(self, port: int, pid: int) -> None:
        self._port = port
        self._pid = pid
        self._sent = 0

    def measure(self, *, probes: int, events: int, wait: Callable[[], object] = lambda: None) -> Figures:
        figures = Figures()
        for number in range(max(probes, events)):
            if number < probes:
                self._timed(figures.livez, figures, lambda: self._ask("GET", "/livez"), 200)
            if number < events:
                self._timed(figures.events, figures, self._send, 202)
            wait()
        status = Path(f"/proc/{self._pid}/status").read_text()
        figures.resident = int(status.partition("VmRSS:")[2].split()[0]) << 10
        return figures

    def closed(self, reason: str) -> float:
        """How many connections the daemon has ended for this reason."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request("GET", "/metrics")
            families = text_string_to_metric_families(connection.getresponse().read().decode())
        finally:
            connection.close()
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "rebundle_http_connections_closed_total" and sample.labels == {"reason": reason}
        )

    def sees_closed(self, count: int, *reasons: str) -> bool:
        """Whether the daemon ends so many connections for these reasons within a minute. It serves its other peers
        between them, and the text of its metrics may be a second old."""
        until = time.monotonic() + 60
        while sum(map(self.closed, reasons)) < count:
            if time.monotonic() > until:
                return False
            time.sleep(0.5)
        return True

    def _timed(self, into: list[float], figures: Figures, act: Callable[[], int], expected: int) -> None:
        began = time.monotonic()
        try:
            status = act()
            if status != expected:
                figures.refused.append(str(status))
        except (OSError, http.client.HTTPException) as error:
            figures.refused.append(repr(error))
        into.append(time.monotonic() - began)

    def _send(self) -> int:
        self._sent += 1
        body = json.dumps(state_event(self._sent)).encode()
        return self._ask("POST", "/v1/events", body, {"content-type": "application/cloudevents+json"})

    def _ask(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()


class Flood:
    """Connections of the attacker; `close` ends all of them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []

    def connect(self, data: bytes = b"") -> socket.socket | None:
        """Another connection, on which this is sent at once."""
        made = socket.socket()
        try:
            made.bind((ATTACKER, 0))
            made.settimeout(5)
            made.connect(("127.0.0.1", self._port))
        except OSError:
            made.close()
            return None
        made.setblocking(False)
        self._sockets.append(made)
        return made if self.send(made, data) else None

    def send(self, made: socket.socket, data: bytes) -> bool:
        try:
            made.send(data)
        except BlockingIOError:
            return True
        except OSError:
            made.close()
            return False
        return True

    def close(self) -> None:
        for each in self._sockets:
            each.close()


@contextmanager
def pipelining(port: int, connections: int) -> Iterator[None]:
    """Each connection sends thirty requests for the metrics at once and reads nothing."""
    flood = Flood(port)
    try:
        for _ in range(connections):
            flood.connect(PIPELINED)
        yield
    finally:
        flood.close()


@contextmanager
def keeping(port: int, connections: int, seconds: float) -> Iterator[None]:
    """Each connection asks for /livez every 2.5 s, and is opened again when it is lost, for so many seconds."""
    flood, over = Flood(port), threading.Event()
    kept = [flood.connect() for _ in range(connections)]

    def keep() -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not over.wait(2.5):
            for index, former in enumerate(kept):
                if former is None or not flood.send(former, KEPT):
                    kept[index] = flood.connect(KEPT)

    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        flood.close()


@contextmanager
def flooded_daemon(folder: Path) -> Iterator[tuple[DaemonProcess, User]]:
    """A daemon of default settings, and its user."""
    with DaemonProcess(folder / "bucket", folder / "journal.db", folder / "log") as daemon:
        yield daemon, User(daemon.port(), daemon.pid)


def allow_open_files(wanted: int = 4096) -> None:
    """A flood needs more of them than a login shell's usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def main() -> int:
    """Measure before, during and five seconds after each flood; 1 if a goal is missed."""
    allow_open_files()
    missed = False
    floods = {
        "no flood, for comparison": lambda _: nullcontext(),
        "900 connections x 30 pipelined GET /metrics": lambda port: pipelining(port, 900),
        "1000 keep-alive connections": lambda port: keeping(port, 1000, 25),
    }
    for name, flood in floods.items():
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            daemon, user = stack.enter_context(flooded_daemon(folder))
            # As many events as during the flood: what is measured afterwards must not differ by them.
            user.measure(probes=40, events=40)
            until_settled(daemon, folder / "journal.db")
            before = user.measure(probes=1000, events=10)
            with flood(daemon.port()):
                during = user.measure(probes=40, events=40, wait=lambda: time.sleep(0.25))
            time.sleep(5)
            until_settled(daemon, folder / "journal.db")
            after = user.measure(probes=1000, events=10)
        print(f"{name}\n  before: {before.summary}\n  during: {during.summary}\n  after:  {after.summary}")
        goals = {
            "/livez within 1 s": max(during.livez) < 1,
            "events within 2 s": max(during.events) < 2,
            "nothing refused": not (during.refused or after.refused),
            "p99 of /livez within 2x": p99(after.livez) <= 2 * p99(before.livez),
            "memory within 32 MiB": after.resident - before.resident <= 32 << 20,
        }
        for goal, met in goals.items():
            print(f"  {'met' if met else 'MISSED'}: {goal}")
            missed |= not met
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

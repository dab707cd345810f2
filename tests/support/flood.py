"""Floods the daemon from one loopback address while other clients use it from another. Bounded.

`make flood` prints what it measures; `tests/acceptance/test_flood.py` asserts that the other
clients are served.

The machine's own noise is larger than the effect to be measured, and changes from minute to minute.
So a second daemon, which is not flooded and otherwise has the same history, gets its requests in
turn with the first. The noise affects both, and their ratio is what counts.
"""

import http.client
import json
import os
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.support.daemon_process import DaemonProcess, until_settled
from tests.unit.daemon.http.service import state_event

ATTACKER = "127.0.0.66"
PROBES = 3000
"""Enough probes for a p99 that rests on thirty of them, not on ten."""
PIPELINED = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 30
KEPT = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Figures:
    """The times of a user in seconds, and the costs of the daemon."""

    livez: list[float] = field(default_factory=list)
    events: list[float] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    resident: int = 0
    """Bytes."""

    @property
    def summary(self) -> str:
        events = f"events max {max(self.events):.3f} s; " if self.events else ""
        return (
            f"livez p50 {statistics.median(self.livez):.4f} p99 {p99(self.livez):.4f} max {max(self.livez):.3f} s; "
            f"{events}refused {len(self.refused)}; rss {self.resident >> 20} MiB"
        )


def p99(values: list[float]) -> float:
    # Inclusive: of forty values the other method makes a p99 above all of them.
    return (
        statistics.quantiles(values, n=100, method="inclusive")[98]
        if len(values) > 1
        else values[0]
    )


class User:
    """Requests /livez and sends events, each on a new connection."""

    def __init__(self, port: int, pid: int) -> None:
        self._port = port
        self._pid = pid
        self._sent = 0

    def measure(
        self, *, probes: int, events: int, wait: Callable[[], object] = lambda: None
    ) -> Figures:
        figures = Figures()
        for number in range(max(probes, events)):
            if number < probes:
                self.probe(figures)
            if number < events:
                self.send(figures)
            wait()
        figures.resident = self.resident
        return figures

    def probe(self, figures: Figures) -> None:
        """Request /livez once."""
        self._timed(figures.livez, figures, lambda: self._ask("GET", "/livez"), 200)

    def send(self, figures: Figures) -> None:
        """Send one more event."""
        self._timed(figures.events, figures, self._send, 202)

    @property
    def cpu(self) -> float:
        """The CPU seconds of the daemon, in steps of 10 ms."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def resident(self) -> int:
        """The daemon's memory, in bytes."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) << 10

    def closed(self, reason: str) -> float:
        """How many connections the daemon has closed for this reason."""
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
            if sample.name == "rebundle_http_connections_closed_total"
            and sample.labels == {"reason": reason}
        )

    def sees_closed(self, count: int, *reasons: str) -> bool:
        """Whether the daemon closes so many connections for these reasons within a minute. It
        serves its other peers between them, and the text of its metrics may be a second old.
        """
        until = time.monotonic() + 60
        while sum(map(self.closed, reasons)) < count:
            if time.monotonic() > until:
                return False
            time.sleep(0.5)
        return True

    def _timed(
        self, into: list[float], figures: Figures, act: Callable[[], int], expected: int
    ) -> None:
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
        return self._ask(
            "POST", "/v1/events", body, {"content-type": "application/cloudevents+json"}
        )

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()


class Flood:
    """Connections of the attacker. `close` ends all of them."""

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
        for connection in self._sockets:
            connection.close()


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
    """Each connection requests /livez every 2.5 s for so many seconds, and is opened again when it
    is lost.
    """
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
    """A daemon with default settings, and its user."""
    with DaemonProcess(folder / "bucket", folder / "journal.db", folder / "log") as daemon:
        yield daemon, User(daemon.port(), daemon.pid)


def allow_open_files(wanted: int = 4096) -> None:
    """A flood needs more descriptors than a login shell's usual 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))


def in_turn(one: User, other: User, *, probes: int) -> tuple[Figures, Figures]:
    """The results of two users that send requests in turn; each is first every other time."""
    seen = {one: Figures(), other: Figures()}
    for number in range(probes):
        for user in (one, other) if number % 2 else (other, one):
            user.probe(seen[user])
    for user, figures in seen.items():
        figures.resident = user.resident
    return seen[one], seen[other]


def ratio(flooded: Figures, control: Figures) -> float:
    """How many times as long the p99 of the flooded daemon is."""
    return p99(flooded.livez) / p99(control.livez)


@dataclass
class Measured:
    """Results before and after a flood of the flooded and the idle daemon, and of the first one's
    user meanwhile.
    """

    before: tuple[Figures, Figures]
    during: Figures
    after: tuple[Figures, Figures]
    later: Figures
    """Events after the flood."""
    cpu: tuple[float, float]
    """CPU seconds of each daemon from one to five seconds after the flood."""

    @property
    def goals(self) -> dict[str, bool]:
        """Each goal, and whether it is met."""
        before, after = self.before[0], self.after[0]
        return {
            "/livez within 1 s": max(self.during.livez) < 1,
            "events within 2 s": max(self.during.events + self.later.events) < 2,
            "nothing refused": not (self.during.refused or after.refused or self.later.refused),
            "p99 of /livez within 2x of the idle daemon": ratio(*self.after) <= 2,
            "memory within 32 MiB": after.resident - before.resident <= 32 << 20,
        }


def measured(folder: Path, flood: Callable[[int], AbstractContextManager[None]]) -> Measured:
    """Two daemons with the same events; only one of them is flooded."""
    with ExitStack() as stack:
        folders = [folder / "flooded", folder / "idle"]
        for item in folders:
            item.mkdir()
        running = [stack.enter_context(flooded_daemon(item)) for item in folders]
        (daemon, user), (_, other) = running

        def settle() -> None:
            for (item, _), place in zip(running, folders, strict=True):
                until_settled(item, place / "journal.db")

        def send_to_the_other_too() -> None:
            other.send(Figures())
            time.sleep(0.25)

        for item in (user, other):
            item.measure(probes=40, events=40)
        settle()
        before = in_turn(user, other, probes=PROBES)
        with flood(daemon.port()):
            during = user.measure(probes=40, events=40, wait=send_to_the_other_too)
        time.sleep(1)
        began = user.cpu, other.cpu
        time.sleep(4)
        cpu = user.cpu - began[0], other.cpu - began[1]
        settle()
        after = in_turn(user, other, probes=PROBES)
        return Measured(before, during, after, user.measure(probes=0, events=10), cpu)


def main() -> int:
    """Measure before, during and five seconds after each flood. Returns 1 if a goal is missed."""
    allow_open_files()
    missed = False
    floods: dict[str, Callable[[int], AbstractContextManager[None]]] = {
        "no flood, for comparison": lambda _: nullcontext(),
        "900 connections x 30 pipelined GET /metrics": lambda port: pipelining(port, 900),
        "1000 keep-alive connections": lambda port: keeping(port, 1000, 25),
    }
    for name, flood in floods.items():
        with tempfile.TemporaryDirectory() as folder:
            found = measured(Path(folder), flood)
        print(name)
        for when, (flooded, idle) in (("before", found.before), ("after", found.after)):
            print(
                f"  {when}: {flooded.summary}\n    idle: {idle.summary}; p99 x {ratio(flooded, idle):.2f}"
            )
        print(f"  during: {found.during.summary}")
        print(
            f"  cpu from 1 to 5 s after the flood: {found.cpu[0]:.2f} s, idle {found.cpu[1]:.2f} s"
        )
        for goal, met in found.goals.items():
            print(f"  {'met' if met else 'MISSED'}: {goal}")
            missed |= not met
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())

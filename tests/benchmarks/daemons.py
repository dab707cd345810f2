"""Whole daemons with a directory bucket, measured from outside: files, metrics and /proc."""

import contextlib
import http.client
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from daemon.publishing import layout
from events.model import Event
from renderers.values import Scope
from tests.benchmarks import accepts
from tests.benchmarks.job import mixed
from tests.benchmarks.measure import ROOT, cpu_seconds
from tests.support.daemon_process import DaemonProcess, post
from tests.support.scenes import event, model_event, state_event

_BATCH = 100
_SECONDS = 600.0
_PASSES = {"REBUNDLE_PUBLISH__LIVE_TREE_SECONDS": "3600"}
"""No timer of the live trees disturbs a measurement."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a number of events cost a daemon."""

    events: int
    publications: int
    cpu: float
    """Seconds of the daemon's process."""
    wall: float


@dataclass(frozen=True, slots=True)
class Accepts:
    """Requests of one event each, while a backlog is published."""

    rate: float
    """Requests a second."""
    bare: float
    """Those of bare FastAPI, before and after."""
    p99: float
    """Seconds of all but one in a hundred."""


def through_http(scopes: int, events: int) -> Load:
    """Events for so many scopes, sent in batches to a daemon with a directory bucket."""
    names = _names(scopes)
    sent = _model_events(names, events)
    with _daemon() as (daemon, port, bucket):
        _create(port, bucket, names)
        cpu, begun = cpu_seconds(daemon.pid), time.perf_counter()
        _send(port, sent)
        _wait(lambda: _metric(port, "rebundle_journal_unacknowledged_events") == 0)
        wall, used = time.perf_counter() - begun, cpu_seconds(daemon.pid) - cpu
        return Load(events, sum(_sequence(bucket, name) - 1 for name in names), used, wall)


def beside_a_backlog(scopes: int, events: int, seconds: float) -> Accepts:
    """Requests of one event each for a time in which a backlog over so many scopes is published."""
    names = _names(scopes)
    with accepts.bare() as bare, _daemon() as (_, port, bucket):
        _create(port, bucket, names)
        before = len(accepts.load(bare, "before", seconds))
        _send(port, _model_events(names, events))
        taken = sorted(accepts.load(port, "beside", seconds))
        assert _metric(port, "rebundle_journal_unacknowledged_events") > len(taken)
        after = len(accepts.load(bare, "after", seconds))
        p99 = taken[len(taken) * 99 // 100]
        return Accepts(len(taken) / seconds, (before + after) / 2 / seconds, p99)


def without_scopes(scopes: int, events: int) -> float:
    """Seconds of CPU for an event without scopes whose model no scope has, one at a time."""
    names = _names(scopes)
    with _daemon() as (daemon, port, bucket):
        _create(port, bucket, names)
        _wait(lambda: all(_is_synced(bucket, name, 1) for name in names))
        cpu = cpu_seconds(daemon.pid)
        for number in range(events):
            _send(port, [model_event(f"m{number}", "900", str(number + 1))])
            time.sleep(0.05)
        _wait(lambda: _metric(port, "rebundle_journal_unacknowledged_events") == 0)
        return (cpu_seconds(daemon.pid) - cpu) / events


def to_the_live_tree(models: int, rounds: int) -> tuple[float, float]:
    """Seconds from an event of one model to its pointer, and to its live tree: medians."""
    composition = mixed(models)
    scope, model = composition.scope, composition.models[0].id
    data = json.loads(composition.canonical) | {"state": {"id": "state-1", "revision": 1}}
    committed: list[float] = []
    synced: list[float] = []
    with _daemon() as (_, port, bucket):
        _send(port, [event("first", "io.rebundle.bundle_state.created.v1", data)])
        _wait(lambda: _is_synced(bucket, scope, 1))
        time.sleep(3)  # until the files are old enough to be known by their status
        for number in range(2, rounds + 2):
            changed = model_event(f"m{number}", model, str(1_000 + number), scopes=[scope])
            begun = time.perf_counter()
            _send(port, [changed])
            _wait(partial(_is_at, bucket, scope, number), pause=0.0005)
            committed.append(time.perf_counter() - begun)
            _wait(partial(_is_synced, bucket, scope, number), pause=0.0005)
            synced.append(time.perf_counter() - begun)
    return median(committed), median(synced)


@contextlib.contextmanager
def _daemon() -> Iterator[tuple[DaemonProcess, int, Path]]:
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as folder:
        bucket = Path(folder, "bucket")
        bucket.mkdir()
        journal, log = Path(folder, "journal.db"), Path(folder, "daemon.log")
        with DaemonProcess(bucket, journal, log, environment=_PASSES) as daemon:
            yield daemon, daemon.port(), bucket


def _names(scopes: int) -> Sequence[Scope]:
    return [Scope("bundle", f"target-{number}") for number in range(scopes)]


def _model_events(names: Sequence[Scope], events: int) -> Sequence[Event]:
    """Events of models that are new, for the scopes in turn."""
    return [
        model_event(f"m{number}", "101", str(100 + number), scopes=[names[number % len(names)]])
        for number in range(events)
    ]


def _create(port: int, bucket: Path, names: Sequence[Scope]) -> None:
    """Publish a first state in each scope."""
    _send(port, [state_event(1, scope=name) for name in names])
    _wait(lambda: all(_sequence(bucket, name) == 1 for name in names))


def _send(port: int, events: Sequence[Event]) -> None:
    for at in range(0, len(events), _BATCH):
        answer = post(port, *events[at : at + _BATCH], seconds=120)
        assert answer is not None
        assert answer.status == 202, answer.body


def _wait(is_done: Callable[[], bool], pause: float = 0.05) -> None:
    limit = time.monotonic() + _SECONDS
    while not is_done():
        assert time.monotonic() < limit
        time.sleep(pause)


def _sequence(bucket: Path, scope: Scope) -> int:
    try:
        signed = json.loads((bucket / layout.pointer(scope)).read_bytes())["signed"]
    except FileNotFoundError:
        return 0
    return int(signed["sequence"])


def _is_at(bucket: Path, scope: Scope, sequence: int) -> bool:
    return _sequence(bucket, scope) == sequence


def _is_synced(bucket: Path, scope: Scope, sequence: int) -> bool:
    try:
        marker = json.loads((bucket / f"{scope}/docker-compose-gen/.rebundle.json").read_bytes())
    except FileNotFoundError:
        return False
    return bool(marker["status"] == "synced" and marker["sequence"] == sequence)


def _metric(port: int, name: str) -> float:
    time.sleep(1.1)  # the text of the metrics is a second old
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    return float(next(line for line in text.splitlines() if line.startswith(name)).split()[-1])

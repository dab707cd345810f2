"""`make bench-stores`: what a publication costs on real S3 and GCS servers, against the bare SDK in
the same run.

    python -m tests.benchmarks.publication [--rounds 15] [--only s3,gcs] [--json FILE] [--write-docs]

Every request is delayed by 0 or 20 ms on its way (`wire`). The floor of a publication is what every
design needs: archive and manifest concurrently, then the pointer, by the bare SDK with bodies of
the same size.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from daemon.bucket import open_store
from daemon.concurrency import Places
from daemon.publishing import layout
from daemon.stores.port import ObjectStore
from daemon.worker import LANES_AT_ONCE, PLACE_SECONDS
from renderers.values import Scope, known_fields
from tests.benchmarks import measure
from tests.benchmarks.job import mixed
from tests.benchmarks.measure import ROOT
from tests.benchmarks.wire import Request, Wire, in_a_row, wire
from tests.builders_runtime import ThreadRuntime
from tests.services import gcs, versitygw
from tests.support.journals import next_of
from tests.support.scenes import GOLDEN, Scene, event, model_event, open_scene, state_event

DOCS = ROOT / "docs" / "performance.md"
BEGIN, END = (
    "<!-- publication: made by make bench-stores ARGS=--write-docs -->",
    "<!-- end of publication -->",
)
MILLISECONDS = (0, 20)
MODELS = (5, 500)
SCOPES = (1, 8, 64)
PUBLICATIONS = 256
MOST_TIMES_THE_FLOOR = 1.5
MOST_IN_A_ROW = 8
CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Server:
    """A real server: its address, the URL of a bucket through another address, and the bare SDK."""

    name: str
    address: str
    bucket_at: Callable[[str], str]
    bare_at: Callable[[str], "Bare"]


@dataclass(frozen=True, slots=True)
class Bare:
    """The requests of a client without any code of Rebundle."""

    create: Callable[[str, bytes], Any]
    replace: Callable[[str, bytes, Any], Any]


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[Server]:
    """versitygw, and boto3."""
    os.environ |= {
        "AWS_ACCESS_KEY_ID": versitygw.ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": versitygw.SECRET_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def bare(address: str) -> Bare:
        client = boto3.client(
            "s3", endpoint_url=address, config=Config(max_pool_connections=CONNECTIONS)
        )
        return Bare(
            lambda key, body: client.put_object(
                Bucket="bench", Key=key, Body=body, IfNoneMatch="*"
            )["ETag"],
            lambda key, body, was: client.put_object(
                Bucket="bench", Key=key, Body=body, IfMatch=was
            )["ETag"],
        )

    with versitygw.versitygw(folder) as address:
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="bench")
        yield Server("S3 (versitygw)", address, lambda way: f"s3://bench/ours?endpoint={way}", bare)


@contextlib.contextmanager
def google(folder: Path) -> Iterator[Server]:
    """fake-gcs-server, and google-cloud-storage."""

    def bare(address: str) -> Bare:
        client = storage.Client(
            "bench", AnonymousCredentials(), client_options={"api_endpoint": address}
        )
        bucket = client.bucket("bench")

        def put(key: str, body: bytes, generation: int) -> int:
            blob = bucket.blob(key)
            blob.upload_from_string(body, if_generation_match=generation, retry=None)
            return int(blob.generation)

        return Bare(lambda key, body: put(key, body, 0), put)

    with gcs.gcs(folder) as server:
        server.create_bucket("bench")
        yield Server(
            "GCS (fake-gcs-server)",
            server.address,
            lambda way: f"gs://bench/ours?endpoint={way}",
            bare,
        )


SERVERS = {"s3": s3, "gcs": google}


@dataclass(frozen=True, slots=True)
class Row:
    """The costs of publications on one server, through one connection, at one size."""

    store: str
    milliseconds: int
    models: int
    committed: float
    """Milliseconds from an event's arrival to the answer of the pointer's write."""
    floor: float
    times: float
    """The median of the ratios of the rounds."""
    commit_requests: int
    commit_in_a_row: int
    synced: float
    """Milliseconds of the following pass over the live tree."""
    synced_requests: int
    synced_in_a_row: int
    kilobytes: float
    """Bodies of all requests and answers of one publication, including the live tree."""
    idle: float
    """Milliseconds of a pass with nothing to do."""
    idle_requests: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Publications per second, with so many scopes at once."""

    store: str
    milliseconds: int
    scopes: int
    publications: float


@contextlib.asynccontextmanager
async def daemon(url: str, folder: Path) -> AsyncIterator[Scene]:
    """A daemon's parts, on a server that accepts writes of one key without a pause (no rate limit)."""
    with ThreadRuntime(CONNECTIONS) as runtime:
        opened = open_store(url, runtime, gcs_write_seconds=0)
        async with open_scene(folder / "journal.db", opened.store) as scene:
            yield scene


async def one(server: Server, milliseconds: int, models: int, rounds: int, folder: Path) -> Row:
    """The rounds of one row: each publishes a new version of one model, and then measures the
    floor.
    """
    with wire(server.address, milliseconds, folder / "wire.log") as way:
        async with daemon(
            server.bucket_at(way.address).replace("/ours", f"/{milliseconds}-{models}"), folder
        ) as scene:
            await scene.batch(_first(models))
            bodies = await _bodies(scene.store)
            floor = Floor(server.bare_at(way.address), bodies, f"floor-{milliseconds}-{models}")
            model = mixed(models).models[models // 2].id
            taken = [
                await _round(scene, way, model, number, floor) for number in range(rounds + 1)
            ][1:]

    def median(of: Callable[[_Round], float]) -> float:
        return statistics.median(map(of, taken))

    return Row(
        server.name,
        milliseconds,
        models,
        median(lambda sample: sample.committed * 1e3),
        median(lambda item: item.floor * 1e3),
        median(lambda sample: sample.committed / sample.floor),
        max(len(sample.commit) for sample in taken),
        max(in_a_row(sample.commit) for sample in taken),
        median(lambda sample: sample.synced * 1e3),
        max(len(sample.sync) for sample in taken),
        max(in_a_row(sample.sync) for sample in taken),
        median(
            lambda sample: (
                sum(one.sent + one.received for one in (*sample.commit, *sample.sync)) / 1e3
            )
        ),
        median(lambda sample: sample.idle * 1e3),
        max(len(sample.rest) for sample in taken),
    )


@dataclass(frozen=True, slots=True)
class _Round:
    committed: float
    synced: float
    idle: float
    floor: float
    commit: Sequence[Request]
    sync: Sequence[Request]
    rest: Sequence[Request]


class Floor:
    """One publication by the bare SDK."""

    def __init__(self, bare: Bare, bodies: tuple[bytes, bytes, bytes], prefix: str) -> None:
        self._bare = bare
        self._archive, self._manifest, self._pointer = bodies
        self._prefix = prefix
        self._pool = ThreadPoolExecutor(2)
        self._version = bare.create(f"{prefix}/pointer.json", self._pointer)
        self._number = 0

    def publish(self) -> float:
        """Seconds."""
        self._number += 1
        begun = time.perf_counter()
        folder = f"{self._prefix}/states/{self._number}"
        for stored in (
            self._pool.submit(self._bare.create, f"{folder}/bundle.tar.gz", self._archive),
            self._pool.submit(self._bare.create, f"{folder}/manifest.json", self._manifest),
        ):
            stored.result()
        body = self._pointer + b"%d" % self._number
        self._version = self._bare.replace(f"{self._prefix}/pointer.json", body, self._version)
        return time.perf_counter() - begun


async def _round(scene: Scene, way: Wire, model: str, number: int, floor: Floor) -> _Round:
    committed: list[float] = []
    scene.watcher.published = lambda *_: committed.append(time.perf_counter())  # type: ignore[method-assign]
    way.taken()
    begun = time.perf_counter()
    await scene.accept(model_event(f"e{number}", model, str(1000 + number), scopes=[GOLDEN]))
    await scene.pipeline.process(GOLDEN, [await next_of(scene.journal)])
    commit, begun_pass = way.taken(), time.perf_counter()
    await scene.pipeline.reconcile(GOLDEN)
    synced, sync, begun_idle = time.perf_counter() - begun_pass, way.taken(), time.perf_counter()
    await scene.pipeline.reconcile(GOLDEN)
    idle, rest = time.perf_counter() - begun_idle, way.taken()
    return _Round(
        committed[0] - begun,
        synced,
        idle,
        await asyncio.to_thread(floor.publish),
        commit,
        sync,
        rest,
    )


async def rate(server: Server, milliseconds: int, scopes: int, folder: Path) -> Rate:
    """So many lanes of five models each, until all waiting events are published.

    Each lane publishes its events one by one; `LANES_AT_ONCE` lanes work at a time.
    """
    names = [Scope("bench", f"scope-{number}") for number in range(scopes)]
    each_publishes = max(1, PUBLICATIONS // scopes)
    with wire(server.address, milliseconds, folder / "wire.log") as way:
        url = server.bucket_at(way.address).replace("/ours", f"/rate-{milliseconds}-{scopes}")
        async with daemon(url, folder) as scene:
            for name in names:
                await scene.batch(state_event(1, scope=name), scope=name)
            for turn in range(each_publishes):
                events = [
                    model_event(f"{name}-{turn}", "101", str(1000 + turn), scopes=[name])
                    for name in names
                ]
                await scene.accept(*events)
            waiting: dict[Scope, list[Any]] = {name: [] for name in names}
            for _ in range(each_publishes * scopes):
                delivery = await next_of(scene.journal)
                waiting[Scope.parse(delivery.scopes[0])].append(delivery)

            places = Places(LANES_AT_ONCE, PLACE_SECONDS)

            async def lane(name: Scope) -> None:
                for delivery in waiting[name]:
                    async with places.hold():
                        await scene.pipeline.process(name, [delivery])

            begun = time.perf_counter()
            await _for_each(names, lane)
            seconds = time.perf_counter() - begun
    return Rate(server.name, milliseconds, scopes, each_publishes * scopes / seconds)


async def _for_each(names: Sequence[Scope], work: Callable[[Scope], Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(_awaited(work(name)))


async def _awaited(work: Awaitable[None]) -> None:
    await work


def _first(models: int) -> Any:
    document = known_fields(mixed(models))
    base = state_event(1)
    return event("first", base.type, {**base.data, **document})


async def _bodies(store: ObjectStore) -> tuple[bytes, bytes, bytes]:
    keys = [entry.key for entry in await store.scan(f"{GOLDEN}/states/")]
    found = [
        (await store.get(next(key for key in keys if key.endswith(name)))).body
        for name in ("bundle.tar.gz", "manifest.json")
    ]
    return found[0], found[1], (await store.get(layout.pointer(GOLDEN))).body


def run(only: set[str], rounds: int, report: Callable[[str], None]) -> tuple[list[Row], list[Rate]]:
    """Every server, delay and size."""
    rows: list[Row] = []
    rates: list[Rate] = []
    for name, opened in SERVERS.items():
        if only and name not in only:
            continue
        # Not /tmp: a file system in memory has no extended attributes, in which versitygw keeps its
        # ETags.
        with tempfile.TemporaryDirectory(dir=ROOT / "var") as place, opened(Path(place)) as server:
            for milliseconds in MILLISECONDS:
                for models in MODELS:
                    with tempfile.TemporaryDirectory() as folder:
                        rows.append(
                            asyncio.run(one(server, milliseconds, models, rounds, Path(folder)))
                        )
                        report(line(rows[-1]))
                for scopes in SCOPES:
                    with tempfile.TemporaryDirectory() as folder:
                        rates.append(asyncio.run(rate(server, milliseconds, scopes, Path(folder))))
                        report(rate_line(rates[-1]))
    return rows, rates


HEAD = (
    "| store | added ms | models | committed, ms | floor, ms | times the floor (goal 1.5) | requests, in a row "
    "| live tree, ms | requests, in a row (goal 8) | kB | idle pass, ms | requests |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|"
)
RATE_HEAD = "| store | added ms | scopes | publications a second |\n|---|---|---|---|"


def line(row: Row) -> str:
    """One row of the table."""
    mark = "" if row.times <= MOST_TIMES_THE_FLOOR else " **not reached**"
    rows_mark = "" if row.synced_in_a_row <= MOST_IN_A_ROW else " **not reached**"
    return (
        f"| {row.store} | {row.milliseconds} | {row.models} | {row.committed:.0f} | {row.floor:.0f} "
        f"| {row.times:.2f}{mark} | {row.commit_requests}, {row.commit_in_a_row} | {row.synced:.0f} "
        f"| {row.synced_requests}, {row.synced_in_a_row}{rows_mark} | {row.kilobytes:.0f} | {row.idle:.0f} "
        f"| {row.idle_requests} |"
    )


def rate_line(found: Rate) -> str:
    """One row of the other table."""
    return f"| {found.store} | {found.milliseconds} | {found.scopes} | {found.publications:.1f} |"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path, default=ROOT / "var" / "bench-stores.json")
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args()
    (ROOT / "var").mkdir(exist_ok=True)
    print(HEAD)
    rows, rates = run(
        set(filter(None, given.only.split(","))), given.rounds, lambda row: print(row, flush=True)
    )
    found = {
        "machine": measure.machine(),
        "rows": [asdict(row) for row in rows],
        "rates": [asdict(r) for r in rates],
    }
    given.json.write_text(json.dumps(found, indent=1))
    if given.write_docs:
        machine = ", ".join(measure.machine().values())
        tables = "\n".join([HEAD, *map(line, rows), "", RATE_HEAD, *map(rate_line, rates)])
        head, _, rest = DOCS.read_text().partition(BEGIN)
        DOCS.write_text(
            f"{head}{BEGIN}\nOn {machine}, {time.strftime('%Y-%m-%d')}.\n\n{tables}\n{END}{rest.partition(END)[2]}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

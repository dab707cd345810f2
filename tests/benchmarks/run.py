"""`make bench`: times every job against its floor and its peers, and reports which goals were
reached.

    python -m tests.benchmarks.run [--sizes 50,500] [--only P1,P16] [--json FILE] [--check] [--write-docs]

`--check` compares a run with the table in docs/performance.md. `--write-docs` replaces that table.
"""

import argparse
import contextlib
import gzip
import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from yaml import CSafeLoader, load

from renderers import compose
from renderers.composition import Composition
from tests.benchmarks import accepts, daemons, job, measure, peers
from tests.benchmarks.backlog import drain
from tests.benchmarks.job import Daemon
from tests.benchmarks.measure import ROOT, Series, in_turn, ratio
from tests.builders import GOLDEN_DEFAULTS
from tests.services.availability import Unavailable
from tests.support.buckets import composition_with, in_bucket
from tests.support.reference_renderer import whole_compose_file

DOCS = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- figures: made by make bench ARGS=--write-docs -->", "<!-- end of figures -->"
TOLERANCE = 0.35
"""How much worse than in the table a ratio may be before `--check` fails: the noise of these
machines.
"""
SIZES = (5, 50, 500, 2_000)
_BACKLOG = 20_000


@dataclass(frozen=True, slots=True)
class Result:
    """One comparison."""

    goal: str
    what: str
    models: int
    value: float
    unit: str
    wanted: str
    """The goal as text; empty if there is none."""
    reached: bool | None
    detail: dict[str, float] = field(default_factory=dict)
    """Median milliseconds of each participant, or megabytes."""

    @property
    def key(self) -> str:
        return f"{self.goal} {self.what} {self.models}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A goal for a figure."""

    limit: float
    at_least: bool

    def is_met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


def at_least(limit: float) -> Wanted:
    return Wanted(limit, at_least=True)


def at_most(limit: float) -> Wanted:
    return Wanted(limit, at_least=False)


def _result(
    goal: str,
    what: str,
    models: int,
    value: float,
    unit: str,
    wanted: Wanted | None,
    series: dict[str, Series],
    *,
    by: str = "cpu",
) -> Result:
    detail = {
        name: round(getattr(participant, by) * 1e3, 3) for name, participant in series.items()
    }
    reached = wanted.is_met(value) if wanted else None
    return Result(goal, what, models, round(value, 3), unit, str(wanted or ""), reached, detail)


def one_image(models: int) -> Iterator[Result]:
    """P1: an event that sets one image, against whole-document ruamel.yaml."""
    composition, daemon = job.mixed(models), Daemon()
    text = job.compose_file(daemon.render(composition)).decode()
    service = peers.service_of(composition)
    image = "registry.example.com/other/image:9"
    expected = job.compose_file(daemon.render(job.with_image(composition, image))).decode()
    if peers.whole_document(text, service, image) != expected:
        raise AssertionError("whole-document ruamel.yaml writes other bytes")
    few = {5: 7, 50: 5, 500: 3, 2_000: 2}.get(models, 3)

    def ours(number: int) -> object:
        return daemon.render(
            job.with_image(composition, f"registry.example.com/other/image:{number}")
        )

    series = in_turn(
        {"ours": ours, "whole document": lambda _: peers.whole_document(text, service, image)}, few
    )
    wanted = {50: at_least(60), 500: at_least(500), 2_000: at_least(1_200)}.get(models)
    yield _result(
        "P1",
        "one image, whole-document ruamel.yaml / ours",
        models,
        ratio(series["whole document"], series["ours"]),
        "x",
        wanted,
        series,
    )


def changes(models: int) -> Iterator[Result]:
    """P2: events of every kind, rendered, with digests of the changes, against one copy and sha256
    of all files.
    """
    composition, daemon = job.mixed(models), Daemon()
    everything = b"".join(file.body for file in daemon.render(composition))

    def event(changed: Composition) -> object:
        # With the digest of every changed file, because the floor has a digest of everything.
        return daemon.packer.members(changed.scope, daemon.render(changed))

    kinds: dict[str, Callable[[int], object]] = {
        "an image": lambda n: event(
            job.with_image(composition, f"registry.example.com/other/image:{n}")
        ),
        "a version": lambda n: event(job.with_version(composition, f"{n + 100}")),
        "a new model": lambda n: event(job.with_one_more(composition, n)),
        "a removed model": lambda n: event(job.with_one_less(composition, n)),
    }

    def floor(_: int) -> object:
        return hashlib.sha256(bytearray(everything)).digest()

    series = in_turn({**kinds, "copy and sha256": floor}, 15, repeat=3)
    for name in kinds:
        limit = 2.5 if name == "a removed model" else 2.0
        wanted = at_most(limit) if models >= 500 else None
        yield _result(
            "P2",
            f"{name}, ours / copy and sha256 of the output",
            models,
            ratio(series[name], series["copy and sha256"]),
            "x",
            wanted,
            series,
        )


def scaling(_: int) -> Iterator[Result]:
    """P3: an event at 2,000 models against one at 500."""
    small, large = job.mixed(500), job.mixed(2_000)
    few, many = Daemon(), Daemon()
    few.render(small), many.render(large)
    series = in_turn(
        {
            "500": lambda n: few.render(job.with_version(small, f"{n + 100}")),
            "2,000": lambda n: many.render(job.with_version(large, f"{n + 100}")),
        },
        15,
        repeat=3,
    )
    yield _result(
        "P3",
        "an event at 2,000 models / at 500",
        2_000,
        ratio(series["2,000"], series["500"]),
        "x",
        at_most(2.5),
        series,
    )
    slope = (series["2,000"].cpu - series["500"].cpu) / 1_500 * 1e6
    yield _result("P3", "for each unchanged model", 2_000, slope, "µs", at_most(3), series)


def templates(models: int) -> Iterator[Result]:
    """P5: the whole tree after an event, against tools that fill only a template of the compose
    file with given values.
    """
    composition, daemon, rounds = job.even(models), Daemon(), 9
    digest = job.sha256(job.compose_file(daemon.render(composition)))
    changed = [
        job.with_image(composition, f"registry.example.com/other/image:{n}")
        for n in range(rounds + 1)
    ]
    values = [job.template_values(item) for item in changed]
    jinja = peers.Jinja.of(composition)
    if job.sha256(jinja.render(job.template_values(composition))) != digest:
        raise AssertionError("the jinja2 template makes other bytes")
    participants: dict[str, Callable[[int], object]] = {
        "ours, every file": lambda n: daemon.render(changed[n]),
        "jinja2, compose file": lambda n: jinja.render(values[n]),
    }
    wanted = {500: at_least(6), 2_000: at_least(8)}.get(models)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        try:
            helm = stack.enter_context(peers.Helm.of(composition, Path(folder)))
            if helm.render(job.template_values(composition))[1] != digest:
                raise AssertionError("Helm makes other bytes")
            participants["helm, compose file"] = lambda n: helm.render(values[n])[0]
        except Unavailable as reason:
            print(f"helm left out: {reason}", file=sys.stderr)
        series = in_turn(participants, rounds)
    ours = series["ours, every file"]
    for name in list(participants)[1:]:
        what, goal = (
            ("Helm's warm engine / ours", wanted)
            if "helm" in name
            else ("a plain jinja2 template / ours", None)
        )
        yield _result(
            "P5", what, models, ratio(series[name], ours, by="wall"), "x", goal, series, by="wall"
        )


def processes(models: int) -> Iterator[Result]:
    """Whole processes that set one image in a compose file on disk, beside an event in a running
    daemon.
    """
    if models > 500:
        return
    composition, daemon = job.even(models), Daemon()
    body = job.compose_file(daemon.render(composition))
    service = peers.service_of(composition)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        by_yq, by_script = folder / "yq.yaml", folder / "script.yaml"
        by_yq.write_bytes(body), by_script.write_bytes(body)

        def changed(number: int) -> object:
            return job.with_image(composition, f"registry.example.com/other/image:{number}")

        participants: dict[str, Callable[[int], object]] = {
            "ours, in a daemon": lambda n: daemon.render(changed(n)),
            "a script with ruamel.yaml": lambda n: peers.script(
                by_script, service, f"registry.example.com/other/image:{n}"
            ),
        }
        tools: dict[str, Callable[[], Callable[[int], object]]] = {
            "yq -i": lambda: (
                peers.go_module(peers.YQ),
                lambda n: peers.yq(by_yq, service, f"registry.example.com/other/image:{n}"),
            )[1],
            "consul-template -once": lambda: _consul(composition, folder / "consul", changed),
            "copier update": lambda: _copier(composition, folder / "copier", changed),
        }
        for tool, prepare in tools.items():
            try:
                participants[tool] = prepare()
            except Unavailable as reason:
                print(f"{tool} left out: {reason}", file=sys.stderr)
        peers.script(by_script, service, "registry.example.com/other/image:x")
        expected = job.compose_file(
            daemon.render(job.with_image(composition, "registry.example.com/other/image:x"))
        )
        if by_script.read_bytes() != expected:
            raise AssertionError("the script makes other bytes")
        if "yq -i" in participants:
            peers.yq(by_yq, service, "registry.example.com/other/image:x")
            if load(by_yq.read_bytes(), CSafeLoader) != load(expected, CSafeLoader):
                raise AssertionError("yq makes another document")
        series = in_turn(participants, 3)
        for tool in list(participants)[1:]:
            yield _result(
                "peers",
                f"{tool} / ours",
                models,
                ratio(series[tool], series["ours, in a daemon"], by="wall"),
                "x",
                None,
                series,
                by="wall",
            )


def _consul(
    composition: object, folder: Path, changed: Callable[[int], object]
) -> Callable[[int], object]:
    folder.mkdir()
    peer = peers.ConsulTemplate(composition, folder)
    if peer.render(composition) != job.compose_file(Daemon().render(composition)):
        raise AssertionError("consul-template makes other bytes")
    return lambda n: peer.render(changed(n))


def _copier(
    composition: object, folder: Path, changed: Callable[[int], object]
) -> Callable[[int], object]:
    folder.mkdir()
    peer = peers.Copier(composition, folder)
    after = changed(-1)
    expected = (
        job.compose_file(Daemon().render(after))
        .decode()
        .replace("#- --enable_batching", "- --enable_batching", 1)
    )
    if peer.update(after).decode() != expected:
        raise AssertionError("copier makes other bytes")
    return lambda n: peer.update(changed(n))


def cold(models: int) -> Iterator[Result]:
    """P9: a first rendering of everything, against the whole compose file through ruamel.yaml."""
    if models > 500:
        return
    composition = job.mixed(models)
    rendered = job.compose_file(Daemon().render(composition)).decode()
    digests = _digests(rendered)
    if whole_compose_file(composition, GOLDEN_DEFAULTS, digests) != rendered:
        raise AssertionError("the reference makes other bytes")

    def ours(_: int) -> object:
        compose._template.cache_clear()
        return Daemon().render(composition)

    series = in_turn(
        {
            "ours": ours,
            "reference": lambda _: whole_compose_file(composition, GOLDEN_DEFAULTS, digests),
        },
        3,
    )
    wanted = at_most(0.6) if models == 500 else None
    yield _result(
        "P9",
        "cold, ours / the whole document through ruamel.yaml",
        models,
        ratio(series["ours"], series["reference"]),
        "x",
        wanted,
        series,
    )


def _digests(text: str) -> dict[str, str]:
    lines = [
        line.split('"')[1]
        for line in text.splitlines()
        if re.search("bundle[.](router|signature):", line)
    ]
    return dict(zip(("router", "proxy"), lines, strict=True))


def to_archive(models: int) -> Iterator[Result]:
    """P16: an event up to the bytes that go to the bucket, against joining, compressing and hashing
    them.
    """
    composition, daemon = job.mixed(models), Daemon()
    daemon.archive(composition)
    raw = gzip.decompress(daemon.archive(composition)[0].body)
    pieces = [raw[at : at + 4096] for at in range(0, len(raw), 4096)]

    def floor(_: int) -> object:
        joined = b"".join(pieces)
        packed = gzip.compress(joined, compresslevel=1, mtime=0)
        return hashlib.sha256(joined).digest(), hashlib.sha256(packed).digest()

    rounds = 15
    changed = [job.with_version(composition, f"{n + 100}") for n in range(rounds + 1)]
    series = in_turn({"ours": lambda n: daemon.archive(changed[n]), "floor": floor}, rounds)
    wanted = at_most(1.5) if models >= 500 else None
    yield _result(
        "P16",
        "event to archive, ours / its floor",
        models,
        ratio(series["ours"], series["floor"]),
        "x",
        wanted,
        series,
    )


def memory(_: int) -> Iterator[Result]:
    """P10: the largest size of a process that renders 2,000 models, minus its imports."""
    imports = "from tests.benchmarks import job, peers"
    alone = measure.peak_megabytes(imports)
    ours = measure.peak_megabytes(f"{imports}\njob.Daemon().render(job.mixed(2000))")
    text = "peers.whole_document(job.compose_file(job.Daemon().render(job.mixed(2000))).decode(), 's101s', 'x')"
    whole = measure.peak_megabytes(f"{imports}\n{text}")
    value = (ours - alone) / (whole - alone)
    detail = {"imports": round(alone, 1), "ours": round(ours, 1), "whole document": round(whole, 1)}
    wanted = at_most(0.25)
    yield Result(
        "P10",
        "peak memory over the imports, ours / whole document",
        2_000,
        round(value, 3),
        "x",
        str(wanted),
        wanted.is_met(value),
        detail,
    )


def start(_: int) -> Iterator[Result]:
    """P11: what a process imports before it can work, the answer to --version, and a command that
    only reads.
    """
    six = "import aiokafka, jinja2, google.cloud.storage, boto3, ruamel.yaml, structlog"
    ours = "import daemon.service, daemon.http.server, daemon.http.app, daemon.cli.commands.run"

    def python(code: str) -> Callable[[int], object]:
        return lambda _: measure.process(sys.executable, "-c", code)

    two = "from pydantic import BaseModel; from cyclopts import App"
    rebundle = Path(sys.executable).with_name("rebundle")
    with tempfile.TemporaryDirectory() as folder:
        bucket = Path(folder, "bucket")
        in_bucket(bucket, lambda opened: opened.publish(composition_with("1"), "state-1", 1))
        series = in_turn(
            {
                "bare interpreter": python("pass"),
                "--version": lambda _: measure.process(rebundle, "--version"),
                "what run imports": python(ours),
                "the six packages": python(six),
                "scopes": lambda _: measure.process(rebundle, "scopes", "--bucket", bucket),
                "pydantic and cyclopts": python(two),
            },
            7,
        )
    yield _result(
        "P11",
        "imports before the daemon is ready / of the six packages",
        0,
        ratio(series["what run imports"], series["the six packages"]),
        "x",
        at_most(0.5),
        series,
    )
    yield _result(
        "P11",
        "--version / a bare interpreter",
        0,
        ratio(series["--version"], series["bare interpreter"]),
        "x",
        at_most(3),
        series,
    )
    yield _result(
        "P11",
        "rebundle scopes on a directory / importing pydantic and cyclopts",
        0,
        ratio(series["scopes"], series["pydantic and cyclopts"]),
        "x",
        at_most(2),
        series,
    )


def backlog(_: int) -> Iterator[Result]:
    """P17: a backlog of small model events, all accepted before the worker starts."""
    for scopes, wanted in ((200, at_most(0.5)), (100, at_most(0.4)), (1, at_most(0.2))):
        done = drain(scopes, _BACKLOG)
        each = done.cpu / _BACKLOG * 1e3
        detail = {
            "floor": round(done.floor / _BACKLOG * 1e3, 3),
            "publications": done.publications,
            "seconds": round(done.wall, 1),
        }
        yield Result(
            "P17",
            f"an event of a backlog of {_BACKLOG:,} over {scopes} scopes",
            0,
            round(each, 3),
            "ms",
            str(wanted),
            wanted.is_met(each),
            detail,
        )
        if scopes == 200:
            most = at_most(400)
            yield Result(
                "P17",
                f"publications of a backlog of {_BACKLOG:,} over {scopes} scopes",
                0,
                done.publications,
                "",
                str(most),
                most.is_met(done.publications),
                detail,
            )


def daemon(_: int) -> Iterator[Result]:
    """P18: a daemon as a process, with a directory bucket."""
    load = daemons.through_http(100, 4_000)
    detail = {"publications": load.publications, "seconds": round(load.wall, 1)}
    what = "4,000 events over 100 scopes through HTTP"
    each = load.cpu / load.events * 1e3
    yield _plain("P18", f"{what}, for each", 0, each, "ms", at_most(1.5), detail)
    yield _plain(
        "P18", f"{what}, until the last is published", 0, load.wall, "s", at_most(20), detail
    )
    alone = daemons.without_scopes(100, 40) * 1e3
    what = "an event without scopes whose model none of 100 scopes has, alone"
    yield _plain("P18", what, 0, alone, "ms", at_most(1), {})
    for models, limit in ((500, 40), (2_000, 100)):
        committed, synced = daemons.to_the_live_tree(models, 9)
        detail = {
            "pointer": round(committed * 1e3, 1),
            "pointer and live tree": round(synced * 1e3, 1),
        }
        what = "event to pointer and live tree, time on the outside"
        yield _plain("P18", what, models, synced * 1e3, "ms", at_most(limit), detail)


def intake(_: int) -> Iterator[Result]:
    """P19: durable accepts of one event per request, against FastAPI without and with storing."""
    found = accepts.rates(5)
    detail = {f"{name} a second": round(rate.a_second) for name, rate in found.items()}
    detail |= {name: round(rate.cpu, 3) for name, rate in found.items()}
    ours, bare, storing = (found[name].a_second for name in ("ours", "bare", "storing"))
    what = "durable accepts of one event a request / bare FastAPI"
    yield _plain("P19", what, 0, ours / bare, "x", at_least(0.5), detail)
    what = "durable accepts / FastAPI that stores each body durably"
    yield _plain("P19", what, 0, ours / storing, "x", None, detail)
    beside = daemons.beside_a_backlog(100, 8_000, 4)
    detail = {"ours a second": round(beside.rate), "bare a second": round(beside.bare)}
    what = "durable accepts while 8,000 events over 100 scopes are published / bare FastAPI"
    yield _plain("P19", what, 0, beside.rate / beside.bare, "x", at_least(0.4), detail)
    what = "99 % of the requests of that time are answered within"
    yield _plain("P19", what, 0, beside.p99 * 1e3, "ms", at_most(100), detail)


def _plain(
    goal: str,
    what: str,
    models: int,
    value: float,
    unit: str,
    wanted: Wanted | None,
    detail: dict[str, float],
) -> Result:
    limit, is_met = (str(wanted), wanted.is_met(value)) if wanted else ("", None)
    return Result(goal, what, models, round(value, 3), unit, limit, is_met, detail)


CASES: dict[str, tuple[Callable[[int], Iterator[Result]], tuple[int, ...]]] = {
    "P1": (one_image, SIZES),
    "P2": (changes, SIZES),
    "P3": (scaling, (2_000,)),
    "P5": (templates, SIZES),
    "P9": (cold, SIZES),
    "P10": (memory, (2_000,)),
    "P11": (start, (0,)),
    "P16": (to_archive, SIZES),
    "P17": (backlog, (0,)),
    "P18": (daemon, (0,)),
    "P19": (intake, (0,)),
    "peers": (processes, SIZES),
}
WHATEVER_SIZE = {"P3", "P10", "P11", "P17", "P18", "P19"}


def run(
    sizes: tuple[int, ...], only: set[str], report: Callable[[str], None]
) -> tuple[list[Result], list[str]]:
    """Every requested comparison, and the failed cases."""
    results: list[Result] = []
    failures: list[str] = []
    for goal, (case, own) in CASES.items():
        if only and goal not in only:
            continue
        for models in own:
            if goal in WHATEVER_SIZE or models in sizes:
                try:
                    for result in case(models):
                        results.append(result)
                        report(line(result))
                except Exception as error:  # noqa: BLE001  # one case must not lose other figures
                    failures.append(f"{goal} at {models} models: {type(error).__name__}: {error}")
    return results, failures


def line(result: Result) -> str:
    """One row of the table."""
    verdict = {True: "reached", False: "**not reached**", None: ""}[result.reached]
    detail = ", ".join(f"{name} {value:g}" for name, value in result.detail.items())
    size = f"{result.models:,}" if result.models else ""
    return f"| {result.goal} | {result.what} | {size} | {result.value:g} {result.unit} | {result.wanted} | {verdict} | {detail} |"


HEAD = "| | what | models | figure | goal | | medians: ms of CPU, of wall where a peer is a process of its own, MB for P10 |\n|---|---|---|---|---|---|---|"


def check(results: list[Result], table: str) -> list[str]:
    """The figures that are worse than in the table, by more than the tolerance."""
    known = {}
    for row in table.splitlines():
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) == 7 and cells[3][:1].isdigit():
            known[f"{cells[0]} {cells[1]} {cells[2].replace(',', '') or 0}"] = (
                float(cells[3].split()[0]),
                cells[4],
            )
    worse = []
    for result in results:
        if not result.wanted:
            continue
        if result.key not in known:
            worse.append(f"{result.key}: no row in the table")
        else:
            before, _ = known[result.key]
            is_worse = (
                result.value < before * (1 - TOLERANCE)
                if result.wanted[0] == "≥"
                else result.value > before * (1 + TOLERANCE)
            )
            if is_worse:
                worse.append(f"{result.key}: {result.value:g}, the table has {before:g}")
    return worse


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path, default=ROOT / "var" / "bench.json")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write-docs", action="store_true")
    given = parser.parse_args()
    sizes = tuple(int(size) for size in given.sizes.split(","))
    print(HEAD)
    results, failures = run(
        sizes, set(filter(None, given.only.split(","))), lambda row: print(row, flush=True)
    )
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(
        json.dumps(
            {
                "at": time.strftime("%Y-%m-%d %H:%M"),
                "machine": measure.machine(),
                "results": [asdict(result) for result in results],
            },
            indent=1,
        )
    )
    text = DOCS.read_text()
    if given.write_docs:
        machine = ", ".join(measure.machine().values())
        table = "\n".join([HEAD, *map(line, results)])
        head, _, rest = text.partition(BEGIN)
        DOCS.write_text(
            f"{head}{BEGIN}\nOn {machine}, {time.strftime('%Y-%m-%d')}.\n\n{table}\n{END}{rest.partition(END)[2]}"
        )
    if given.check:
        worse = check(results, text.partition(BEGIN)[2].partition(END)[0])
        failures += worse
    print(*failures, sep="\n", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

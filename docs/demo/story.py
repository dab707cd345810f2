"""Plays what Rebundle is for, in under a minute: `make demo`.

A real daemon on an embedded journal and a folder as bucket, under ./var/demo. Every step uses its
HTTP intake or the command line, as a user would. It needs the standard library only. What it prints
is read from the bucket.
"""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = Path("var/demo")
BUCKET = ROOT / "bucket"
SCOPE = "visual-anomaly/core-versions"
TREE = BUCKET / SCOPE / "docker-compose-gen"
OVERRIDE = TREE / "example/conf/bundle/.env"
REBUNDLE = str(Path(sys.executable).with_name("rebundle"))
COLOURS = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
LIMIT = 30.0


def bold(text: str) -> str:
    """The text, bold on a terminal."""
    return f"\033[1m{text}\033[0m" if COLOURS else text


def chapter(number: int, title: str) -> None:
    """The head of a part of the story."""
    print(f"\n{bold(f'{number}. {title}')}")


def say(text: str) -> None:
    """A line of the story."""
    print(f"   {text}")


def rebundle(*words: str, show: bool = True, expect: int = 0) -> str:
    """What the command prints, which is shown below it."""
    if show:
        say(f"$ rebundle {' '.join(word if ' ' not in word else repr(word) for word in words)}")
    done = subprocess.run(
        [REBUNDLE, *words], capture_output=True, text=True, check=False, timeout=LIMIT
    )
    if done.returncode != expect:
        sys.exit(
            f"rebundle {words[0]} ended with {done.returncode}, not "
            f"{expect}:\n{done.stdout}{done.stderr}"
        )
    if show:
        for line in (done.stdout + done.stderr).splitlines():
            say(f"  {line}")
    return done.stdout


class Daemon:
    """`rebundle run` as a process, on a free port."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.url = ""

    def start(self) -> None:
        """Start it, and wait until it listens."""
        command = [REBUNDLE, "run", "--listen", "127.0.0.1:0"]
        log = (ROOT / "daemon.log").open("a")
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        for line in self.process.stderr:
            log.write(line)
            if line.startswith("listening on "):
                self.url = line.split()[2].rstrip(",")
                break
        else:
            sys.exit(f"the daemon did not start; see {log.name}")
        # The rest of the log goes to the file; the pipe must not fill up.
        subprocess.Popen(
            ["tee", "-a", log.name], stdin=self.process.stderr, stdout=subprocess.DEVNULL
        )

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal; its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(LIMIT)

    def post(self, event: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Send one event; status and answer."""
        headers = {"content-type": "application/cloudevents+json"}
        url, body = f"{self.url}/v1/events", json.dumps(event).encode()
        request = urllib.request.Request(url, body, headers)  # noqa: S310  # a loopback address
        try:
            with urllib.request.urlopen(request, timeout=LIMIT) as answer:  # noqa: S310  # a loopback address
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


def pointer() -> dict[str, Any]:
    """The pointer as it is in the bucket."""
    signed: dict[str, Any] = json.loads((BUCKET / SCOPE / "pointer.json").read_text())["signed"]
    return signed


def until(what: str, condition: Callable[[], object]) -> None:
    """Wait for something to be seen in the bucket."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError):
            if condition():
                return
        time.sleep(0.005)
    sys.exit(f"waited {LIMIT:g} s in vain for {what}")


def event(event_id: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """A CloudEvent as a registry sends it."""
    source = "https://registry.example.com/"
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "type": f"io.rebundle.{kind}.v1",
        "data": data,
    }


def state(state_id: str, revision: int, **changes: Any) -> dict[str, Any]:
    """A new bundle-state: the three models of the bundle."""
    data = json.loads((HERE / "state.json").read_text())["data"]
    data |= {"state": {"id": state_id, "revision": revision}} | changes
    return event(f"{SCOPE}/{state_id}", "bundle_state.created", data)


def moved(model_id: str, version: str) -> list[dict[str, Any]]:
    """The three models, one of them at another version."""
    models: list[dict[str, Any]] = json.loads((HERE / "state.json").read_text())["data"]["models"]
    uri = f"gs://example-bucket/models/{model_id}/{version}"
    new = {"version": version, "artifact": {"uri": uri}}
    kept = [
        {key: value for key, value in model.items() if key != "serving_version"} for model in models
    ]
    return [model | new if model["id"] == model_id else model for model in kept]


def new_version() -> dict[str, Any]:
    """A new model: version 4 of model 101."""
    model = {"id": "101", "version": "4", "artifact": {"uri": "gs://example-bucket/models/101/4"}}
    return event("model-101-4", "model_version.created", {"model": model})


def joining() -> dict[str, Any]:
    """A new model: 104 joins the bundle."""
    serving = {
        "platform": "tensorflow",
        "image": "registry.example.com/visual-anomaly/tensorflow-serving:2.19.1",
        "resources": {"limits": {"cpus": 2, "memory": "4g"}},
    }
    model = {
        "id": "104",
        "version": "1",
        "artifact": {"uri": "s3://example-bucket/models/104/1"},
        "serving": serving,
    }
    bundle, target = SCOPE.split("/")
    return event(
        "model-104-1",
        "model_version.created",
        {"model": model, "bundles": [{"name": bundle, "target": target}]},
    )


def fingerprint(path: Path) -> str:
    """A digest to compare bytes by."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def live() -> str:
    """What is served now, in words."""
    now = pointer()
    held = f", held ({now['hold']['reason']})" if now["hold"] else ""
    return f"live {now['live']['state']}, desired {now['desired']['state']}{held}"


@contextlib.contextmanager
def daemon() -> Iterator[Daemon]:
    """The daemon, ended whatever happens."""
    running = Daemon()
    running.start()
    try:
        yield running
    finally:
        if running.process is not None and running.process.poll() is None:
            running.stop()


def until_live(what: str, condition: Callable[[dict[str, Any]], object]) -> None:
    """Wait for a pointer, and for the live tree that follows it."""
    until(what, lambda: condition(pointer()))

    def synced() -> bool:
        marker = json.loads((TREE / ".rebundle.json").read_text())
        return bool(marker["status"] == "synced" and marker["sequence"] == pointer()["sequence"])

    until(f"the live tree with {what}", synced)


def first_state(running: Daemon) -> None:
    """Chapter 1."""
    chapter(1, "A registry says: new bundle-state")
    status, answer = running.post(state("state-0042", 42))
    say(
        f"POST /v1/events: {status}, durable before it was answered, known: "
        f"{answer['events'][0]['known']}"
    )
    until_live("the first state", lambda now: now["live"])
    say(f"published: {live()}. The live tree, which operators copy:")
    files = [str(path.relative_to(TREE)) for path in sorted(TREE.rglob("*")) if path.is_file()]
    say(
        "  "
        + "  ".join(path for path in files if path.startswith("base/") and ".rebundle" not in path)
    )
    say("  " + "  ".join(path for path in files if path.startswith("example/")) + "  README.md")


def override() -> str:
    """Chapter 2. The digest of the operator's file."""
    chapter(2, "An operator changes example/conf/bundle/.env")
    OVERRIDE.write_text(
        OVERRIDE.read_text().replace("MODEL_PROXY_HTTP_PORT=8000", "MODEL_PROXY_HTTP_PORT=9000")
    )
    say(f"MODEL_PROXY_HTTP_PORT=9000, sha256 of the file {fingerprint(OVERRIDE)}…")
    return fingerprint(OVERRIDE)


def new_models(running: Daemon, mine: str) -> None:
    """Chapter 3."""
    chapter(3, "The registry says: new model, twice")
    running.post(new_version())
    until_live("version 4 of 101", lambda now: now["highest_revision"] == "42.1")
    say(f"101 moves to version 4: {live()}")
    running.post(joining())
    until_live("model 104", lambda now: now["highest_revision"] == "42.2")
    say(f"104 joins: {live()}")
    say("router: " + "  ".join((TREE / "base/bundle/nginx/models.map").read_text().splitlines()))
    compose = (TREE / "base/bundle/docker-compose.yaml").read_text().splitlines()
    limits = [line.strip() for line in compose if "SERVING_104" in line and "_LIMIT" in line]
    say(f"104 is limited by the bundle's own defaults: {'  '.join(limits)}")
    untouched(mine)


def untouched(mine: str) -> None:
    """Say, after a look, that the operator's file is what it was."""
    if fingerprint(OVERRIDE) != mine:
        sys.exit("the operator's file was changed")
    say(f"the operator's file: sha256 {mine}…, byte for byte what it was")


def bad_events(running: Daemon) -> None:
    """Chapter 4."""
    chapter(4, "The same event again, a malformed one, one that does not fit")
    before = pointer()["sequence"]
    status, answer = running.post(new_version())
    say(
        f"the same again: {status}, known: {answer['events'][0]['known']}; nothing changes "
        f"(sequence {before})"
    )
    status, answer = running.post(
        state("state-0043", 0, models=[{"id": "Nope; rm -rf", "version": "1"}])
    )
    say(
        f"malformed: {status} with {len(answer['errors'])} errors at once, and kept among "
        "the rejected:"
    )
    rebundle("dead-letters", "list", "--rejected")
    bundle, target = SCOPE.split("/")
    data = {"model": {"id": "105", "version": "1"}, "bundles": [{"name": bundle, "target": target}]}
    status, _ = running.post(event("model-105-1", "model_version.created", data))
    until("the dead letter", lambda: "model-105-1" in rebundle("dead-letters", "list", show=False))
    say(f"new to its scope and incomplete: {status}, then a dead letter that can be replayed:")
    rebundle("dead-letters", "list")
    if pointer()["sequence"] != before:
        sys.exit("the pointer was changed")


def roll_back(running: Daemon, mine: str) -> None:
    """Chapter 5."""
    chapter(5, "Look, roll back, hold, resume")
    rebundle("states", SCOPE)
    rebundle("diff", SCOPE, "state-0042", pointer()["live"]["state"], "--name-only")
    rebundle("verify", SCOPE)
    rebundle("rollback", SCOPE, "state-0042", "--reason", "score drift", "--yes")
    untouched(mine)
    running.post(state("state-0050", 50, models=moved("102", "8")))
    until_live("state-0050", lambda now: now["desired"]["state"] == "state-0050")
    say(f"the next event is published, and waits: {live()}")
    rebundle("resume", SCOPE, "--yes")


def uploading() -> list[Path]:
    """Archives that are stored but not named by the pointer: in progress, or interrupted."""
    named = {(each["state"], each["attempt"]) for each in pointer()["retained"]}
    stored = (BUCKET / SCOPE / "states").glob("*/*/bundle.tar.gz")
    return [path for path in stored if (path.parent.parent.name, path.parent.name) not in named]


def crash(running: Daemon, mine: str) -> None:
    """Chapter 6."""
    chapter(6, "SIGKILL in the middle of a publication")
    before = pointer()["sequence"]
    for number in range(51, 59):
        running.post(state(f"state-00{number}", number))
    until("an upload that no pointer names yet", uploading)
    running.stop(signal.SIGKILL)
    left = len(uploading())
    say(f"8 states accepted; killed with {left} archives stored that no pointer names")
    say(f"(sequence {before} → {pointer()['sequence']}). What is published is whole:")
    rebundle("verify", SCOPE)
    running.start()
    until_live("the last state", lambda now: now["live"]["state"] == "state-0058")
    say(f"started again, no event lost: {live()}, sequence {pointer()['sequence']}")
    untouched(mine)
    say(f"SIGTERM: drained, exit code {running.stop()}")


def play() -> None:
    """The story."""
    with daemon() as running:
        first_state(running)
        mine = override()
        new_models(running, mine)
        bad_events(running)
        roll_back(running, mine)
        crash(running, mine)


def main() -> None:
    """Play it on a clean stage."""
    shutil.rmtree(ROOT, ignore_errors=True)
    ROOT.mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith("REBUNDLE_")]:
        del os.environ[name]  # the story has settings of its own
    os.environ |= {
        "REBUNDLE_BUCKET": str(BUCKET),
        "REBUNDLE_JOURNAL__PATH": str(ROOT / "journal.db"),
    }
    began = time.monotonic()
    play()
    print(f"\n{bold('Look around')} (it took {time.monotonic() - began:.0f} s)")
    say(
        f"the bucket is the folder {BUCKET}: pointer.json, states/, docker-compose-gen/ "
        f"below {SCOPE}"
    )
    say(f"export REBUNDLE_BUCKET={BUCKET}")
    say(f"rebundle status; rebundle history {SCOPE}; rebundle show {SCOPE}   (in .venv/bin)")


if __name__ == "__main__":
    main()

"""The command line as processes: a real daemon with its journal and a directory bucket, and
commands beside it.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.builders import composition_document, model_document
from tests.support.daemon_process import until

ROOT = Path(__file__).parents[2]
SCOPE = "visual-anomaly/core-versions"
SECONDS = 60


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Command = Callable[..., Done]


@pytest.fixture
def rebundle(tmp_path: Path) -> Command:
    """Runs the command in a separate process, in an empty working directory, without a terminal."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("REBUNDLE_")
    }

    def run(*arguments: object, stdin: str = "") -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "daemon", *map(str, arguments)],
            cwd=tmp_path,
            env=environment | {"PYTHONPATH": str(ROOT)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[str]:
    """The address of `rebundle run` with only a free port configured.

    It is stopped by SIGTERM and must exit with 0.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "daemon", "run", "--listen", "127.0.0.1:0"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if "listening on http://" in line:
                break
        else:
            pytest.fail("the daemon did not start:\n" + "".join(said))
        yield line.split("listening on ")[1].split(",")[0].strip()
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, rest
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def event(event_id: str, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": event_id,
        "source": "https://registry.example.com/",
        "type": f"io.rebundle.{kind}.v1",
        "data": data,
    }


def state(number: int, models: int) -> dict[str, Any]:
    data = composition_document(models) | {"state": {"id": f"state-{number}", "revision": number}}
    return event(f"state-{number}", "bundle_state.created", data)


def test_a_scenario_from_events_to_a_rollback_and_back(
    daemon: str, rebundle: Command, tmp_path: Path
) -> None:
    send = ("send", "-", "--to", daemon, "--wait")
    sent = rebundle(*send, "-o", "json", stdin=json.dumps([state(1, 2), state(2, 3)]))
    assert sent.code == 0, sent.err
    assert [item["scopes"][0]["outcome"] for item in sent.json["events"]] == [
        "published",
        "published",
    ]

    # An outcome does not wait for the live tree.
    override = tmp_path / "var/bucket" / SCOPE / "docker-compose-gen/example/conf/bundle/.env"
    until(override.exists, seconds=30)
    override.write_bytes(b"MINE=1\n")

    model = model_document("101", version="9")
    again = [event("m1", "model_version.created", {"model": model}), state(2, 3)]
    known = rebundle(*send, "-o", "json", stdin="\n".join(map(json.dumps, again))).json["events"]
    assert [receipt["known"] for receipt in known] == [False, True]

    states = rebundle("states", SCOPE, "-o", "json").json["states"]
    assert [item["revision"] for item in states] == ["2.1", "2", "1"]

    faulty = rebundle("send", "-", "--to", daemon, stdin=json.dumps(state(3, 0)))
    assert faulty.code == 1
    assert "- event 1: $.data.models: " in faulty.err
    assert len(rebundle("dead-letters", "list", "--rejected", "-o", "json").json["rejected"]) == 1

    rolled_back = rebundle("rollback", SCOPE, "state-1", "--reason", "bad", "--yes", "-o", "json")
    assert rolled_back.json["after"]["live"]["state"] == "state-1"
    assert rebundle(*send, stdin=json.dumps(state(4, 1))).code == 0
    status = rebundle("status", "-o", "json").json["scopes"][0]
    assert (status["live"]["state"], status["desired"]["state"]) == ("state-1", "state-4")
    assert "state-4 is waiting" in status["attention"][0]
    assert rebundle("diff", SCOPE, "--exit-code").code == 1

    assert rebundle("resume", SCOPE, "--yes").code == 0
    assert rebundle("diff", SCOPE, "--exit-code").code == 0
    assert rebundle("verify", "--all").code == 0
    assert override.read_bytes() == b"MINE=1\n"
    assert rebundle("healthcheck", "--listen", daemon.removeprefix("http://")).code == 0


def test_an_event_that_does_not_fit_its_scope_becomes_a_dead_letter_that_can_be_replayed(
    daemon: str, rebundle: Command
) -> None:
    send = ("send", "-", "--to", daemon, "--wait", "-o", "json")
    named = {
        "model": model_document("101", version="2"),
        "bundles": [{"name": "visual-anomaly", "target": "core-versions"}],
    }
    early = rebundle(*send, stdin=json.dumps(event("m1", "model_version.created", named)))
    assert early.code == 1
    assert early.json["events"][0]["scopes"][0]["outcome"] == "dead-lettered"
    assert "send bundle_state.created first" in rebundle("dead-letters", "list").out

    assert rebundle(*send, stdin=json.dumps(state(1, 1))).code == 0
    assert rebundle("dead-letters", "replay", 1).code == 0
    later = rebundle(*send, stdin=json.dumps(state(2, 2)))

    assert later.code == 0
    assert rebundle("dead-letters", "list", "-o", "json").json["dead_letters"] == []
    assert [
        entry["published"][0].split("@")[0][:9]
        for entry in rebundle("history", SCOPE, "-o", "json").json["history"]
    ][-1] == "state-1"


def test_an_unreachable_daemon_is_exit_code_6(rebundle: Command) -> None:
    result = rebundle("send", "-", "--to", "http://127.0.0.1:9", stdin=json.dumps(state(1, 1)))

    assert result.code == 6
    assert "0 of 1 events were accepted" in result.err

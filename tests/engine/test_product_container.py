"""deploy/ on a real engine: the image builds without BuildKit, and its container keeps the promises
of deploy/compose.yaml under a kill and a stop.

The base image is one of Debian's packages with the wheels of the locks. What is in deploy/ is not
changed but for names of images.
"""

import json
import re
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from events.model import Event
from tests.services import images as images_service
from tests.services.availability import available
from tests.services.compose import Compose
from tests.services.engine import Engine
from tests.support.engine_host import eventually
from tests.support.scenes import GOLDEN, state_event

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
IMAGE = "rebundle.test/rebundle:built"
_BUILD_SECONDS = 900


@pytest.fixture(scope="module")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of deploy/Containerfile, built by the engine's own builder."""
    base = available(lambda: images_service.python_slim(engine))
    text = (DEPLOY / "Containerfile").read_text()
    changed, bases = re.subn(r"(?m)^FROM \S+", f"FROM {base}", text)
    assert bases == 2
    file = tmp_path_factory.mktemp("build") / "Containerfile"
    file.write_text(changed)
    words = ("--quiet", "--network", "none", "--tag", IMAGE, "--file", file)
    engine.run("build", *words, ROOT, limit=_BUILD_SECONDS)
    return IMAGE


@dataclass(frozen=True, slots=True)
class Deployment:
    """The project of deploy/compose.yaml, started under a name of its own."""

    engine: Engine
    compose: Compose
    override: Path
    project: str

    def run(self, *words: str) -> str:
        files = ("--file", str(DEPLOY / "compose.yaml"), "--file", str(self.override))
        environment = self.engine.environment | {
            "COMPOSE_PROJECT_NAME": self.project,
            # A port that the engine's host has free.
            "REBUNDLE_PORT": "0",
        }
        output = self.compose.command(DEPLOY, *files, *words, env=environment)
        assert output.code == 0, output.text
        return output.stdout

    @property
    def container(self) -> str:
        return self.run("ps", "--all", "--quiet", "rebundle").strip()

    def execute(self, *words: str) -> str:
        return self.engine.run("exec", self.container, *words)

    def send(self, *events: Event, wait: bool) -> None:
        """Asserts that the daemon acknowledges them, and, with `wait`, that they are settled."""
        batch = [json.loads(event.structured()) for event in events]
        with tempfile.TemporaryFile() as file:
            file.write(json.dumps(batch).encode())
            file.seek(0)
            words = ("rebundle", "send", "-", *(["--wait"] if wait else []))
            self.engine.run("exec", "--interactive", self.container, *words, stdin=file)

    def published(self) -> Sequence[str]:
        document = json.loads(self.execute("rebundle", "states", str(GOLDEN), "--output", "json"))
        return [state["state"] for state in document["states"]]

    def is_ready(self) -> bool:
        state = self.engine.inspect(self.container)["State"]
        return state["Running"] and state["Health"]["Status"] == "healthy"


@pytest.fixture
def deployment(
    engine: Engine, compose: Compose, image: str, tmp_path: Path
) -> Iterator[Deployment]:
    override = tmp_path / "override.yaml"
    # A check each second, so that a test need not wait for the daemon's 15.
    override.write_text(
        "services:\n"
        f"  tokens: {{image: {image}}}\n"
        f"  rebundle: {{image: {image}, healthcheck: {{interval: 1s}}}}\n"
    )
    found = Deployment(engine, compose, override, f"product-{secrets.token_hex(4)}")
    try:
        found.run("up", "--detach", "--no-build", "--wait")
        yield found
    finally:
        found.run("down", "--volumes", "--timeout", "1")


def test_the_daemon_runs_without_privileges_on_a_root_it_cannot_write(
    deployment: Deployment,
) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in deployment.execute("cat", "/proc/1/status").splitlines()
        if ":\t" in line
    )

    assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"65532"}
    assert {status[name] for name in ("CapEff", "CapPrm", "CapBnd")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    written = "touch /var/lib/rebundle/a && ! touch /a /opt/rebundle/a /etc/rebundle/tokens/a"
    deployment.execute("sh", "-c", written)


def test_an_event_is_published(deployment: Deployment) -> None:
    deployment.send(state_event(1), wait=True)

    assert deployment.published() == ["state-1"]
    deployment.execute("rebundle", "verify", "--all")


def test_acknowledged_events_are_published_after_a_kill(
    deployment: Deployment, engine: Engine, image: str
) -> None:
    deployment.send(state_event(1), state_event(2), state_event(3), wait=False)
    engine.kill(deployment.container, image)
    eventually(lambda: engine.inspect(deployment.container)["RestartCount"] == 1)
    eventually(deployment.is_ready)

    eventually(lambda: set(deployment.published()) == {"state-1", "state-2", "state-3"})
    deployment.execute("rebundle", "verify", "--all")


def test_a_stop_ends_in_time_and_loses_no_event(deployment: Deployment, engine: Engine) -> None:
    deployment.send(state_event(1), state_event(2), wait=False)
    deployment.run("stop", "rebundle")
    assert engine.inspect(deployment.container)["State"]["ExitCode"] == 0

    deployment.run("start", "--wait", "rebundle")
    eventually(lambda: set(deployment.published()) == {"state-1", "state-2"})


def test_the_tokens_stay_when_the_project_starts_again(deployment: Deployment) -> None:
    token = deployment.execute("cat", "/etc/rebundle/tokens/http-token")
    deployment.run("up", "--detach", "--no-build", "--force-recreate", "--wait")

    assert re.fullmatch("[0-9a-f]{64}", token.strip())
    assert deployment.execute("cat", "/etc/rebundle/tokens/http-token") == token

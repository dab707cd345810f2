"""A daemon with a signing key, and readers with a trust policy, as processes."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon_process import PROJECT, DaemonProcess, post, until_settled
from tests.support.scenes import GOLDEN, state_event

SECONDS = 60


@dataclass(frozen=True, slots=True)
class Place:
    """A bucket, the journal of its daemon, a key, and a policy that requires a fresh pointer."""

    folder: Path

    def __post_init__(self) -> None:
        self.output_of("keys", "generate", "signing.key")
        self.output_of("keys", "trust", "trust.json", "signing.key.pub", "--freshness", "required")
        policy = f'[trust]\npolicy = "{self.folder / "trust.json"}"\nstate_file = "{self.folder / "seen.json"}"\n'
        key = f'[signing]\nkey_file = "{self.folder / "signing.key"}"\nfreshness_minutes = 60\n'
        (self.folder / "reader.toml").write_text(policy)
        (self.folder / "writer.toml").write_text(policy.replace("seen.json", "written.json") + key)

    def daemon(self, *also: str) -> DaemonProcess:
        return DaemonProcess(self.folder / "bucket", self.journal, self.folder / "log", also=also)

    @property
    def journal(self) -> Path:
        return self.folder / "journal.db"

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("REBUNDLE_")
        }
        return subprocess.run(
            [sys.executable, "-m", "daemon", *words],
            cwd=self.folder,
            env=kept | {"PYTHONPATH": str(PROJECT)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def output_of(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def verified(self) -> subprocess.CompletedProcess[str]:
        return self.run("verify", str(GOLDEN), "--bucket", "bucket", "--config", "reader.toml")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def publish(daemon: DaemonProcess, place: Place, number: int) -> None:
    answer = post(daemon.port(), state_event(number, event_id=f"event-{number}"))
    assert answer is not None
    assert answer.status == 202
    until_settled(daemon, place.journal)


def test_readers_that_require_freshness_accept_what_a_daemon_signs(place: Place) -> None:
    with place.daemon("--config", "writer.toml") as daemon:
        publish(daemon, place, 1)
        assert daemon.stop() == 0
    done = place.verified()
    assert (done.returncode, "has no freshness.json" in done.stdout) == (5, True)
    with place.daemon("--config", "writer.toml") as daemon:
        daemon.port()
        deadline = time.monotonic() + SECONDS
        while (done := place.verified()).returncode:
            assert time.monotonic() < deadline, done.stdout
        assert daemon.stop() == 0


def test_a_daemon_that_lost_its_key_publishes_nothing_and_loses_nothing(place: Place) -> None:
    with place.daemon("--config", "writer.toml") as daemon:
        publish(daemon, place, 1)
        assert daemon.stop() == 0
    pointer = place.folder / "bucket" / str(GOLDEN) / "pointer.json"
    signed = pointer.read_bytes()
    with place.daemon() as daemon:
        answer = post(daemon.port(), state_event(2, event_id="event-2"))
        assert answer is not None
        deadline = time.monotonic() + SECONDS
        while "no signing key is configured" not in daemon.log_text:
            assert time.monotonic() < deadline, daemon.log_text
            time.sleep(0.05)
        assert pointer.read_bytes() == signed
        assert daemon.stop() == 0
    with place.daemon("--config", "writer.toml") as daemon:
        until_settled(daemon, place.journal)
        assert json.loads(pointer.read_bytes())["signed"]["live"]["state"] == "state-2"
        assert daemon.stop() == 0

"""Templates and defaults of one scope in a daemon: used for that scope only, read at the start, and
published only by an event or `republish`.
"""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from events.model import Event
from renderers.values import Scope
from tests.support.daemon_process import PROJECT, DaemonProcess, clean_log, post, until_settled
from tests.support.scenes import state_event

OWN, OTHER = Scope("bundle", "own"), Scope("bundle", "other")


def templates(directory: Path, comment: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "header.yaml").write_text(f"# {comment}\nservices:\n")


class Site:
    """A bucket, a journal and a settings file."""

    def __init__(self, folder: Path) -> None:
        self.bucket, self.journal, self.config = (
            folder / "bucket",
            folder / "journal.db",
            folder / "rebundle.toml",
        )
        self._folder, self._daemons = folder, 0

    def rebundle(self, *arguments: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "daemon",
            *arguments,
            "--bucket",
            str(self.bucket),
            "--config",
            str(self.config),
        ]

    def daemon(self) -> DaemonProcess:
        self._daemons += 1
        self.log = self._folder / f"{self._daemons}.log"
        place = ("--journal", str(self.journal), "--listen", "127.0.0.1:0")
        return DaemonProcess(self.bucket, self.journal, self.log, self.rebundle("run", *place))

    def send(self, daemon: DaemonProcess, *events: Event) -> None:
        answer = post(daemon.port(), *events)
        assert answer is not None
        assert answer.status == 202, answer.body
        until_settled(daemon, self.journal)

    def live(self, scope: Scope) -> tuple[str, str, str, str]:
        """State, first line of the compose file, the router's restart policy, digest of the
        templates.
        """
        home = self.bucket / str(scope)
        live = json.loads((home / "pointer.json").read_bytes())["signed"]["live"]
        publication = home / f"states/{live['state']}/{live['attempt']}"
        manifest = json.loads((publication / "manifest.json").read_bytes())
        # The archive, because the live tree is eventually consistent.
        with tarfile.open(publication / "bundle.tar.gz") as archive:
            compose = archive.extractfile("base/bundle/docker-compose.yaml")
            assert compose is not None
            first_line = compose.readline().decode().rstrip()
        return (
            live["state"],
            first_line,
            manifest["render_defaults"].get("restart", ""),
            manifest["templates"],
        )


@pytest.mark.slow
def test_a_scope_keeps_the_templates_of_its_start_until_it_is_republished(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    templates(tmp_path / "mine", "First")
    site.config.write_text(f'[scopes."{OWN}"]\ntemplates = "mine"\nrender.restart = "always"\n')
    with site.daemon() as daemon:
        site.send(
            daemon, *(state_event(1, scope=scope, event_id=f"{scope}/1") for scope in (OWN, OTHER))
        )
        first, other = site.live(OWN), site.live(OTHER)
        templates(tmp_path / "mine", "Half {% if")
        site.send(daemon, state_event(2, scope=OWN, version="2", event_id="2"))
        second = site.live(OWN)
        assert daemon.stop() == 0
    with clean_log(site.log):
        templates(tmp_path / "mine", "Second")
        with site.daemon() as daemon:
            daemon.port()
            untouched = site.live(OWN)
            environ = {**os.environ, "PYTHONPATH": str(PROJECT)}
            command = site.rebundle("republish", str(OWN))
            subprocess.run(
                command, cwd=tmp_path, env=environ, check=True, capture_output=True, timeout=60
            )
            republished = site.live(OWN)
            assert daemon.stop() == 0

    assert first[1:3] == ("# First", "always")
    assert other[1] != "# First"
    assert other[2] == "unless-stopped"
    assert second[1:] == first[1:]
    assert untouched == second
    assert republished[0] == second[0]
    assert republished[1:3] == ("# Second", "always")
    assert len({first[3], other[3], republished[3]}) == 3


def test_a_template_that_the_gate_would_refuse_stops_the_start_and_loses_nothing(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/models.map").write_text("{{ id | nginx_key }} elsewhere:{{ port }};\n")
    site.config.write_text(f'[scopes."{OWN}"]\ntemplates = "mine"\n')

    with site.daemon() as daemon:
        assert daemon.ended() == 2

    assert (
        f"template self-test for {OWN}: base/bundle/nginx/models.map:1: expected"
        in site.log.read_text()
    )
    assert not site.journal.exists()

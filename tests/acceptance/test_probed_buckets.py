"""The daemon with a bucket that ignores conditions, is unreachable at the start, or compares ETags
without quotes.
"""

import http.client
import json
from pathlib import Path

import pytest

from daemon.publishing.trust.keys import generate
from tests.services.processes import free_port
from tests.support.daemon_process import DaemonProcess, post, until, until_settled
from tests.support.faulty_s3_server import BUCKET, Defect, faulty_s3
from tests.support.scenes import GOLDEN, state_event


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_PROFILE", "AWS_CA_BUNDLE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")


def ready(port: int) -> dict[str, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/readyz")
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return {check["name"]: check for check in answer["checks"]}


def test_a_bucket_that_ignores_conditions_stops_the_daemon_with_a_message_and_no_write(
    tmp_path: Path,
) -> None:
    with faulty_s3(Defect.IGNORES_CONDITIONS) as server:
        with DaemonProcess(server.url(), tmp_path / "journal.db", tmp_path / "log") as daemon:
            assert daemon.ended() == 6
        assert "published states could be overwritten" in daemon.log_text
        assert "docs/stores.md" in daemon.log_text
        assert "Traceback" not in daemon.log_text
        assert {
            request.key.rpartition("/")[0] for request in server.requests if request.method == "PUT"
        } == {".rebundle/probe"}
        assert server.objects == {}


def test_events_are_accepted_while_the_bucket_is_unreachable_and_published_once_it_is_probed(
    tmp_path: Path,
) -> None:
    """The returning server compares ETags without quotes, so every swap of the pointer depends on
    that, too.
    """
    port, journal = free_port(), tmp_path / "journal.db"
    url = f"s3://{BUCKET}/p?endpoint=http://127.0.0.1:{port}&region=us-east-1"
    with DaemonProcess(url, journal, tmp_path / "log") as daemon:
        intake = daemon.port()
        answer = post(intake, state_event(1, event_id="first"))
        assert answer is not None
        assert answer.status == 202
        until(lambda: "until a retry succeeds" in daemon.log_text)
        check = ready(intake)["bucket"]
        assert (check["ok"], check["degraded"]) == (True, True)

        with faulty_s3(Defect.COMPARES_WITHOUT_QUOTES, port) as server:
            until_settled(daemon, journal)
            assert post(intake, state_event(2, event_id="second")) is not None
            until_settled(daemon, journal)
            assert ready(intake)["bucket"]["degraded"] is False
            pointer = json.loads(server.objects[f"p/{GOLDEN}/pointer.json"].body)["signed"]
            assert daemon.stop() == 0

    assert pointer["sequence"] == 2
    first_put = next(request for request in server.requests if request.method == "PUT")
    assert first_put.key.startswith("p/.rebundle/probe/")
    assert not any(key.startswith("p/.rebundle/probe/") for key in server.objects)


def test_no_timer_touches_a_bucket_before_it_has_been_probed(tmp_path: Path) -> None:
    settings = tmp_path / "rebundle.toml"
    key = tmp_path / "signing.key"
    key.write_text(generate()[0])
    key.chmod(0o600)
    settings.write_text(
        "[retention]\nevery_hours = 0.00001\n[publish]\nlive_tree_seconds = 1\n"
        f'[signing]\nkey_file = "{key}"\nfreshness_minutes = 60\n'
    )
    with faulty_s3(Defect.FORBIDS_WRITES) as server:
        asked = ("--config", str(settings))
        with DaemonProcess(
            server.url("p"), tmp_path / "journal.db", tmp_path / "log", also=asked
        ) as daemon:
            daemon.port()
            until(lambda: sum(request.method == "PUT" for request in server.requests) >= 3)
            touched = {request.key or request.query["prefix"] for request in server.requests}
            server.defect = Defect.NONE
            until(lambda: any(request.query.get("prefix") == "p/" for request in server.requests))
            assert daemon.stop() == 0

    assert {key.rpartition("/")[0] for key in touched} == {"p/.rebundle/probe"}


def test_a_daemon_that_waits_for_its_bucket_stops_at_once(tmp_path: Path) -> None:
    url = f"s3://{BUCKET}/p?endpoint=http://127.0.0.1:{free_port()}&region=us-east-1"
    with DaemonProcess(url, tmp_path / "journal.db", tmp_path / "log") as daemon:
        daemon.port()
        until(lambda: "until a retry succeeds" in daemon.log_text)

        assert daemon.stop() == 0

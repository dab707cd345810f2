"""The daemon with a bucket whose volume is not mounted, or with another bucket."""

import http.client
import json
from pathlib import Path

from tests.support.daemon_process import (
    DaemonProcess,
    outcomes,
    post,
    until,
    until_settled,
    waiting,
)
from tests.support.scenes import GOLDEN, model_event, state_event

NEW_BUCKET = ("--new-bucket",)


def test_events_wait_for_the_volume_of_the_bucket_and_are_published_once_it_is_mounted(
    tmp_path: Path,
) -> None:
    bucket, journal, away = tmp_path / "bucket", tmp_path / "journal.db", tmp_path / "away"
    with DaemonProcess(bucket, journal, tmp_path / "log") as daemon:
        post(daemon.port(), state_event(1))
        until_settled(daemon, journal)
        assert daemon.stop() == 0

    bucket.rename(away)
    bucket.mkdir()
    with DaemonProcess(bucket, journal, tmp_path / "log") as daemon:
        answer = post(
            daemon.port(), state_event(2, event_id="two"), model_event("everywhere", "101", "9")
        )
        assert answer is not None
        assert answer.status == 202
        until(lambda: "is its volume not mounted" in daemon.log_text)
        assert waiting(journal) == 2
        assert list(bucket.iterdir()) == []
        bucket.rmdir()
        away.rename(bucket)
        until_settled(daemon, journal)
        assert daemon.stop() == 0
    found = outcomes(journal, ["two", "everywhere"])
    assert {event: list(scopes) for event, scopes in found.items()} == {
        "two": [str(GOLDEN)],
        "everywhere": [str(GOLDEN)],
    }


def test_another_bucket_with_the_same_scope_is_not_published_to_under_a_running_daemon(
    tmp_path: Path,
) -> None:
    bucket, journal, other, away = (
        tmp_path / name for name in ("bucket", "journal.db", "other", "away")
    )
    with DaemonProcess(other, tmp_path / "other.db", tmp_path / "log") as daemon:
        post(daemon.port(), *(state_event(number, version=str(number)) for number in (1, 2, 3)))
        until_settled(daemon, tmp_path / "other.db")
        assert daemon.stop() == 0
    pointer = Path(str(GOLDEN)) / "pointer.json"
    before = (other / pointer).read_bytes()

    with DaemonProcess(bucket, journal, tmp_path / "log") as daemon:
        post(daemon.port(), state_event(1))
        until_settled(daemon, journal)
        bucket.rename(away)
        other.rename(bucket)
        post(daemon.port(), state_event(9, event_id="nine"))
        until(lambda: "is another volume mounted" in daemon.log_text)
        assert waiting(journal) == 1
        assert (bucket / pointer).read_bytes() == before
        bucket.rename(other)
        away.rename(bucket)
        until_settled(daemon, journal)
        assert daemon.stop() == 0
    assert (other / pointer).read_bytes() == before
    assert outcomes(journal, ["nine"])["nine"].keys() == {str(GOLDEN)}


def test_a_running_daemon_does_not_make_the_folder_of_a_bucket_that_vanished(
    tmp_path: Path,
) -> None:
    bucket, journal, away = tmp_path / "bucket", tmp_path / "journal.db", tmp_path / "away"
    with DaemonProcess(bucket, journal, tmp_path / "log") as daemon:
        post(daemon.port(), state_event(1))
        until_settled(daemon, journal)
        bucket.rename(away)
        post(daemon.port(), state_event(2, event_id="two"), model_event("everywhere", "101", "9"))
        until(lambda: degraded(daemon.port()) == ["bucket"])
        until(lambda: daemon.log_text.count(f"there is no folder {bucket}") > 2)
        assert degraded(daemon.port()) == ["bucket"]
        assert not bucket.exists()
        assert waiting(journal) == 2
        away.rename(bucket)
        until_settled(daemon, journal)
        assert daemon.stop() == 0
    assert outcomes(journal, ["two"])["two"].keys() == {str(GOLDEN)}


def degraded(port: int) -> list[str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/readyz")
        checks = json.loads(connection.getresponse().read())["checks"]
    finally:
        connection.close()
    return [check["name"] for check in checks if check["degraded"]]


def test_an_operator_switches_to_a_new_bucket(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    for folder, also, words in (
        ("one", (), "publishes to this bucket from now on"),
        ("two", (), "is its volume not mounted"),
        ("two", NEW_BUCKET, "publishes to this bucket from now on"),
        ("two", (), "listening on"),
        ("one", (), "is another volume mounted"),
    ):
        with DaemonProcess(tmp_path / folder, journal, tmp_path / "log", also=also) as daemon:
            daemon.port()
            until(lambda words=words, daemon=daemon: words in daemon.log_text)
            assert daemon.stop() == 0

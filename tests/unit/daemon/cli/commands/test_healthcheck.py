"""`rebundle healthcheck`: whether a daemon answers at the configured address."""

import json

import pytest

from tests.support.scripted_http import says, server


def test_a_daemon_that_answers_is_alive(rebundle):
    with server(says(200, b"ok\n")) as (url, seen):
        assert rebundle("healthcheck", "--listen", url.removeprefix("http://")).code == 0

    assert seen[0][1] == "/livez"


def test_the_configured_address_is_asked(rebundle, monkeypatch):
    with server(says(200)) as (url, seen):
        monkeypatch.setenv("REBUNDLE_HTTP__LISTEN", url.removeprefix("http://"))
        assert rebundle("healthcheck").code == 0

    assert len(seen) == 1


@pytest.mark.parametrize("status", [404, 500, 503])
def test_any_other_answer_is_a_failure(rebundle, status):
    with server(says(status)) as (url, _):
        assert rebundle("healthcheck", "--listen", url.removeprefix("http://")).code == 1


def test_a_daemon_that_needs_a_restart_reports_why(rebundle):
    detail = json.dumps({"detail": "the task that hands out events has ended\x1b[2J"}).encode()
    with server(says(503, detail)) as (url, _):
        result = rebundle("healthcheck", "--listen", url.removeprefix("http://"))

    assert result.code == 1
    assert "/livez answers 503: the task that hands out events has ended\\x1b[2J" in result.err


def test_no_daemon_at_the_address_is_a_failure(rebundle):
    with server(says(200)) as (url, _):
        pass

    assert rebundle("healthcheck", "--listen", url.removeprefix("http://")).code == 1

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


def test_nobody_there_is_a_failure(rebundle):
    with server(says(200)) as (url, _):
        pass

    assert rebundle("healthcheck", "--listen", url.removeprefix("http://")).code == 1

"""Loggers that import structlog with their first event."""

import structlog
from structlog.testing import capture_logs

from daemon.logs import Logger


def test_a_process_that_configured_logs_gets_every_event():
    with capture_logs() as logs:
        Logger("daemon.stores").info("probed", notes=2)
        Logger("daemon.stores").warning("slow")

    assert logs == [
        {"event": "probed", "notes": 2, "log_level": "info"},
        {"event": "slow", "log_level": "warning"},
    ]


def test_a_command_shows_warnings_alone_and_none_on_standard_output(capsys):
    structlog.reset_defaults()

    Logger("daemon.stores").info("probed")
    Logger("daemon.stores").warning("two\nlines", token="secret")
    out, err = capsys.readouterr()

    assert out == ""
    assert "probed" not in err
    assert "two\\nlines" in err
    assert "secret" not in err
    assert not structlog.is_configured()

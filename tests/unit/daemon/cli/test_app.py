"""The command line as a whole: imports, usage errors, unexpected errors, interrupts."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon import __version__
from daemon.cli.app import _COMMANDS

ROOT = Path(__file__).parents[4]
HEAVY = ("boto3", "botocore", "google", "aiokafka", "fastapi", "starlette", "uvicorn")


def imported_by(*arguments):
    """The modules that a process has loaded when the command ends."""
    script = (
        "import sys; from daemon.cli.app import run; code = run(sys.argv[1:]); "
        "sys.stderr.write('\\n'.join(['MODULES', *sys.modules])); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stderr.partition("MODULES\n")[2].split())


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["rollback", "--help"], ["send", "--help"]]
)
def test_help_loads_no_sdk_and_no_web_framework(arguments):
    loaded = imported_by(*arguments)

    assert "cyclopts" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_help_of_the_program_loads_no_command():
    loaded = imported_by("--help")

    assert [name for name in loaded if name.startswith("daemon.cli.commands.")] == []
    assert "pydantic" not in loaded


def test_inspecting_a_bucket_loads_no_sdk_and_no_web_framework(bucket):
    loaded = imported_by("status", "--bucket", str(bucket))

    assert [name for name in HEAVY if name in loaded] == []


@pytest.mark.parametrize(("name", "where"), [(name, where) for _, name, where, _ in _COMMANDS])
def test_every_command_of_the_table_exists(name, where):
    module, _, attribute = where.partition(":")

    assert getattr(importlib.import_module(f"daemon.cli.commands.{module}"), attribute)


def test_an_unknown_command_is_a_usage_error_that_names_the_nearest_one(rebundle):
    result = rebundle("stat")

    assert result.code == 2
    assert "did you mean `rebundle status`?" in result.err


@pytest.mark.parametrize(
    "arguments",
    [["states"], ["states", "a/b", "c"], ["status", "-o", "xml"], ["dead-letters", "show"]],
)
def test_wrong_usage_exits_2_with_a_message_and_no_traceback(rebundle, arguments):
    result = rebundle(*arguments)

    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("rebundle: ")
    assert "Traceback" not in result.err


def test_an_unexpected_error_is_short_and_debug_shows_the_traceback(bucket, rebundle, monkeypatch):
    def fault(*_, **__):
        raise ZeroDivisionError("ours\033")

    monkeypatch.setattr("daemon.cli.session.open_store", fault)

    short, long = rebundle("scopes"), rebundle("scopes", "--debug")

    assert short.code == long.code == 1
    assert (
        short.err
        == "rebundle: unexpected ZeroDivisionError: ours\\x1b (--debug shows a stack trace; please report this)\n"
    )
    assert "Traceback" in long.err


def test_an_interrupt_exits_130(bucket, rebundle, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("daemon.cli.session.open_store", interrupt)

    result = rebundle("scopes")

    assert (result.code, result.err) == (130, "rebundle: interrupted\n")


def test_a_closed_output_pipe_is_not_a_failure(bucket):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stdout:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "daemon",
                "states",
                "visual-anomaly/core-versions",
                "--bucket",
                str(bucket),
            ],
            cwd=ROOT,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )

    assert (done.returncode, done.stderr) == (0, b"")


def test_the_version_is_printed(rebundle):
    assert rebundle("--version").out.strip() == __version__

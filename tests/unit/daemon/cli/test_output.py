"""Documents on standard output, prose on standard error, colours and confirmations."""

import io
import json

import pytest
import yaml

from daemon.cli.failures import Declined, UsageError
from daemon.cli.options import Printing
from daemon.cli.output import Printer, confirm


class Terminal(io.StringIO):
    def isatty(self):
        return True


def make_printer(output="table", *, quiet=False, colors=False):
    return Printer(output, quiet, colors, colors, io.StringIO(), io.StringIO())


HOSTILE = {"name": "a\033[31m: # 1", "number": "42.1", "nothing": None, "models": [1]}


def test_json_has_the_schema_version_and_reads_back():
    printer = make_printer("json")

    printer.data(HOSTILE, ["unused"])

    assert json.loads(printer.stdout.getvalue()) == {"schemaVersion": 1, **HOSTILE}
    assert "\033" not in printer.stdout.getvalue()


def test_yaml_has_the_schema_version_and_reads_back():
    printer = make_printer("yaml")

    printer.data(HOSTILE, ["unused"])

    assert yaml.safe_load(printer.stdout.getvalue()) == {"schemaVersion": 1, **HOSTILE}
    assert "\033" not in printer.stdout.getvalue()


def test_prose_goes_escaped_to_standard_error_and_quiet_keeps_only_warnings():
    loud, quiet = make_printer(), make_printer(quiet=True)

    for printer in (loud, quiet):
        printer.say("a\033\nb")
        printer.warn("careful")

    assert loud.stderr.getvalue() == "a\\x1b\nb\ncareful\n"
    assert quiet.stderr.getvalue() == "careful\n"
    assert loud.stdout.getvalue() == ""


def test_colours_need_a_terminal_and_obey_flag_no_color_and_dumb_terminals(monkeypatch):
    monkeypatch.setattr("sys.stdout", Terminal())
    assert Printer.of(Printing(), {}).good("x") == "\033[32mx\033[0m"
    assert Printer.of(Printing(no_color=True), {}).good("x") == "x"
    assert Printer.of(Printing(), {"NO_COLOR": "1"}).good("x") == "x"
    assert Printer.of(Printing(), {"TERM": "dumb"}).good("x") == "x"
    monkeypatch.setattr("sys.stdout", io.StringIO())
    assert Printer.of(Printing(), {}).good("x") == "x"


@pytest.mark.parametrize("answer", ["y\n", "YES\n"])
def test_confirm_asks_at_a_terminal(answer):
    printer = make_printer()

    confirm("Go?", yes=False, printer=printer, stdin=Terminal(answer))
    assert printer.stderr.getvalue() == "Go? [y/N] "


@pytest.mark.parametrize("answer", ["\n", "", "n\n"])
def test_confirm_treats_everything_but_yes_as_no(answer):
    with pytest.raises(Declined, match="nothing was changed"):
        confirm("Go?", yes=False, printer=make_printer(), stdin=Terminal(answer))


def test_confirm_without_a_terminal_is_refused():
    with pytest.raises(UsageError, match="--yes"):
        confirm("Go?", yes=False, printer=make_printer(), stdin=io.StringIO("y\n"))


def test_confirm_with_yes_does_not_ask():
    printer = make_printer()

    confirm("Go?", yes=True, printer=printer, stdin=io.StringIO())
    assert printer.stderr.getvalue() == ""

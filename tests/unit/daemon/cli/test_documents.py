"""Output for programs and scheduled jobs: one document per command, also for errors (ADR 28), and
`--quiet`.
"""

import inspect
import json
from collections.abc import Iterator

import pytest
import yaml
from cyclopts import App

from daemon.cli import app
from daemon.cli.options import Printing
from tests.support.buckets import SCOPE, live_file
from tests.support.journals import arrival

DEFAULT = "example/conf/bundle/.env"
REASON = ("--reason", "r")

SOUND = {
    ("config", "check"): (),
    ("config", "show"): (),
    ("dead-letters", "add"): ("e2", *REASON),
    ("dead-letters", "drop"): ("1", *REASON),
    ("dead-letters", "list"): (),
    ("dead-letters", "replay"): ("1",),
    ("dead-letters", "show"): ("1",),
    ("diff",): (SCOPE, "state-1", "state-2"),
    ("doctor",): (),
    ("example", "restore"): (SCOPE, DEFAULT, "-y"),
    ("gc",): (SCOPE,),
    ("history",): (SCOPE,),
    ("hold",): (SCOPE, *REASON),
    ("keys", "generate"): ("new.pem",),
    ("keys", "revoke"): ("policy.json", "KEYID", *REASON),
    ("keys", "rotate"): ("policy.json", "KEYID", "new.pem"),
    ("keys", "trust"): ("policy.json", "key.pem.pub"),
    ("pin",): (SCOPE, "state-1"),
    ("quarantine",): (SCOPE, "state-1", *REASON),
    ("recover",): (SCOPE, *REASON, "-y"),
    ("republish",): (SCOPE,),
    ("resume",): (SCOPE, "-y"),
    ("retire",): (SCOPE, *REASON, "-y"),
    ("rollback",): (SCOPE, "state-1", *REASON, "-y"),
    ("scopes",): (),
    ("send",): ("event.json", "--to", "http://127.0.0.1:1"),
    ("show",): (SCOPE, "state-1"),
    ("states",): (SCOPE,),
    ("status",): (),
    ("verify",): (SCOPE,),
}
"""Arguments with which each command succeeds on a healthy bucket, except `send`, which finds no
daemon here.
"""

WITHOUT_ANYTHING = {
    ("config", "check"): 0,
    ("config", "show"): 0,
    ("keys", "generate"): 0,
    ("keys", "revoke"): 3,
    ("keys", "rotate"): 3,
    ("keys", "trust"): 3,
}
"""The exit code without any bucket, journal, daemon or file; 6 for all others."""


def commands_with_documents() -> Iterator[tuple[str, ...]]:
    """Every command that accepts `--output`."""

    def below(node: App, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        command = node.default_command
        if command is not None and any(
            parameter.annotation is Printing
            for parameter in inspect.signature(command).parameters.values()
        ):
            yield path
        for name in node:
            if not name.startswith("-"):
                yield from below(node[name], (*path, name))

    yield from below(app.build(), ())


@pytest.fixture
def prepared(bucket, journal, rebundle, tmp_path):
    """A healthy bucket and journal, a file with an event, and a trust policy with one key."""
    (tmp_path / "event.json").write_bytes(arrival("e9").event.structured())
    keyid = rebundle("keys", "generate", "key.pem", "-o", "json").json["keyid"]
    rebundle("keys", "trust", "policy.json", "key.pem.pub")
    return lambda arguments: [keyid if argument == "KEYID" else argument for argument in arguments]


def test_the_table_has_every_command():
    assert sorted(commands_with_documents()) == sorted(SOUND)


@pytest.mark.parametrize("command", SOUND, ids=" ".join)
def test_every_command_prints_one_document(prepared, rebundle, command):
    result = rebundle(*command, *prepared(SOUND[command]), "-o", "json")

    if command == ("send",):
        assert (result.code, result.json["exit_code"]) == (6, 6)
    else:
        assert (result.code, "error" in result.json) == (0, False), result.err
    assert result.json["schemaVersion"] == 1


@pytest.mark.parametrize("command", SOUND, ids=" ".join)
def test_in_an_empty_bucket_every_command_prints_one_document(
    rebundle, command, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "event.json").write_bytes(arrival("e9").event.structured())
    arguments = ["0" * 64 if item == "KEYID" else item for item in SOUND[command]]

    result = rebundle(*command, *arguments, "-o", "json")

    assert result.code == WITHOUT_ANYTHING.get(command, 6), result.err
    if result.code:
        document = result.json
        assert document.keys() == {"schemaVersion", "error", "exit_code"}
        assert document["exit_code"] == result.code
        assert result.err.split()[-len(document["error"].split()) :] == document["error"].split()


@pytest.mark.parametrize("command", SOUND, ids=" ".join)
def test_wrong_usage_prints_a_document(rebundle, command):
    result = rebundle(*command, "--output=json", "--nonsense")

    assert (result.code, result.json["exit_code"]) == (2, 2)


@pytest.mark.parametrize(
    "output",
    [
        ("-o", "json"),
        ("-o=json",),
        ("-ojson",),
        ("-qo", "json"),
        ("--output", "json"),
        ("--output=json",),
    ],
)
def test_every_spelling_of_the_option_is_known(bucket, rebundle, output):
    assert rebundle("states", "no/scope", *output).json["exit_code"] == 3
    assert rebundle("states", "no/scope", *output, "--nonsense").json["exit_code"] == 2


def test_yaml_has_the_error_too_and_a_table_has_none(bucket, rebundle):
    document = yaml.safe_load(rebundle("states", "no/scope", "-o", "yaml").out)
    assert (document["exit_code"], document["schemaVersion"]) == (3, 1)
    assert rebundle("states", "no/scope").out == ""
    assert rebundle("states", "no/scope", "-o", "table").out == ""


def test_an_unexpected_error_is_a_document_too(bucket, rebundle, monkeypatch):
    def fault(*_, **__):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("daemon.cli.session.open_store", fault)

    assert rebundle("scopes", "-o", "json").json == {
        "schemaVersion": 1,
        "error": "unexpected ZeroDivisionError: ours",
        "exit_code": 1,
    }


def test_the_folder_option_of_render_is_not_a_format(rebundle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (rebundle("render", "absent.json", "-o", "json").out, (tmp_path / "json").exists()) == (
        "",
        False,
    )


def test_a_declined_confirmation_is_a_document(bucket, rebundle, monkeypatch):
    class Terminal:
        def isatty(self):
            return True

        def readline(self):
            return "n\n"

    monkeypatch.setattr("sys.stdin", Terminal())

    result = rebundle("retire", SCOPE, *REASON, "-o", "json")

    assert (result.code, result.json["error"]) == (1, "nothing was changed")


# -- quiet


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", SCOPE),
        ("verify", "--all"),
        ("status",),
        ("status", SCOPE),
        ("doctor",),
        ("config", "check"),
    ],
)
def test_a_quiet_check_without_problems_prints_nothing(bucket, rebundle, arguments):
    result = rebundle(*arguments, "--quiet")

    assert (result.code, result.out, result.err) == (0, "", "")
    assert rebundle(*arguments).out != ""
    assert len(json.loads(rebundle(*arguments, "-q", "-o", "json").out)) > 1


def test_a_quiet_check_prints_only_the_problems(bucket, rebundle):
    live_file(bucket, "base/notes.txt").write_text("mine\n")
    live_file(bucket, "base/bundle/docker-compose.yaml").write_text("mine\n")

    verified, status = rebundle("verify", SCOPE, "-q"), rebundle("status", "-q")

    header, row, problem = verified.out.splitlines()
    assert (verified.code, header.split()[0], row.split()[-1]) == (5, "SCOPE", "FAILED")
    assert "edited by hand" in problem
    assert verified.err == "1 of 6 checks failed\n"
    assert len(status.out.splitlines()) == 3
    assert all(line.startswith(f"{SCOPE}: ") for line in status.out.splitlines())


def test_a_quiet_render_prints_nothing(rebundle, bucket, tmp_path):
    (manifest,) = (bucket / str(SCOPE) / "states/state-1").glob("*/manifest.json")

    result = rebundle("render", manifest, "-o", tmp_path / "out", "--quiet")

    assert (result.code, result.out, result.err) == (0, "", "")
    assert (tmp_path / "out" / "README.md").exists()

"""Every command that a message suggests is accepted by the command line, so that it can be copied."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.cli import app
from daemon.cli.suggestions import given, in_document, with_place
from events.model import Outcome, OutcomeKind
from tests.support.buckets import SCOPE
from tests.support.journals import arrival, in_journal

ROOT = Path(__file__).parents[4]
SAMPLES = {
    "SCOPE": "visual-anomaly/edge",
    "STATE": "state-1",
    "POLICY": "policy.json",
    "PUBLIC": "key.pub",
    "PATH": "example/conf/bundle/.env",
    "EVENT": "e1",
    "ID": "1",
    "FILE": "event.json",
    "DIGEST": "0123456789ab",
}
"""Values for placeholders in capitals. Values that a message inserts are `filled`."""
BARE = {
    "rebundle gc",
    "rebundle hold",
    "rebundle pin",
    "rebundle rollback",
    "rebundle quarantine",
    "rebundle recover",
}
"""Commands that do nothing without arguments. No message suggests them alone."""


def filled(expression: str) -> str:
    """A value for this expression in an f-string."""
    if "shlex" in expression:
        return "e1"
    if expression == "near[0]":
        return "verify"
    if expression == "usage":
        return "rebundle rollback --help"
    return "visual-anomaly/edge" if "scope" in expression else "state-1"


def texts(tree: ast.AST) -> Iterator[str]:
    """Every text that is not a docstring, with values in place of its expressions."""
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    parts: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(value) for value in node.values}
            yield "".join(
                value.value if isinstance(value, ast.Constant) else filled(ast.unparse(value.value))
                for value in node.values
            )
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in documented | parts
        ):
            yield node.value


def suggestions() -> list[str]:
    sources = [
        path for part in ("daemon", "events", "renderers") for path in (ROOT / part).rglob("*.py")
    ]
    found = {
        command
        for path in sources
        for text in texts(ast.parse(path.read_text()))
        for command in re.findall(r"`(rebundle [^`]+)`", text)
    }
    return sorted(found)


def test_messages_suggest_commands():
    assert len(suggestions()) > 15


@pytest.mark.parametrize("command", suggestions())
def test_a_suggested_command_can_be_parsed(command):
    arguments = [SAMPLES.get(word, word) for word in shlex.split(command)][1:]
    assert command not in BARE
    assert not [word for word in arguments if re.fullmatch(r"[A-Z]{2,}", word)], (
        "a placeholder without a value"
    )
    if "--help" in arguments:
        return

    parsed, bound, _ = app.build().parse_args(arguments, print_error=False, exit_on_error=False)

    assert callable(parsed)
    if arguments[0] == "gc":
        assert bound.arguments.get("scope") or bound.arguments.get("all_"), (
            "gc needs a scope or --all"
        )


def test_no_message_suggests_an_incomplete_command():
    commands = [name for _, name, _, _ in app._COMMANDS]
    parts = [
        (path.name, text)
        for path in (ROOT / "daemon/publishing").rglob("*.py")
        for text in texts(ast.parse(path.read_text()))
        if re.search(rf"[`(]({'|'.join(commands)}) ", text)
    ]
    assert parts == []


# -- suggested commands act on the same bucket, settings and journal


def accepts_all(_words):
    return ("--bucket", "--config", "--journal")


def test_the_place_flags_are_appended_to_each_suggested_command():
    text = "no such state: `rebundle states a/b` lists them; `rebundle gc --all` deletes; `ls x`"

    assert with_place(text, {"--bucket": "a b", "--config": "c.toml"}, accepts_all) == (
        "no such state: `rebundle states a/b --bucket 'a b' --config c.toml` lists them; "
        "`rebundle gc --all --bucket 'a b' --config c.toml` deletes; `ls x`"
    )


@pytest.mark.parametrize(
    "text",
    [
        "`rebundle states a/b --bucket=elsewhere`",
        "`rebundle states a/b --bucket elsewhere`",
        "`rebundle states --help`",
        "`rebundle states 'a`",
        "the rebundle daemon",
    ],
)
def test_a_command_that_has_the_flag_and_other_text_stay_as_they_are(text):
    assert with_place(text, {"--bucket": "x"}, accepts_all) == text


def test_only_flags_that_the_command_accepts_are_appended():
    text = "`rebundle keys trust POLICY PUBLIC` and `rebundle dead-letters list`"

    assert with_place(text, {"--bucket": "x", "--journal": "j"}, app._place_flags_of) == (
        "`rebundle keys trust POLICY PUBLIC` and `rebundle dead-letters list --journal j`"
    )


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        (["status", "--bucket", "x", "--journal=j"], {"--bucket": "x", "--journal": "j"}),
        (["status", "--config=", "--bucket"], {}),
        (["status", "--", "--bucket", "x"], {}),
        (["doctor", "x"], {"--bucket": "x"}),
        (["doctor", "--create"], {}),
    ],
)
def test_place_flags_are_found_in_a_command_line(arguments, flags):
    assert given(arguments) == flags


def test_what_others_wrote_in_a_document_stays_as_it_is():
    document = {
        "error": "old",
        "scopes": [{"attention": ["old"], "hold": {"by": "alice", "reason": "old"}}],
        "body": {"data": "old"},
        "files": [{"diff": "old"}],
        "number": 1,
    }

    assert in_document(document, lambda _text: "new") == {
        "error": "new",
        "scopes": [{"attention": ["new"], "hold": {"by": "alice", "reason": "old"}}],
        "body": {"data": "old"},
        "files": [{"diff": "old"}],
        "number": 1,
    }


@pytest.fixture
def flags(bucket, tmp_path, monkeypatch):
    """Flags for a bucket and a journal that no environment variable names."""
    monkeypatch.delenv("REBUNDLE_BUCKET")
    path = tmp_path / "the journal.db"

    async def fill(journal):
        first, _ = await journal.append([arrival("e1"), arrival("e2")])
        await journal.settle(
            str(SCOPE), {first.position: Outcome(OutcomeKind.DEAD_LETTERED, "id is used")}
        )
        await journal.reject("http", b"{]", [])

    in_journal(path, fill, run=True)
    place = bucket.rename(tmp_path / "the bucket")
    return {"--bucket": str(place), "--journal": str(path)}


def commands_in(text):
    return [shlex.split(command)[1:] for command in re.findall(r"`(rebundle [^`]+)`", text)]


@pytest.mark.parametrize("by_file", [False, True])
def test_suggested_commands_act_on_the_place_of_the_command_that_suggested_them(
    flags, rebundle, tmp_path, by_file
):
    on_bucket = ["--bucket", flags["--bucket"]]
    on_journal = ["--journal", flags["--journal"]]
    if by_file:
        file = tmp_path / "my settings.toml"
        file.write_text(f'bucket = "{flags["--bucket"]}"\njournal.path = "{flags["--journal"]}"\n')
        on_bucket = on_journal = ["--config", file]
    failing = [
        ("show", SCOPE, "nope", *on_bucket),
        ("states", "no/scope", *on_bucket),
        ("states", "nothing", *on_bucket),
    ]
    others = [("status", *on_bucket, *([] if by_file else on_journal))]
    if by_file:  # the command that it suggests needs a bucket, too
        others.append(("dead-letters", "replay", "1", *on_journal))
    suggested = []
    for arguments in (*failing, *others):
        result = rebundle(*arguments)
        found = commands_in(result.out + result.err)
        assert found, arguments
        if arguments in failing:
            assert commands_in(rebundle(*arguments, "-o", "json").json["error"]) == found
        suggested += found

    for words in suggested:
        result = rebundle(*words)
        assert (result.code, result.err) == (0, ""), words

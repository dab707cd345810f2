"""Every command that a message suggests is accepted by the command line, so that it can be copied."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.cli import app

ROOT = Path(__file__).parents[4]
SAMPLES = {
    "SCOPE": "visual-anomaly/edge",
    "STATE": "state-1",
    "POLICY": "policy.json",
    "PUBLIC": "key.pub",
    "PATH": "example/conf/bundle/.env",
    "EVENT": "e1",
    "NUMBER": "1",
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
    if "verb" in expression:
        return "rollback "
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
    commands = [name for _, name, _, _ in app._VERBS]
    parts = [
        (path.name, text)
        for path in (ROOT / "daemon/publishing").rglob("*.py")
        for text in texts(ast.parse(path.read_text()))
        if re.search(rf"[`(]({'|'.join(commands)}) ", text)
    ]
    assert parts == []

"""Comparison of values: exact, or with additions that a custom template may make."""

from decimal import Decimal

import pytest

from renderers.gate.diff import difference
from renderers.gate.expectations import Default

COMMAND = ["tool", "--name=a", "-c", "/x"]


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
        ({"a": Default("V", Decimal(1024))}, {"a": "${V:-1k}"}),
    ],
)
def test_equal_values_agree(expected, found):
    assert difference(expected, found, (), may_add=False) is None
    assert difference(expected, found, (), may_add=True) is None


@pytest.mark.parametrize(
    ("expected", "found", "different"),
    [
        (1, True, ((), "1", "True")),
        (1, 1.0, ((), "1", "1.0")),
        ("no", False, ((), "'no'", "False")),
        ({"a": 1}, {}, (("a",), "1", "nothing")),
        ({"a": 1}, [1], ((), "{'a': 1}", "[1]")),
        ([1], {"a": 1}, ((), "[1]", "{'a': 1}")),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, (("a", 1, "b"), "2", "3")),
        ({"a": [1, 2]}, {"a": [2, 1]}, (("a", 0), "1", "2")),
        ({"a": Default("V", Decimal(1))}, {"a": "${W:-1}"}, (("a",), "${V:-1}", "'${W:-1}'")),
        ({"a": {"x": 1}}, {"a": {"x": 1, "disable": True}}, (("a", "disable"), "nothing", "True")),
    ],
)
def test_another_value_differs_at_its_path(expected, found, different):
    for may_add in (False, True):
        assert difference(expected, found, (), may_add=may_add) == different


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"command": COMMAND}, {"command": ["tool", "--more", "--name=a", "-c", "/x", "y"]}),
        ({"command": COMMAND}, {"command": ["tool", "--level", "info", *COMMAND[1:]]}),
        (
            {"volumes": ["./a:/a"]},
            {"volumes": ["./b:/b", "./a:/a", {"source": "c", "target": "/c"}]},
        ),
        ({"include": [{"path": "x"}]}, {"include": [{"path": "x", "more": 1}, {"path": "y"}]}),
        ({"include": [{"path": "x"}]}, {"include": [{"path": "x", "more": 1}]}),
        ({"command": ["--name=a", "x"]}, {"command": ["--name=a", "--more=1", "x"]}),
        ({"environment": ["A=1"]}, {"environment": ["B=1", "A=1"]}),
        ({"ports": ["1:1"]}, {"ports": ["1:1", "2:2"]}),
        ({"a": {"b": [{"c": 1}]}}, {"a": {"b": [{"c": 1, "d": 2}, {"e": 3}]}}),
    ],
)
def test_an_addition_agrees_only_where_it_is_allowed(expected, found):
    assert difference(expected, found, (), may_add=True) is None
    assert difference(expected, found, (), may_add=False) is not None


TWICE = "no second entry for what the bundle decides"
MISSING = "nothing of it, or not in this order"


@pytest.mark.parametrize(
    ("key", "expected", "found", "message"),
    [
        ("command", COMMAND, [*COMMAND, "--name=b"], (TWICE, "'--name=b'")),
        ("command", COMMAND, [*COMMAND, "--name", "b"], (TWICE, "'--name b'")),
        ("command", COMMAND, [*COMMAND, "-c", "/y"], (TWICE, "'-c /y'")),
        ("command", COMMAND, ["tool", "--name=a", "-c", "--more", "/x"], ("'-c /x'", MISSING)),
        ("command", COMMAND, ["tool", "-c", "/x", "--name=a", "--more"], ("'-c /x'", MISSING)),
        ("command", ["--a b", "c"], ["--a b", "d", "c", "--a b"], (TWICE, "'--a b'")),
        ("volumes", ["./a:/a:ro"], ["./a:/a:ro", "./b:/a"], (TWICE, "'./b:/a'")),
        ("volumes", ["./a:/a"], ["./a:/a", "${B:-/b}:/a/"], (TWICE, "'${B:-/b}:/a/'")),
        (
            "volumes",
            ["./a:/a"],
            ["./a:/a", {"source": "b", "target": "/a/"}],
            (TWICE, "{'source': 'b', 'target': '/a/'}"),
        ),
        ("environment", ["A=1"], ["A=1", "A=2"], (TWICE, "'A=2'")),
        ("networks", ["a"], ["b", "c"], ("'a'", MISSING)),
        ("test", ["CMD", "x"], ["CMD", "true", "x"], ("['CMD', 'x']", "['CMD', 'true', 'x']")),
        ("devices", [{"n": 1}], [{"n": 1}, {"n": 2}], ("[{'n': 1}]", "[{'n': 1}, {'n': 2}]")),
        ("capabilities", ["gpu"], ["gpu", "x"], ("['gpu']", "['gpu', 'x']")),
        ("device_ids", ["0"], ["0", "1"], ("['0']", "['0', '1']")),
        ("entrypoint", ["sh", "x"], ["sh", "-c", "x"], ("['sh', 'x']", "['sh', '-c', 'x']")),
    ],
)
def test_a_contradiction_is_not_an_addition(key, expected, found, message):
    assert difference({key: expected}, {key: found}, (), may_add=True) == ((key,), *message)

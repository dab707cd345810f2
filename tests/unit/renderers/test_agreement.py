"""Agreement of values: exact, or with what a template of the bundle's own may add."""

from decimal import Decimal

import pytest

from renderers.agreement import difference
from renderers.expectation import Default

COMMAND = ["tool", "--name=a", "-c", "/x"]


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"a": [1, {"b": None}]}, {"a": [1, {"b": None}]}),
        ({"a": Default("V", Decimal(1024))}, {"a": "${V:-1k}"}),
    ],
)
def test_the_same_agrees(expected, found):
    assert difference(expected, found, (), may_add=False) is None
    assert difference(expected, found, (), may_add=True) is None


@pytest.mark.parametrize(
    ("expected", "found", "path"),
    [
        (1, True, ()),
        (1, 1.0, ()),
        ("no", False, ()),
        ({"a": 1}, {}, ("a",)),
        ({"a": 1}, [1], ()),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, ("a", 1, "b")),
        ({"a": [1, 2]}, {"a": [2, 1]}, ("a", 0)),
        ({"a": Default("V", Decimal(1))}, {"a": "${W:-1}"}, ("a",)),
    ],
)
def test_another_value_differs_at_its_path_whoever_made_it(expected, found, path):
    for may_add in (False, True):
        different = difference(expected, found, (), may_add=may_add)

        assert different is not None
        assert different[0] == path


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"command": COMMAND}, {"command": ["tool", "--more", "--name=a", "-c", "/x", "y"]}),
        ({"command": COMMAND}, {"command": ["tool", "--level", "info", *COMMAND[1:]]}),
        ({"volumes": ["./a:/a"]}, {"volumes": ["./b:/b", "./a:/a", {"source": "c", "target": "/c"}]}),
        ({"include": [{"path": "x"}]}, {"include": [{"path": "x", "more": 1}, {"path": "y"}]}),
    ],
)
def test_what_is_added_agrees_only_where_it_may_be(expected, found):
    assert difference(expected, found, (), may_add=True) is None
    assert difference(expected, found, (), may_add=False) is not None


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ({"command": COMMAND}, {"command": [*COMMAND, "--name=b"]}),
        ({"command": COMMAND}, {"command": [*COMMAND, "--name", "b"]}),
        ({"command": COMMAND}, {"command": [*COMMAND, "-c", "/y"]}),
        ({"command": COMMAND}, {"command": ["tool", "--name=a", "-c", "--more", "/x"]}),
        ({"command": COMMAND}, {"command": ["tool", "-c", "/x", "--name=a", "--more"]}),
        ({"volumes": ["./a:/a:ro"]}, {"volumes": ["./a:/a:ro", "./b:/a"]}),
        ({"volumes": ["./a:/a"]}, {"volumes": ["./a:/a", "${B:-/b}:/a/"]}),
        ({"volumes": ["./a:/a"]}, {"volumes": ["./a:/a", {"source": "b", "target": "/a/"}]}),
        ({"test": ["CMD", "x"]}, {"test": ["CMD", "true", "x"]}),
        ({"devices": [{"count": 1}]}, {"devices": [{"count": 1}, {"count": 2}]}),
        ({"entrypoint": ["/bin/sh", "x"]}, {"entrypoint": ["/bin/sh", "-c", "x"]}),
    ],
)
def test_what_contradicts_is_no_addition(expected, found):
    assert difference(expected, found, (), may_add=True) is not None

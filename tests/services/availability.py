"""Skips or fails a test whose real server or tool is not available.

The test is skipped with the reason, so that `make test` works on a bare machine. With
REBUNDLE_REQUIRE_SERVICES=1, which CI sets, it fails instead: a check that skips is no check. A tool
that is on no registry and can only be provided with the machine (`NotGiven`) is skipped in any
case.
"""

import os
from collections.abc import Callable
from typing import NoReturn, TypeVar

import pytest

T = TypeVar("T")


class Unavailable(Exception):
    """A server or tool is not on this machine and cannot be installed; the text names what was
    tried.
    """


class NotGiven(Exception):
    """A tool that cannot be installed is not on this machine; the text names the variable to set."""


def available(find: Callable[[], T]) -> T:
    """What `find` returns; skips or fails the test when it raises Unavailable, skips it when it
    raises NotGiven.
    """
    try:
        return find()
    except NotGiven as reason:
        pytest.skip(str(reason))
    except Unavailable as reason:
        skip_or_fail(str(reason))


def skip_or_fail(reason: str) -> NoReturn:
    """Ends a test that lacks something which this machine or its network does not have."""
    if os.environ.get("REBUNDLE_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason} (and REBUNDLE_REQUIRE_SERVICES=1 forbids to skip)", pytrace=False)
    pytest.skip(reason)

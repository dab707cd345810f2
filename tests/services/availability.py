"""What happens when a real server or tool cannot be had.

Its tests are skipped with the reason, so that `make test` works on a bare machine. With REBUNDLE_REQUIRE_SERVICES=1,
which CI sets, they fail instead: a gate that skips is no gate.
"""

import os
from collections.abc import Callable
from typing import NoReturn, TypeVar

import pytest

T = TypeVar("T")


class Unavailable(Exception):
    """A server or tool is not on this machine and cannot be installed; the text says what was tried."""


def available(find: Callable[[], T]) -> T:
    """What `find` returns; skips or fails the test when it raises Unavailable."""
    try:
        return find()
    except Unavailable as reason:
        skip_or_fail(str(reason))


def skip_or_fail(reason: str) -> NoReturn:
    """Ends a test that lacks something which this machine or its network does not have."""
    if os.environ.get("REBUNDLE_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason} (and REBUNDLE_REQUIRE_SERVICES=1 forbids to skip)", pytrace=False)
    pytest.skip(reason)

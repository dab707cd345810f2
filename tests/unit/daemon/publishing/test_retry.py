"""Writes to a store that throttles, and changes of a pointer that another writer moves."""

import asyncio

import pytest

from daemon.publishing.errors import PointerMoved
from daemon.publishing.retry import while_busy, while_moved
from daemon.stores.errors import StoreBusy, StoreUnavailable
from renderers.values import Scope
from tests.builders_runtime import InlineRuntime


class Writes:
    """Each call raises the next of `errors`; after them, a call succeeds."""

    def __init__(self, *errors: Exception) -> None:
        self.tries = 0
        self._errors = list(errors)

    async def __call__(self) -> str:
        self.tries += 1
        if self._errors:
            raise self._errors.pop(0)
        return "written"


def waited(writes: Writes, waits: int) -> tuple[str, float]:
    runtime = InlineRuntime()
    began = runtime.seconds
    return asyncio.run(while_busy(runtime, writes, waits)), runtime.seconds - began


def test_a_write_that_is_accepted_at_once_waits_for_nothing() -> None:
    assert waited(Writes(), 3) == ("written", 0)


def test_a_write_to_a_busy_store_is_repeated_after_waits_that_double_up_to_a_limit() -> None:
    writes = Writes(*[StoreBusy("429")] * 6)
    written, seconds = waited(writes, 6)
    assert (written, writes.tries) == ("written", 7)
    assert seconds == pytest.approx(0.4 + 0.8 + 1.6 + 3.2 + 5 + 5)


def test_a_store_that_stays_busy_raises_its_answer() -> None:
    writes = Writes(*[StoreBusy("429")] * 100)
    with pytest.raises(StoreBusy):
        waited(writes, 2)
    assert writes.tries == 3


def test_any_other_error_is_raised_at_once() -> None:
    writes = Writes(StoreBusy("429"), StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable, match="away"):
        waited(writes, 5)
    assert writes.tries == 2


def test_a_change_is_made_again_until_no_other_writer_is_faster() -> None:
    change = Writes(*[PointerMoved("faster")] * 4)
    assert asyncio.run(while_moved(Scope("b", "t"), change)) == "written"
    assert change.tries == 5


def test_a_change_that_loses_five_times_is_given_up() -> None:
    change = Writes(*[PointerMoved("faster")] * 5)
    with pytest.raises(PointerMoved, match="other writers changed b/t 5 times in a row"):
        asyncio.run(while_moved(Scope("b", "t"), change))
    assert change.tries == 5


def test_a_change_with_another_error_is_not_made_again() -> None:
    change = Writes(StoreUnavailable("away"))
    with pytest.raises(StoreUnavailable):
        asyncio.run(while_moved(Scope("b", "t"), change))
    assert change.tries == 1

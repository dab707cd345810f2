"""Two daemons, each with its own journal, that publish the same scopes of one directory bucket at
once.
"""

import asyncio
import itertools
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from daemon.publishing.pointer import HistoryEntry, Pointer
from daemon.publishing.reader import Reader
from daemon.stores.directory.store import DirectoryStore
from events.model import Event, OutcomeKind
from renderers.values import Scope
from tests.builders_runtime import InlineRuntime
from tests.support.crashes import check_history, read_whole, until_in_step
from tests.support.daemon_process import DaemonProcess, clean_log, outcomes, post, until_settled
from tests.support.scenes import complete_model_event, model_event, state_event

SCOPES = tuple(Scope("bundle", f"target-{number}") for number in range(3))
STATES = 16
MODELS = 24


def explicit(scope: Scope, number: int) -> Event:
    return state_event(number, scope=scope, version=str(number), event_id=f"{scope}/s{number}")


def events_of(daemon: int) -> list[Event]:
    """Every second state, not always in order, and in two of the scopes model events between them."""
    chance = random.Random(daemon)
    numbers = list(range(2 + daemon, 2 + STATES, 2))
    for _ in range(3):
        at = chance.randrange(len(numbers) - 1)
        numbers[at : at + 2] = reversed(numbers[at : at + 2])
    found = [explicit(scope, number) for number in numbers for scope in SCOPES]
    for number in range(MODELS // 2):
        for scope in SCOPES[1:]:
            event_id = f"{scope}/{daemon}/m{number}"
            version = str(100 + 2 * number + daemon)
            made = complete_model_event(event_id, "777", version=version, scopes=[scope])
            found.insert(
                chance.randrange(len(found)),
                made if number % 3 else model_event(event_id, "101", version, scopes=[scope]),
            )
    return found


@pytest.mark.slow
def test_two_daemons_on_one_bucket_leave_one_history_without_gaps_and_settle_every_event(
    tmp_path: Path,
) -> None:
    bucket, journals = tmp_path / "bucket", [tmp_path / "a.db", tmp_path / "b.db"]
    logs = [tmp_path / "a.log", tmp_path / "b.log"]
    sent = [events_of(0), events_of(1)]
    with ExitStack() as stack:
        for log in logs:
            stack.enter_context(clean_log(log))
        daemons = [
            stack.enter_context(DaemonProcess(bucket, journal, log))
            for journal, log in zip(journals, logs, strict=True)
        ]
        ports = [daemon.port() for daemon in daemons]
        first = [explicit(scope, 1) for scope in SCOPES]

        def publish(at: int) -> None:
            # A few at a time, each settled before the next: many commits instead of a few large
            # ones.
            for events in (first, *batched(sent[at], len(SCOPES))):
                send(ports[at], events)
                until_settled(daemons[at], journals[at])

        together(publish)
        asyncio.run(until_in_step(bucket, SCOPES))
        assert [daemon.stop() for daemon in daemons] == [0, 0]

    pointers = asyncio.run(checked_pointers(bucket))
    for at in (0, 1):
        reported = outcomes(journals[at], [item.id for item in (*first, *sent[at])])
        kinds = [
            outcome and outcome.kind for lanes in reported.values() for outcome in lanes.values()
        ]
        assert len(kinds) == len(first) + len(sent[at])
        assert set(kinds) <= {
            OutcomeKind.PUBLISHED,
            OutcomeKind.LATE,
            OutcomeKind.SUPERSEDED,
            OutcomeKind.IGNORED,
        }
    for scope, (pointer, history) in pointers.items():
        assert pointer.highest_revision.producer == STATES + 1
        assert len(pointer.positions) == 2
        published = [name.rpartition("@")[0] for entry in history for name in entry.published]
        # Each state was published once, although both daemons got the first one.
        assert sorted(name for name in published if name.startswith("state-")) == sorted(
            f"state-{number}" for number in range(1, 2 + STATES)
        )
        # In any order of commits, desired follows the producer's order.
        desired = [entry.desired for entry in history if entry.desired]
        numbers = [producer_of(name) for name in desired]
        assert numbers == sorted(numbers)
        if scope == SCOPES[0]:
            assert pointer.desired is not None
            assert (pointer.desired.state, pointer.highest_revision.derived) == (
                f"state-{STATES + 1}",
                0,
            )
    writers = {tuple(pointer.positions) for pointer, _ in pointers.values()}
    assert len(set(itertools.chain.from_iterable(writers))) == 2
    lost = sum(log.read_text().count("another writer was faster") for log in logs)
    print(
        f"{sum(pointer.sequence for pointer, _ in pointers.values())} commits, {lost} compare-and-swaps lost"
    )
    assert lost > 0, "they never met"


def producer_of(publication: str) -> int:
    """Of `state-7@…` and `derived-7.2-…@…`."""
    return int(publication.split("-")[1].split("@", maxsplit=1)[0].split(".", maxsplit=1)[0])


def batched(events: Sequence[Event], size: int) -> Iterator[Sequence[Event]]:
    for start in range(0, len(events), size):
        yield events[start : start + size]


def together(act: Callable[[int], None]) -> None:
    """Send to both daemons at once."""
    failures: list[BaseException] = []

    def run(at: int) -> None:
        try:
            act(at)
        except BaseException as error:  # noqa: BLE001  # raised again by the test
            failures.append(error)

    threads = [threading.Thread(target=run, args=(at,)) for at in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def send(port: int, events: Sequence[Event]) -> None:
    for event in events:
        answer = post(port, event)
        assert answer is not None
        assert answer.status == 202, answer.body


async def checked_pointers(bucket: Path) -> dict[Scope, tuple[Pointer, tuple[HistoryEntry, ...]]]:
    """Checks that each scope has a history with consecutive sequences, and whole retained states."""
    runtime = InlineRuntime()
    store = DirectoryStore(bucket, runtime)
    reader = Reader(store, runtime)
    found = {}
    for scope in SCOPES:
        pointer = await read_whole(store, runtime, scope)
        assert pointer is not None
        await check_history(reader, pointer)
        found[scope] = pointer, await reader.history(pointer)
    return found

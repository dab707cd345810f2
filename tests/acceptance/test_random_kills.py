"""Random SIGKILLs of the daemon under load: nothing accepted is lost or counted twice, and no
reader sees a torn state.

Three senders, one for each scope, send event after event and repeat each until it is accepted. A
reader reads what is published in a loop. The daemon is killed and restarted. The default takes
about half a minute; `make crash-long MINUTES=5` (or REBUNDLE_CRASH_MINUTES) runs longer. Both print
the figures.
"""

import asyncio
import os
import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from daemon.publishing import layout
from daemon.publishing.reader import Reader
from daemon.stores.directory.store import DirectoryStore
from events.model import Event, Outcome, OutcomeKind
from renderers.values import Scope
from tests.builders_runtime import InlineRuntime
from tests.support.crashes import OVERRIDDEN, OVERRIDE, check_history, read_whole
from tests.support.daemon_process import DaemonProcess, outcomes, post, until_settled
from tests.support.scenes import model_event, state_event

SCOPES = tuple(Scope("bundle", f"target-{number}") for number in range(3))
SECONDS = 60 * float(os.environ.get("REBUNDLE_CRASH_MINUTES", "0.5"))
EVERY_STATE = 40
"""One event in so many is an explicit state."""


@dataclass
class Run:
    """Counters of what happened."""

    bucket: Path
    port: int = 0
    sending: bool = True
    reading: bool = True
    kills: int = 0
    recoveries: list[float] = field(default_factory=list)
    accepted: dict[Scope, list[Event]] = field(
        default_factory=lambda: {scope: [] for scope in SCOPES}
    )
    resent: int = 0
    reads: int = 0
    torn: list[str] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)
    answered: threading.Event = field(default_factory=threading.Event)


def event_number(scope: Scope, number: int) -> Event:
    """State 1, then models, and sometimes a newer state, which replaces everything before it."""
    if number % EVERY_STATE == 0:
        revision = number // EVERY_STATE + 1
        return state_event(
            revision, scope=scope, version=str(number + 1), event_id=f"{scope}/{number}"
        )
    return model_event(f"{scope}/{number}", "101", str(number + 1), scopes=[scope])


def send(run: Run, scope: Scope) -> None:
    number = 0
    while run.sending:
        event = event_number(scope, number)
        while (answer := post(run.port, event)) is None or answer.status == 503:
            run.resent += 1
            if not run.sending:
                return
            time.sleep(0.01)
        assert answer.status == 202, answer.body
        run.accepted[scope].append(event)
        run.answered.set()
        number += 1
        time.sleep(0.01)


def read(run: Run) -> None:
    runtime = InlineRuntime()
    store = DirectoryStore(run.bucket, runtime)
    highest = dict.fromkeys(SCOPES, 0)
    while run.reading:
        for scope in SCOPES:
            try:
                pointer = asyncio.run(read_whole(store, runtime, scope, retained=False))
            except Exception as error:  # noqa: BLE001  # no reader may get any unexpected error
                run.torn.append(repr(error))
                continue
            if pointer is not None:
                assert pointer.sequence >= highest[scope], "a sequence decreased"
                highest[scope] = pointer.sequence
                run.reads += 1


def watched(run: Run, work: Callable[[], None]) -> threading.Thread:
    def body() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised again by the test
            run.failures.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    return thread


@pytest.mark.slow
def test_random_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    bucket, journal = tmp_path / "bucket", tmp_path / "journal.db"
    overrides = [bucket / layout.live_tree(scope, OVERRIDE) for scope in SCOPES]
    seed = random.randrange(2**32)
    chance, run = random.Random(seed), Run(bucket)
    senders: list[threading.Thread] = []
    edited: set[Path] = set()
    reader = watched(run, lambda: read(run))
    deadline = time.monotonic() + SECONDS
    begun = 0
    try:
        while True:
            started = time.monotonic()
            begun += 1
            with DaemonProcess(bucket, journal, tmp_path / f"daemon-{begun}.log") as daemon:
                if begun > 1 and chance.random() < 0.2:
                    # In the middle of its start.
                    time.sleep(chance.uniform(0, 1.5))
                    daemon.kill()
                    run.kills += 1
                    continue
                run.answered.clear()
                run.port = daemon.port()
                if not senders:
                    senders = [
                        watched(run, lambda scope=scope: send(run, scope)) for scope in SCOPES
                    ]  # type: ignore[misc]  # bound at once
                assert run.answered.wait(30), daemon.log_text[-3000:]
                run.recoveries.append(time.monotonic() - started)
                for override in overrides:
                    if override in edited:
                        assert override.read_bytes() == OVERRIDDEN
                    elif override.exists():
                        override.write_bytes(OVERRIDDEN)
                        edited.add(override)
                if time.monotonic() > deadline:
                    run.sending = False
                    for sender in senders:
                        sender.join()
                    until_settled(daemon, journal)
                    assert daemon.stop() == 0
                    break
                time.sleep(chance.uniform(0, 2))
                daemon.kill()
                run.kills += 1
    finally:
        run.sending = run.reading = False
        for thread in (*senders, reader):
            thread.join()

    accepted = [event for events in run.accepted.values() for event in events]
    outcomes_by_event = outcomes(journal, [event.id for event in accepted])
    lost = [
        event_id
        for event_id, lanes in outcomes_by_event.items()
        if not all(map(is_done, lanes.values())) or len(lanes) != 1
    ]
    print(
        f"seed {seed}: {SECONDS:.0f} s, {run.kills} kills, {len(accepted)} events accepted ({run.resent} tries without an answer), "
        f"{len(lost)} lost, {run.reads} reads, {len(run.torn)} torn; start until the next event is accepted: "
        f"median {statistics.median(run.recoveries):.2f} s, longest {max(run.recoveries):.2f} s"
    )
    assert run.failures == []
    assert run.torn == []
    assert lost == [], {event_id: outcomes_by_event[event_id] for event_id in lost[:5]}
    assert run.kills > SECONDS / 10
    for scope, override in zip(SCOPES, overrides, strict=True):
        asyncio.run(ends_as_sent(bucket, scope, run.accepted[scope]))
        assert override.read_bytes() == OVERRIDDEN


def is_done(outcome: Outcome | None) -> bool:
    """Published, or replaced by a newer state of the same batch.

    No event may be ignored otherwise.
    """
    if outcome is None:
        return False
    if outcome.kind is OutcomeKind.SUPERSEDED:
        return outcome.reason.startswith("replaced by state")
    return outcome.kind is OutcomeKind.PUBLISHED


async def ends_as_sent(bucket: Path, scope: Scope, events: list[Event]) -> None:
    """Desired and live come from the last event, and each event is counted once."""
    runtime = InlineRuntime()
    store = DirectoryStore(bucket, runtime)
    reader = Reader(store, runtime)
    pointer = await read_whole(store, runtime, scope)
    assert pointer is not None
    await check_history(reader, pointer)
    assert pointer.desired is not None
    assert pointer.live == pointer.desired
    # The last one may have been stored although its answer was lost.
    numbers = [len(events) - 1, len(events)]
    assert (pointer.highest_revision.producer, pointer.highest_revision.derived) in [
        (number // EVERY_STATE + 1, number % EVERY_STATE) for number in numbers
    ]
    composition = (await reader.manifest(scope, pointer.desired)).composition_value()
    version = next(model.version for model in composition.models if model.id == "101")
    assert version in {str(number + 1) for number in numbers}

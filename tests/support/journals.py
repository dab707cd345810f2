"""Journals with events in them, for tests that open one beside a daemon."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from events.journal import Journal
from events.model import Event, Identity
from events.records import Arrival
from events.source import Delivery, EventSource

T = TypeVar("T")
SCOPE = "visual-anomaly/core-versions"


def arrival(event_id: str, *scopes: str) -> Arrival:
    """An event that goes to these scopes, or to SCOPE."""
    event = Event(
        id=event_id,
        source="https://r.example.com/",
        type="io.rebundle.bundle_state.created.v1",
        data={"a": 1},
    )
    return Arrival(event, Identity("http", event.source, event_id), "0" * 64, scopes or (SCOPE,))


def in_journal(path: Path, work: Callable[[Journal], Awaitable[T]], *, run: bool = False) -> T:
    """The result of `work` on the journal, in a new event loop."""

    async def act() -> T:
        journal = await Journal.open(path, clock=_now, token=_token, run=run)
        async with journal:
            return await work(journal)

    return asyncio.run(act())


def _now() -> datetime:
    return datetime.now(UTC)


def _token() -> str:
    return secrets.token_hex(16)


async def next_of(source: EventSource) -> Delivery:
    """The next event alone."""
    [delivery] = (await source.take(1)).deliveries
    return delivery


async def waiting_in(source: EventSource, scope: str, limit: int = 1_000) -> Sequence[Delivery]:
    """What waits in a scope when everything available was taken."""
    taking = asyncio.ensure_future(source.take(1_000))
    await asyncio.sleep(0)  # its query is queued
    await source.published_scopes()  # its query comes after that
    for _ in range(10):
        await asyncio.sleep(0)
    taking.cancel()
    await asyncio.wait([taking])
    return await source.waiting(scope, limit)

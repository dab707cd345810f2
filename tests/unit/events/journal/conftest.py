"""A journal on a real file, with a clock that only the test moves."""

import asyncio
import itertools
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest

from events.journal import Journal
from events.model import Event, Identity
from events.records import Arrival

SCOPE = "visual-anomaly/edge"


class Clock:
    def __init__(self):
        self.now = datetime(2026, 11, 22, 10, tzinfo=UTC)

    def __call__(self):
        return self.now

    def advance(self, **amount):
        self.now += timedelta(**amount)


class Bench:
    """Opens journals on one path, and makes arrivals."""

    def __init__(self, path):
        self.path = path
        self.clock = Clock()
        self._tokens = itertools.count(1)

    def token(self):
        return f"{next(self._tokens):032x}"

    @asynccontextmanager
    async def journal(self, *, path=None, run=True, **options):
        opened = await Journal.open(
            path or self.path, clock=self.clock, token=self.token, run=run, poll=0.01, **options
        )
        async with asyncio.timeout(20), opened:
            yield opened

    def arrival(
        self, event_id="1", *, scopes=(SCOPE,), digest="d", intake="http", source="urn:x", data=None
    ):
        event = Event(event_id, source, "io.rebundle.model_version.created.v1", data or {"a": 1})
        return Arrival(event, Identity(intake, source, event_id), digest, scopes)


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "journal.db")


@pytest.fixture
def scope():
    return SCOPE


@pytest.fixture
def play():
    """Runs the coroutine of a test."""
    return asyncio.run

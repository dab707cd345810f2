"""The store port of one process, over a network that loses, delays, doubles and refuses requests.

A write is a message. Once it is sent, it arrives or not, independent of its caller: a caller that
was cancelled, timed out or killed may still have written (protocol 4, rule 1).
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass, fields
from enum import Enum
from types import MappingProxyType
from typing import Any, Protocol

from daemon.stores.errors import (
    ConditionFailed,
    OutcomeUnknown,
    StoreBusy,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from daemon.stores.port import Content, Listing, Stored, Version
from tests.simulation.bucket import Bucket, Held
from tests.simulation.loop import SimulatedLoop

LATEST = 60.0
"""Seconds after which no message is pending any more."""


@dataclass(frozen=True, slots=True)
class Crash:
    """A process ends at one of its calls, counted from 1."""

    process: str
    call: int
    applied: bool = False
    """The pending write is still applied."""


@dataclass(slots=True)
class Faults:
    """The rate of each fault, from 0 to 1 per call. A seed enables a subset of them."""

    crash: float = 0
    """The process ends before the request is sent, while it is pending, or before its answer
    arrives.
    """
    pause: float = 0
    """Long enough for many actions of others, and for reaching limits."""
    lost_request: float = 0
    lost_answer: float = 0
    late: float = 0
    """No answer; applied much later."""
    doubled: float = 0
    """Applied, answered, and applied again later."""
    resent: float = 0
    """Applied twice by something on the way.

    The answer is the second one's: a success reported as a failure.
    """
    conflict: float = 0
    """409: not applied, and answered like a failed condition."""
    busy: float = 0
    away: float = 0
    gone_for_reads: float = 0
    losers_hear_5xx: float = 0
    """Of those whose condition failed."""

    def off(self) -> None:
        """No faults from now on."""
        for field in fields(self):
            setattr(self, field.name, 0)


class Fate(Enum):
    """The fate of one write."""

    FINE = "fine"
    CRASH = "crash"
    LOST_REQUEST = "lost_request"
    LOST_ANSWER = "lost_answer"
    LATE = "late"
    DOUBLED = "doubled"
    RESENT = "resent"
    CONFLICT = "conflict"
    BUSY = "busy"
    AWAY = "away"


_FATES = [item for item in Fate if item is not Fate.FINE]
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_listed: ContextVar[Mapping[str, tuple[float, Mapping[str, Held]]]] = ContextVar(
    "listed", default=_NOTHING
)


class Owner(Protocol):
    """The process that uses this store."""

    name: str

    async def die(self) -> None:
        """End now; never returns."""
        ...

    def stops_here(self, what: str) -> Crash | None:
        """Whether the process is to end at this very call, and how."""
        ...


class RemoteStore:
    """Implements daemon.stores.port.ObjectStore for one process."""

    def __init__(
        self,
        bucket: Bucket,
        loop: SimulatedLoop,
        owner: Owner,
        faults: Faults,
        chance: random.Random,
        trace: Callable[..., None],
    ) -> None:
        self._bucket = bucket
        self._loop = loop
        self._owner = owner
        self._faults = faults
        self._chance = chance
        self._trace = trace
        self.shown: dict[str, list[Held]] = {}
        """What this process was shown lately under each key, by a listing or a read."""
        self.blocked = ""
        """The end of the keys that cannot be written."""
        self.writing: Callable[[str, Content, RemoteStore], None] = lambda *_: None
        """Called with each body before it is sent."""

    @property
    def listed(self) -> Mapping[str, tuple[float, Mapping[str, Held]]]:
        """When the last listing of each prefix was made for the asking task, or for the one that
        started it, and its content.

        Not for the process: two passes over one tree may run in it, and each decides by its own
        listing.
        """
        return _listed.get()

    async def get(self, key: str, *, max_bytes: int | None = None) -> Stored:
        def reading() -> Stored:
            self._show(key)
            return self._bucket.get(key)

        return await self._read("get", key, reading)

    async def versions(self, keys: Sequence[str]) -> Mapping[str, Version]:
        found: dict[str, Version] = {}
        for key in keys:
            with suppress(StoreError):
                found[key] = (await self.get(key)).version
        return found

    async def scan(self, prefix: str) -> Listing:
        def listing() -> Listing:
            there = {
                key: held for key, held in self._bucket.objects.items() if key.startswith(prefix)
            }
            for key in there:
                self._show(key)
            _listed.set({**self.listed, prefix: (self._loop.time(), there)})
            return self._bucket.scan(prefix)

        return await self._read("scan", prefix, listing)

    async def folders(self, prefix: str) -> Sequence[str]:
        return await self._read("folders", prefix, lambda: self._bucket.folders(prefix))

    async def create(self, key: str, content: Content) -> Version:
        self.writing(key, content, self)
        return await self._write(
            "create", key, lambda: self._bucket.create(key, content, self._owner.name)
        )

    async def replace(self, key: str, content: Content, version: Version) -> Version:
        self.writing(key, content, self)
        return await self._write(
            "replace", key, lambda: self._bucket.replace(key, content, version, self._owner.name)
        )

    async def delete(self, key: str, version: Version) -> None:
        await self._write(
            "delete", key, lambda: self._bucket.delete(key, version, self._owner.name)
        )

    def _show(self, key: str) -> None:
        held, shown = self._bucket.objects.get(key), self.shown.setdefault(key, [])
        if held is not None and (not shown or shown[-1] is not held):
            self.shown[key] = [*shown, held][-3:]

    # -- a request and its answer

    async def _read(self, what: str, key: str, read: Callable[[], Any]) -> Any:
        await self._travel()
        if self._owner.stops_here(what) or self._happens(self._faults.crash / 4):
            await self._crash(what, key)
        if self._happens(self._faults.gone_for_reads):
            self._trace(self._owner.name, what, key, "away")
            raise StoreUnavailable(key)
        try:
            result = read()
        except StoreError as error:
            self._trace(self._owner.name, what, key, type(error).__name__)
            await self._travel()
            raise
        self._trace(self._owner.name, what, key, "")
        await self._travel()
        return result

    async def _write(self, what: str, key: str, apply: Callable[[], Any]) -> Any:
        await self._travel()
        if self.blocked and key.endswith(self.blocked):
            raise StoreRefused(f"{key}: Is a directory")
        meant = self._owner.stops_here(what)
        fate = Fate.CRASH if meant else self._fate(key)
        match fate:
            case Fate.CRASH:
                after = self._chance.choice((None, 0.0, self._delay(), self._lateness()))
                if meant:
                    after = 0.0 if meant.applied else None
                if after is not None:
                    self._loop.call_later(after, self._quietly, what, key, apply)
                await self._crash(what, key)
            case Fate.LOST_REQUEST | Fate.BUSY | Fate.AWAY | Fate.CONFLICT:
                self._trace(self._owner.name, what, key, fate.value)
                await (self._silence() if fate is Fate.LOST_REQUEST else self._travel())
                raise {
                    Fate.LOST_REQUEST: OutcomeUnknown,
                    Fate.BUSY: StoreBusy,
                    Fate.AWAY: StoreUnavailable,
                    Fate.CONFLICT: ConditionFailed,
                }[fate](key)
            case Fate.LATE:
                self._trace(self._owner.name, what, key, fate.value)
                self._loop.call_later(self._lateness(), self._quietly, what, key, apply)
                await self._silence()
                raise OutcomeUnknown(key)
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._loop.call_later(self._delay(), self._arrive, what, key, apply, fate, answer)
        try:
            result = await answer
        except (ConditionFailed, StoreError) as error:
            await self._travel()
            if isinstance(error, ConditionFailed) and self._happens(self._faults.losers_hear_5xx):
                raise OutcomeUnknown(key) from error
            raise
        if fate is Fate.LOST_ANSWER:
            await self._silence()
            raise OutcomeUnknown(key)
        await self._travel()
        return result

    def _arrive(
        self, what: str, key: str, apply: Callable[[], Any], fate: Fate, answer: asyncio.Future[Any]
    ) -> None:
        if fate is Fate.RESENT:
            self._quietly(what, key, apply)
        if fate is Fate.DOUBLED:
            self._loop.call_later(self._lateness(), self._quietly, what, key, apply)
        try:
            result = apply()
        except StoreError as error:
            self._trace(self._owner.name, what, key, f"{fate.value} {type(error).__name__}")
            if not answer.done():
                answer.set_exception(error)
                answer.exception()  # the caller may be gone
        else:
            self._trace(self._owner.name, what, key, fate.value)
            if not answer.done():
                answer.set_result(result)

    def _quietly(self, what: str, key: str, apply: Callable[[], Any]) -> None:
        """A message that arrives, and whose answer is lost."""
        try:
            apply()
        except StoreError as error:
            self._trace(self._owner.name, what, key, f"unheard {type(error).__name__}")
        else:
            self._trace(self._owner.name, what, key, "unheard")

    # -- randomness

    async def _travel(self) -> None:
        if self._happens(self._faults.pause):
            pause = 60 * self._chance.random() ** 2
            self._trace(self._owner.name, "pause", f"{pause:.1f} s", "")
            await asyncio.sleep(pause)
        else:
            await asyncio.sleep(self._delay())

    async def _silence(self) -> None:
        """Until a caller gives up waiting for an answer."""
        await asyncio.sleep(15 * self._chance.random() ** 3)

    def _lateness(self) -> float:
        """For a message whose caller has given up: mostly it arrives while its sender decides the
        next step.
        """
        return LATEST * self._chance.random() ** 4

    def _delay(self) -> float:
        return 0.005 + 0.05 * self._chance.random()

    def _happens(self, rate: float) -> bool:
        return rate > 0 and self._chance.random() < rate

    def _fate(self, key: str) -> Fate:
        # The pointer is written seldom, and everything depends on it.
        drawn = self._chance.random() / (3 if key.endswith("/pointer.json") else 1)
        for fate in _FATES:
            drawn -= getattr(self._faults, fate.value)
            if drawn < 0:
                return fate
        return Fate.FINE

    async def _crash(self, what: str, key: str) -> None:
        self._trace(self._owner.name, what, key, "crash")
        await self._owner.die()

"""Whether a store honours what publishing rests on, found out by doing it: the probe at the start, fail closed.

It writes below `.rebundle/probe/` alone, to one of 256 keys by chance. Who may not delete, and who crashes, leaves the
key there, and a later probe takes it over: so what is left never grows. Two probes at one key disturb each other,
which is noticed and proves nothing about the store.

A condition that is ignored is a refusal, for good. What could not be tried proves nothing either way: who called tries
again. That a store honours conditions and loses races no probe can see: docs/stores.md has the stores that were raced.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, Protocol

from daemon.runtime import Runtime
from daemon.stores.errors import ConditionFailed, ObjectMissing, StoreError, StoreRefused
from daemon.stores.port import Content, ObjectStore, Version

PREFIX: Final = ".rebundle/probe/"
STEP_SECONDS: Final = 30.0
CLOCK_SECONDS: Final = 60.0
"""A difference of clocks that is told of."""


class Verdict(StrEnum):
    """What a step of the probe has shown."""

    OK = "ok"
    REFUSED = "refused"
    """Publishing to such a store would lose states: it is not used."""
    FAILED = "failed"
    """It could not be tried; nothing is shown."""
    UNSUPPORTED = "unsupported"
    """A bonus that this store does not give."""
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one step has shown, and what that means to an operator."""

    clause: str
    verdict: Verdict
    means: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Every finding, in order; what follows a refusal or a failure was not tried."""

    findings: tuple[Finding, ...]
    ahead: float | None = None
    """Seconds by which the store's clock is ahead of this machine's, within the length of a write; None: not known."""

    @property
    def refusal(self) -> Finding | None:
        """Why the store must not be used."""
        return self._first(Verdict.REFUSED)

    @property
    def failure(self) -> Finding | None:
        """Why it is not known whether the store may be used."""
        return self._first(Verdict.FAILED)

    @property
    def usable(self) -> bool:
        """Whether the store may be used."""
        return self.refusal is None and self.failure is None

    def _first(self, verdict: Verdict) -> Finding | None:
        return next((each for each in self.findings if each.verdict is verdict), None)


class UnsafeStore(StoreRefused):
    """The store does not honour what publishing rests on; trying again changes nothing."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(
            f"this store cannot be published to, {finding.clause}: {finding.means}. Use a store that docs/stores.md "
            "lists, and see that no proxy drops If-Match and If-None-Match; `rebundle doctor` shows every finding"
        )


class Bare(Protocol):
    """An adapter that can leave out its own precautions, to show what the server does by itself."""

    async def refuses_damage(self, key: str) -> bool:
        """Whether a body that does not fit the digest sent with it is refused; else there is an object now."""
        ...

    async def refuses_stale_deletion(self, key: str, version: Version) -> bool:
        """Whether deleting a version that is gone is refused; else the object is gone, perhaps."""
        ...


async def probe(
    store: ObjectStore, runtime: Runtime, seconds: float = STEP_SECONDS, *, bare: Bare | None = None
) -> ProbeResult:
    """What the store honours. Raises nothing of the store's: its errors are findings.

    `seconds` limits each step; `bare`, the adapter below `store`, shows more, of which nothing is a reason to refuse.
    """
    probing = _Probing(store, runtime, seconds, bare)
    await probing.go()
    return ProbeResult(tuple(probing.findings), probing.ahead)


Shown = tuple[Verdict, str]


class _Probing:
    """One probe under way: what it has written, and what that has shown."""

    def __init__(self, store: ObjectStore, runtime: Runtime, seconds: float, bare: Bare | None) -> None:
        self._store = store
        self._bare = bare
        self._runtime = runtime
        self._seconds = seconds
        token = runtime.random_id()
        self._key = f"{PREFIX}{token[:2]}"
        self._first, self._second, self._third = (
            Content(f"{token} {step}\n".encode(), "text/plain", tag={"probe": f"{token} {step} ü%"})
            for step in ("first", "second", "third")
        )
        self._stale = Version("")
        self._version: Version | None = None
        self._written_at: datetime | None = None
        self.findings: list[Finding] = []
        self.ahead: float | None = None

    async def go(self) -> None:
        """Every step, until one shows that the rest means nothing; then tidy up."""
        steps: tuple[tuple[str, Callable[[], Awaitable[Shown]]], ...] = (
            ("create", self._create),
            ("create once", self._create_again),
            ("replace", self._replace),
            ("replace stale", self._replace_stale),
            ("replace absent", self._replace_absent),
            ("read back", self._read_back),
            ("list", self._list),
            *((("checksum", self._checksum),) if self._bare else ()),
            ("delete stale", self._delete_stale),
        )
        for clause, step in steps:
            finding = await self._timed(clause, step)
            self.findings.append(finding)
            if finding.verdict in {Verdict.REFUSED, Verdict.FAILED}:
                break
        if self._version is not None:
            self.findings.append(await self._timed("clean up", self._clean_up))

    async def _timed(self, clause: str, step: Callable[[], Awaitable[Shown]]) -> Finding:
        began = self._runtime.monotonic()
        try:
            async with asyncio.timeout(self._seconds):
                verdict, means = await self._tried(step)
        except TimeoutError:
            verdict, means = Verdict.FAILED, f"no answer within {self._seconds:g} s"
        return Finding(clause, verdict, means, self._runtime.monotonic() - began)

    async def _tried(self, step: Callable[[], Awaitable[Shown]]) -> Shown:
        try:
            try:
                return await step()
            except (ConditionFailed, ObjectMissing) as error:
                return await self._unexpected(error)
        except StoreError as error:
            return Verdict.FAILED, str(error)

    async def _unexpected(self, error: StoreError) -> Shown:
        """A write that had to be taken was refused: by the store, or because of somebody who came between."""
        if self._version is None or not await self._is_ours():
            return Verdict.FAILED, f"another probe, or a request that was sent twice, came between: {error}"
        return Verdict.REFUSED, f"a write over the very version that is there is refused: {error}"

    async def _is_ours(self) -> bool:
        """Whether what this probe wrote last is there still; only then its absence elsewhere is the store's fault."""
        return (await self._store.get(self._key)).version == self._version

    # ---- steps

    async def _create(self) -> Shown:
        try:
            self._version = await self._store.create(self._key, self._first)
        except ConditionFailed:
            self._version = (await self._store.get(self._key)).version
            self._version = await self._store.replace(self._key, self._first, self._version)
        return Verdict.OK, "new objects can be stored"

    async def _create_again(self) -> Shown:
        # Another probe may remove the key before one of these, hardly before both.
        for _ in range(2):
            try:
                self._version = await self._store.create(self._key, self._third)
            except ConditionFailed:
                return Verdict.OK, "what exists is not created again: a published state stays what it is"
        return Verdict.REFUSED, "an object that exists was created again: published states could be overwritten"

    async def _replace(self) -> Shown:
        assert self._version is not None
        self._stale = self._version
        self._version = await self._store.replace(self._key, self._second, self._stale)
        self._written_at = self._runtime.now()
        if self._version == self._stale:
            return Verdict.REFUSED, "another body has the same version: a change could not be seen"
        return Verdict.OK, "the version that was read can be replaced: pointers can be moved"

    async def _replace_stale(self) -> Shown:
        try:
            self._version = await self._store.replace(self._key, self._third, self._stale)
        except (ConditionFailed, ObjectMissing):
            return Verdict.OK, "a version that is gone is not replaced: of two publishers one wins"
        return (
            Verdict.REFUSED,
            "a version that was gone was replaced: one publisher would overwrite the other's pointer",
        )

    async def _replace_absent(self) -> Shown:
        absent = f"{self._key}-absent"
        try:
            written = await self._store.replace(absent, self._third, self._stale)
        except (ConditionFailed, ObjectMissing):
            return Verdict.OK, "what is absent is not replaced: a lost pointer is noticed"
        await self._removed(absent, written)
        return Verdict.REFUSED, "an absent object was replaced: a lost pointer would be replaced without its history"

    async def _read_back(self) -> Shown:
        found = await self._store.get(self._key)
        if found.version != self._version:
            return await self._unexpected(ConditionFailed(f"{self._key} is at another version than was written"))
        if found.body != self._second.body:
            return Verdict.REFUSED, "the bytes that are read are not those that were written"
        if dict(found.tag) != dict(self._second.tag):
            return Verdict.REFUSED, "metadata does not come back: files of ours could not be told from overrides"
        return Verdict.OK, "bytes, version and metadata come back as they were written"

    async def _list(self) -> Shown:
        listed = next((each for each in await self._store.scan(self._key) if each.key == self._key), None)
        if (listed is None or listed.version != self._version) and not await self._is_ours():
            return Verdict.FAILED, "another probe came between"
        if listed is None:
            return Verdict.REFUSED, "a listing does not show what was just written: it could not be trusted"
        if listed.version != self._version:
            return Verdict.REFUSED, "a listing shows another version than a read: the live tree could not be brought on"
        assert self._written_at is not None
        self.ahead = (listed.modified - self._written_at).total_seconds()
        if abs(self.ahead) > CLOCK_SECONDS:
            told = "ahead of" if self.ahead > 0 else "behind"
            return Verdict.NOTE, f"the store's clock is {abs(self.ahead):.0f} s {told} this machine's: set this one"
        return Verdict.OK, "a listing shows what was just written, with its version and time"

    async def _checksum(self) -> Shown:
        assert self._bare is not None
        damaged = f"{self._key}-damaged"
        try:
            if await self._bare.refuses_damage(damaged):
                return Verdict.OK, "what is damaged on its way is refused"
            await self._removed(damaged, (await self._store.get(damaged)).version)
        except (ConditionFailed, ObjectMissing):
            pass  # left by an earlier probe that may not delete: it was stored then
        return Verdict.NOTE, "what is damaged on its way is stored: readers find it by the manifest's digests"

    async def _delete_stale(self) -> Shown:
        try:
            if await self._refuses_stale_deletion():
                return Verdict.OK, "a version that is gone is not deleted"
        except StoreRefused as error:
            return Verdict.NOTE, f"these credentials may not delete ({error}): then collection needs others"
        return Verdict.UNSUPPORTED, "a deletion hits whatever is there; no rule of ours rests on it"

    async def _refuses_stale_deletion(self) -> bool:
        try:
            if self._bare is not None:
                refused = await self._bare.refuses_stale_deletion(self._key, self._stale)
            else:
                await self._store.delete(self._key, self._stale)
                refused = False
        except (ConditionFailed, ObjectMissing):
            refused = True
        if not refused:
            try:
                await self._store.get(self._key)
            except ObjectMissing:
                self._version = None
        return refused

    async def _clean_up(self) -> Shown:
        assert self._version is not None
        if (told := await self._removed(self._key, self._version)) is not None:
            return Verdict.NOTE, f"{self._key} stays, and is used again ({told})"
        return Verdict.OK, "nothing is left of the probe"

    async def _removed(self, key: str, version: Version) -> str | None:
        """None, or why it is still there."""
        try:
            await self._store.delete(key, version)
        except StoreError as error:
            return str(error)
        return None

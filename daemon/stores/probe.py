"""The store probe tests by real requests whether a store has the properties that publishing needs.

It writes only below `.rebundle/probe/`, to one of 256 keys that it selects at random. After a
crash, or without delete permission, the object stays and a later probe reuses it, so the number of
leftover objects is bounded. Two probes that use the same key disturb each other. The probe detects
that; it proves nothing about the store.

An ignored condition is a permanent refusal: the probe fails closed. A step that could not be tried
proves nothing: the caller tries again. A probe cannot detect a store that honours conditions but
loses races: docs/stores.md lists the stores that were tested with races.
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
"""A larger difference of the clocks is reported."""


class Verdict(StrEnum):
    """The result of one step of the probe."""

    OK = "ok"
    REFUSED = "refused"
    """Publishing to such a store would lose states: it must not be used."""
    FAILED = "failed"
    """The step could not be tried; it proves nothing."""
    UNSUPPORTED = "unsupported"
    """The store lacks a property that is not required."""
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one step, and what it means for an operator."""

    step: str
    verdict: Verdict
    explanation: str
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """All findings in order. Steps after a refusal or failure were not tried."""

    findings: tuple[Finding, ...]
    ahead: float | None = None
    """Seconds by which the store's clock is ahead of this machine's; None: not known.

    The accuracy is the duration of one write.
    """

    @property
    def refusal(self) -> Finding | None:
        """The finding because of which the store must not be used."""
        return self._first(Verdict.REFUSED)

    @property
    def failure(self) -> Finding | None:
        """The finding that leaves unknown whether the store may be used."""
        return self._first(Verdict.FAILED)

    @property
    def usable(self) -> bool:
        """Whether the store may be used."""
        return self.refusal is None and self.failure is None

    def _first(self, verdict: Verdict) -> Finding | None:
        return next((finding for finding in self.findings if finding.verdict is verdict), None)


class UnsafeStore(StoreRefused):
    """The operator must act: the store lacks a property that publishing needs. Do not retry."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(
            f"this store is not safe to publish to, {finding.step}: {finding.explanation}. "
            "Use a store that docs/stores.md lists, and check that no proxy drops If-Match and "
            "If-None-Match; `rebundle doctor` shows every finding"
        )


class Bare(Protocol):
    """An adapter that can test the server without the adapter's own precautions."""

    async def refuses_damage(self, key: str) -> bool:
        """Whether the server refuses a body that does not match its digest.

        If not, the body is stored.
        """
        ...

    async def refuses_stale_deletion(self, key: str, version: Version) -> bool:
        """Whether the server refuses to delete an old version.

        If not, the object may be deleted.
        """
        ...


async def probe(
    store: ObjectStore, runtime: Runtime, seconds: float = STEP_SECONDS, *, bare: Bare | None = None
) -> ProbeResult:
    """Probe a store. Store errors are not raised: they become findings.

    `seconds` limits each step. `bare`, the adapter below `store`, adds steps that never lead to a
    refusal.
    """
    run = _ProbeRun(store, runtime, seconds, bare)
    await run.run()
    return ProbeResult(tuple(run.findings), run.ahead)


StepResult = tuple[Verdict, str]


class _ProbeRun:
    """One run of the probe: what it has written, and its findings."""

    def __init__(
        self, store: ObjectStore, runtime: Runtime, seconds: float, bare: Bare | None
    ) -> None:
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

    async def run(self) -> None:
        """Run the steps until one is refused or fails; then clean up."""
        steps: tuple[tuple[str, Callable[[], Awaitable[StepResult]]], ...] = (
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
        for step, run in steps:
            finding = await self._timed(step, run)
            self.findings.append(finding)
            if finding.verdict in {Verdict.REFUSED, Verdict.FAILED}:
                break
        if self._version is not None:
            self.findings.append(await self._timed("clean up", self._clean_up))

    async def _timed(self, step: str, run: Callable[[], Awaitable[StepResult]]) -> Finding:
        began = self._runtime.monotonic()
        try:
            async with asyncio.timeout(self._seconds):
                verdict, explanation = await self._try(run)
        except TimeoutError:
            verdict, explanation = Verdict.FAILED, f"no answer within {self._seconds:g} s"
        return Finding(step, verdict, explanation, self._runtime.monotonic() - began)

    async def _try(self, run: Callable[[], Awaitable[StepResult]]) -> StepResult:
        try:
            try:
                return await run()
            except (ConditionFailed, ObjectMissing) as error:
                return await self._refused_write(error)
        except StoreError as error:
            return Verdict.FAILED, str(error)

    async def _refused_write(self, error: StoreError) -> StepResult:
        """Return the result of a write that should have succeeded and was refused.

        Either the store is at fault, or another writer changed the object between two steps.
        """
        if self._version is None or not await self._is_ours():
            return (
                Verdict.FAILED,
                f"another probe, or a request that was sent twice, interfered: {error}",
            )
        return Verdict.REFUSED, f"a replacement of the current version is refused: {error}"

    async def _is_ours(self) -> bool:
        """Whether the object still has the version that this probe wrote last.

        Only then is its absence elsewhere the fault of the store.
        """
        return (await self._store.get(self._key)).version == self._version

    # ---- steps

    async def _create(self) -> StepResult:
        try:
            self._version = await self._store.create(self._key, self._first)
        except ConditionFailed:
            self._version = (await self._store.get(self._key)).version
            self._version = await self._store.replace(self._key, self._first, self._version)
        return Verdict.OK, "new objects can be stored"

    async def _create_again(self) -> StepResult:
        # Another probe may delete the key before one of these tries, but hardly before both.
        for _ in range(2):
            try:
                self._version = await self._store.create(self._key, self._third)
            except ConditionFailed:
                return (
                    Verdict.OK,
                    "an existing object is not created again: published states do not change",
                )
        return (
            Verdict.REFUSED,
            "an existing object was created again: published states could be overwritten",
        )

    async def _replace(self) -> StepResult:
        assert self._version is not None
        self._stale = self._version
        self._version = await self._store.replace(self._key, self._second, self._stale)
        self._written_at = self._runtime.now()
        if self._version == self._stale:
            return (
                Verdict.REFUSED,
                "another body has the same version: changes could not be detected",
            )
        return Verdict.OK, "the version that was read can be replaced: pointers can be changed"

    async def _replace_stale(self) -> StepResult:
        try:
            self._version = await self._store.replace(self._key, self._third, self._stale)
        except (ConditionFailed, ObjectMissing):
            return Verdict.OK, "an old version is not replaced: of two publishers one wins"
        return (
            Verdict.REFUSED,
            "an old version was replaced: one publisher would overwrite the other's pointer",
        )

    async def _replace_absent(self) -> StepResult:
        absent = f"{self._key}-absent"
        try:
            written = await self._store.replace(absent, self._third, self._stale)
        except (ConditionFailed, ObjectMissing):
            return Verdict.OK, "an absent object is not replaced: a lost pointer is detected"
        await self._delete(absent, written)
        return (
            Verdict.REFUSED,
            "an absent object was replaced: a lost pointer would be replaced without its history",
        )

    async def _read_back(self) -> StepResult:
        stored = await self._store.get(self._key)
        if stored.version != self._version:
            return await self._refused_write(
                ConditionFailed(f"{self._key} has another version than the one written")
            )
        if stored.body != self._second.body:
            return Verdict.REFUSED, "the bytes that are read differ from those that were written"
        if dict(stored.tag) != dict(self._second.tag):
            return (
                Verdict.REFUSED,
                "metadata is lost: generated files could not be distinguished from overrides",
            )
        return Verdict.OK, "bytes, version and metadata are read as they were written"

    async def _list(self) -> StepResult:
        listed = next(
            (item for item in await self._store.scan(self._key) if item.key == self._key), None
        )
        if (listed is None or listed.version != self._version) and not await self._is_ours():
            return Verdict.FAILED, "another probe interfered"
        if listed is None:
            return (
                Verdict.REFUSED,
                (
                    "a listing does not show an object that was just written: listings could "
                    "not be trusted"
                ),
            )
        if listed.version != self._version:
            return (
                Verdict.REFUSED,
                "a listing shows another version than a read: the live tree could not be updated",
            )
        assert self._written_at is not None
        self.ahead = (listed.modified - self._written_at).total_seconds()
        if abs(self.ahead) > CLOCK_SECONDS:
            direction = "ahead of" if self.ahead > 0 else "behind"
            difference = f"{abs(self.ahead):.0f} s {direction}"
            return (
                Verdict.NOTE,
                f"the store's clock is {difference} this machine's: set this machine's clock",
            )
        return (
            Verdict.OK,
            "a listing shows an object that was just written, with its version and time",
        )

    async def _checksum(self) -> StepResult:
        assert self._bare is not None
        damaged = f"{self._key}-damaged"
        try:
            if await self._bare.refuses_damage(damaged):
                return Verdict.OK, "a body that was damaged on its way is refused"
            await self._delete(damaged, (await self._store.get(damaged)).version)
        except (ConditionFailed, ObjectMissing):
            pass  # an earlier probe without delete permission left it, so it was stored
        return (
            Verdict.NOTE,
            (
                "a body that was damaged on its way is stored: readers detect it by the "
                "manifest's digests"
            ),
        )

    async def _delete_stale(self) -> StepResult:
        try:
            if await self._refuses_stale_deletion():
                return Verdict.OK, "an old version is not deleted"
        except StoreRefused as error:
            return (
                Verdict.NOTE,
                f"these credentials have no delete permission ({error}): collection needs others",
            )
        return Verdict.UNSUPPORTED, "a deletion ignores the version; no rule depends on it"

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

    async def _clean_up(self) -> StepResult:
        assert self._version is not None
        if (reason := await self._delete(self._key, self._version)) is not None:
            return Verdict.NOTE, f"{self._key} stays and will be reused ({reason})"
        return Verdict.OK, "the probe has left no object"

    async def _delete(self, key: str, version: Version) -> str | None:
        """Delete an object. Return why it could not be deleted; None if it was."""
        try:
            await self._store.delete(key, version)
        except StoreError as error:
            return str(error)
        return None

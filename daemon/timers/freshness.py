"""The daemon's timer of freshness.json: says, signed, again and again, which pointer is the newest (protocol 4).

In every daemon of a bucket that has a key: whoever finds it due writes it, by compare-and-swap, and who is slower has
nothing to do. A daemon that has seen a newer pointer vouches for no older one.
"""

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from daemon.concurrency import concurrently
from daemon.publishing import layout, pointer, signatures, sizes
from daemon.publishing.documents import Malformed, parse, serialised
from daemon.publishing.errors import VerificationFailed
from daemon.publishing.reader import Reader
from daemon.publishing.signatures import Signer
from daemon.publishing.trust.freshness import Freshness
from daemon.publishing.wording import reason_of
from daemon.runtime import Runtime
from daemon.stores.errors import ConditionFailed, ObjectMissing, ObjectTooBig, OutcomeUnknown
from daemon.stores.port import Content, ObjectStore, Version
from daemon.timers import every
from renderers.model import Scope

if TYPE_CHECKING:  # keys take long to import, and only who has a policy needs them
    from daemon.publishing.trust.policy import TrustPolicy

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_TIMES_A_LIFE: Final = 4
_MOST_SECONDS: Final = 60
"""Between two rounds: nobody who demands freshness can read a new scope before the next one."""

_RENEWED_AT_ONCE: Final = 8


class FreshnessTimer:
    """Renews what readers believe, until it is cancelled."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        reader: Reader,
        runtime: Runtime,
        signers: tuple[Signer, ...],
        trust: "TrustPolicy | None",
        minutes: int,
    ) -> None:
        """`minutes`: how long it may be believed; 0: none is written. `trust`: what readers are assumed to accept."""
        self._store = store
        self._reader = reader
        self._runtime = runtime
        self._signers = signers
        self._keyids = [each.keyid for each in signers]
        self._trust = trust
        self._lifetime = timedelta(minutes=minutes)
        self.failing: dict[str, str] = {}
        """Scopes whose freshness.json could not be renewed in the last round, and why; an empty name: all."""

    async def run(self) -> None:
        """Round after round, the first one at once: while nothing ran, what was said may have expired."""
        pause = min(self._lifetime.total_seconds() / _TIMES_A_LIFE, _MOST_SECONDS)
        if pause:
            await every(pause, self._runtime, self._round, jitter=True)

    async def _round(self) -> None:
        failing: dict[str, str] = {}
        try:
            scopes = await self._reader.scopes()
            # Side by side: what a slow scope delays may expire meanwhile.
            reasons = await concurrently(self._try_renew, scopes, at_once=_RENEWED_AT_ONCE)
            failing = {str(scope): why for scope, why in zip(scopes, reasons, strict=True) if why is not None}
        except Exception as error:  # noqa: BLE001  # the next round asks again
            failing[""] = f"the bucket cannot be listed: {reason_of(error)}"
            log.warning("bucket not listed", error=str(error))
        self.failing = failing

    async def renew(self, scope: Scope) -> bool:
        """Write freshness.json anew if it is due; whether it was written.

        Raises:
            PublishingError: the pointer is not one to vouch for.
        """
        if self._trust is not None and self._trust.objection(self._keyids, "pointer", scope):
            return False  # by its own policy nobody would believe it, and another daemon's would be gone
        # Before the pointer: what is read after it may well name a newer one.
        said, version = await self._present(scope)
        newest = (await self._reader.pointer(scope)).pointer
        if newest.sequence == 0:
            return False
        if said is not None and self._trust is not None:
            said.check_not_older(newest.sequence)
        body = (await self._store.get(layout.pointer(scope), most_bytes=sizes.POINTER)).body
        now = self._runtime.now()
        if await self._reader.work_on(len(body), pointer.decode, body, scope) != newest:
            return False  # it has moved on in this moment
        size = len(body)
        if said is not None and not await self._reader.work_on(size, said.is_due, body, now, self._lifetime):
            return False
        expires = now + self._lifetime
        following = await self._reader.work_on(size, Freshness.of, scope, newest.sequence, body, expires)
        part = following.signed_part()
        made = await self._runtime.run_in_thread(signatures.signed_by, self._signers, signatures.FRESHNESS, part)
        document = {"signed": json.loads(part), "signatures": [each.document() for each in made]}
        content = Content(serialised(document), "application/json")
        try:
            if version is None:
                await self._store.create(layout.freshness(scope), content)
            else:
                await self._store.replace(layout.freshness(scope), content, version)
        except (ConditionFailed, ObjectMissing, OutcomeUnknown):
            return False  # another daemon was faster, or the next round finds out
        return True

    async def _try_renew(self, scope: Scope) -> str | None:
        """Why it could not be renewed, if so."""
        try:
            await self.renew(scope)
        except Exception as error:  # noqa: BLE001  # one scope must not hold up the others; the next round goes on
            log.warning("freshness of a pointer not renewed, tried again later", scope=str(scope), error=str(error))
            return reason_of(error)
        return None

    async def _present(self, scope: Scope) -> tuple[Freshness | None, Version | None]:
        """What it says now, and its version. By the policy one that readers would refuse says nothing."""
        try:
            stored = await self._store.get(layout.freshness(scope), most_bytes=sizes.FRESHNESS)
        except ObjectMissing:
            return None, None
        except ObjectTooBig:
            return None, await self._reader.listed_version(layout.freshness(scope))
        try:
            if self._trust is not None:
                return self._trust.check_freshness(stored.body, scope), stored.version
            return Freshness.parse(_signed(stored.body), scope), stored.version
        except (Malformed, VerificationFailed):
            return None, stored.version


def _signed(body: bytes) -> object:
    document = parse(body)
    return document.get("signed") if isinstance(document, dict) else None

"""The timer of freshness.json: a signed, expiring record of the newest pointer (protocol 4).

Every daemon of a bucket that has a signing key runs it. The first one that finds the record due
replaces it by compare-and-swap; the others then have nothing to do. A daemon that has seen a newer
pointer does not attest an older one.
"""

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from daemon.concurrency import concurrently
from daemon.failures import reason_of
from daemon.publishing import layout, pointer, signatures, sizes
from daemon.publishing.documents import serialised
from daemon.publishing.errors import VerificationFailed
from daemon.publishing.reader import Reader
from daemon.publishing.signatures import Signer
from daemon.publishing.trust.freshness import Freshness
from daemon.publishing.verification import Verifier
from daemon.runtime import Runtime
from daemon.stores.errors import ConditionFailed, ObjectMissing, ObjectTooBig, OutcomeUnknown
from daemon.stores.port import Content, ObjectStore, Version
from daemon.timers import every
from renderers.values import Scope

if TYPE_CHECKING:  # takes long to import, and is needed only with a policy
    from daemon.publishing.trust.policy import TrustPolicy

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_ROUNDS_PER_LIFETIME: Final = 4
_MAX_PAUSE_SECONDS: Final = 60
"""A reader that requires freshness can read a new scope only after the next round."""

_CONCURRENT_RENEWALS: Final = 8


class FreshnessTimer:
    """Renews the freshness.json of each scope until it is cancelled."""

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
        """Create a timer that has not started.

        `minutes`: the lifetime of a record; 0: write none. `trust`: the policy that readers are
        assumed to have.
        """
        self._store = store
        self._reader = reader
        self._runtime = runtime
        self._signers = signers
        self._keyids = [signer.keyid for signer in signers]
        self._verifier = Verifier(trust)
        self._lifetime = timedelta(minutes=minutes)
        self.failing: dict[str, str] = {}
        """Scopes that the last round could not renew, and why; an empty name: all of them."""

    async def run(self) -> None:
        """Repeat rounds. The first one is at once: records may have expired while no daemon ran."""
        pause = min(self._lifetime.total_seconds() / _ROUNDS_PER_LIFETIME, _MAX_PAUSE_SECONDS)
        if pause:
            await every(pause, self._runtime, self._round, jitter=True)

    async def _round(self) -> None:
        failing: dict[str, str] = {}
        try:
            scopes = await self._reader.scopes()
            # Concurrently: a record that waits for a slow scope could expire.
            reasons = await concurrently(self._try_renew, scopes, limit=_CONCURRENT_RENEWALS)
            results = zip(scopes, reasons, strict=True)
            failing = {str(scope): reason for scope, reason in results if reason is not None}
        except Exception as error:  # noqa: BLE001  # the next round tries again
            failing[""] = f"the bucket cannot be listed: {reason_of(error)}"
            log.warning("bucket not listed", error=str(error))
        self.failing = failing

    async def renew(self, scope: Scope) -> bool:
        """Replace freshness.json if it is due; whether it was written.

        Raises:
            PublishingError: the pointer is not one to attest.
        """
        if self._verifier.objection(self._keyids, ("pointer",), scope):
            # Readers would refuse it, and it would replace a record of another daemon.
            return False
        # Read before the pointer: read after it, the record could name a newer one.
        current, version = await self._current(scope)
        newest = (await self._reader.pointer(scope)).pointer
        if newest.sequence == 0:
            return False
        if current is not None and self._verifier.trust is not None:
            current.check_not_older(newest.sequence)
        body = (await self._store.get(layout.pointer(scope), max_bytes=sizes.POINTER)).body
        now = self._runtime.now()
        if await self._reader.work_on(len(body), pointer.decode, body, scope) != newest:
            return False  # it was changed between the two reads
        size = len(body)
        if current is not None and not await self._reader.work_on(
            size, current.is_due, body, now, self._lifetime
        ):
            return False
        expires = now + self._lifetime
        renewed = await self._reader.work_on(
            size, Freshness.of, scope, newest.sequence, body, expires
        )
        part = renewed.signed_part()
        signed = await self._runtime.run_in_thread(
            signatures.signed_by, self._signers, signatures.FRESHNESS, part
        )
        document = {
            "signed": json.loads(part),
            "signatures": [signature.document() for signature in signed],
        }
        content = Content(serialised(document), "application/json")
        try:
            if version is None:
                await self._store.create(layout.freshness(scope), content)
            else:
                await self._store.replace(layout.freshness(scope), content, version)
        except (ConditionFailed, ObjectMissing, OutcomeUnknown):
            return False  # another daemon was faster; if not, the next round tries again
        return True

    async def _try_renew(self, scope: Scope) -> str | None:
        """Renew one scope; why that failed, or None."""
        try:
            await self.renew(scope)
        except Exception as error:  # noqa: BLE001  # one scope must not delay the others
            log.warning(
                "freshness of a pointer not renewed, tried again later",
                scope=str(scope),
                error=str(error),
            )
            return reason_of(error)
        return None

    async def _current(self, scope: Scope) -> tuple[Freshness | None, Version | None]:
        """The stored record and its version. One that readers would refuse counts as absent."""
        try:
            stored = await self._store.get(layout.freshness(scope), max_bytes=sizes.FRESHNESS)
        except ObjectMissing:
            return None, None
        except ObjectTooBig:
            return None, await self._reader.listed_version(layout.freshness(scope))
        try:
            return self._verifier.freshness(stored.body, scope), stored.version
        except VerificationFailed:
            return None, stored.version

"""The daemon's timer of freshness.json: says, signed, again and again, which pointer is the newest (protocol 4).

In every daemon of a bucket that has a key: whoever finds it due writes it, by compare-and-swap, and who is slower has
nothing to do. A daemon that has seen a newer pointer vouches for no older one.
"""

import json
from datetime import timedelta
from typing import Any, Final

import structlog

from daemon.publishing import freshness, layout, pointer, signatures
from daemon.publishing.documents import Malformed, parsed, written
from daemon.publishing.reader import Reader
from daemon.publishing.signatures import Signer
from daemon.runtime import Runtime
from daemon.stores.errors import ConditionFailed, ObjectMissing, OutcomeUnknown
from daemon.stores.port import Content, ObjectStore, Version
from renderers.model import Scope

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_TIMES_A_LIFE: Final = 4


class FreshnessTimer:
    """Renews what readers believe, until it is cancelled."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        reader: Reader,
        runtime: Runtime,
        signers: tuple[Signer, ...],
        minutes: int,
    ) -> None:
        """`minutes`: how long it may be believed; 0: none is written."""
        self._store = store
        self._reader = reader
        self._runtime = runtime
        self._signers = signers
        self._lifetime = timedelta(minutes=minutes)

    async def run(self) -> None:
        """Round after round. The first one waits, too: until then the bucket has been probed."""
        pause = self._lifetime.total_seconds() / _TIMES_A_LIFE
        while pause:
            await self._runtime.sleep(pause * (0.5 + self._runtime.jitter()))
            try:
                for scope in await self._reader.scopes():
                    await self._try_renew(scope)
            except Exception as error:  # noqa: BLE001  # the next round asks again
                log.warning("bucket not listed", error=str(error))

    async def renew(self, scope: Scope) -> bool:
        """Write freshness.json anew if it is due; whether it was written.

        Raises:
            PublishingError: the pointer is not one to vouch for.
        """
        newest = (await self._reader.pointer(scope)).pointer
        if newest.sequence == 0:
            return False
        body = (await self._store.get(layout.pointer(scope))).body
        signed, version = await self._present(scope)
        now = self._runtime.now()
        if pointer.decode(body, scope).sequence != newest.sequence:
            return False  # it has moved on in this moment
        if not freshness.is_due(signed, newest.sequence, now, self._lifetime):
            return False
        part = freshness.signed_part(scope, newest.sequence, body, now + self._lifetime)
        made = await self._runtime.offload(signatures.signed_by, self._signers, signatures.FRESHNESS, part)
        document = {"signed": json.loads(part), "signatures": [each.document() for each in made]}
        content = Content(written(document), "application/json")
        try:
            if version is None:
                await self._store.create(layout.freshness(scope), content)
            else:
                await self._store.replace(layout.freshness(scope), content, version)
        except (ConditionFailed, ObjectMissing, OutcomeUnknown):
            return False  # another daemon was faster, or the next round finds out
        return True

    async def _try_renew(self, scope: Scope) -> None:
        try:
            await self.renew(scope)
        except Exception as error:  # noqa: BLE001  # one scope must not hold up the others; the next round goes on
            log.warning("pointer not vouched for, tried again later", scope=str(scope), error=str(error))

    async def _present(self, scope: Scope) -> tuple[dict[str, Any] | None, Version | None]:
        """The signed part as it is, believed by nobody, and its version."""
        try:
            stored = await self._store.get(layout.freshness(scope))
        except ObjectMissing:
            return None, None
        try:
            signed = parsed(stored.body)["signed"]
        except (Malformed, KeyError, TypeError):
            signed = None
        return (signed if isinstance(signed, dict) else None), stored.version

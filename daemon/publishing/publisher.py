"""Uploads publications, and changes a pointer by compare-and-swap, by the rules of `protocol`.

The order of the writes guarantees safety. Archive and manifest are confirmed before the pointer is
written. If the answer to the pointer's write is not a success, the outcome is found by reading the
pointer back (protocol 4, absolute rules 1 to 3). The caller gets one of three results: won (a
PointerRead), lost (PointerMoved) or unknown (OutcomeUnresolved). The result is never guessed.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from daemon.concurrency import concurrently
from daemon.publishing import archive, documents, layout, manifest, pointer, protocol, sizes
from daemon.publishing import signatures as signatures_of
from daemon.publishing.archive import Archive, Member, Packer
from daemon.publishing.errors import (
    CannotSign,
    NewerSchema,
    OperationRefused,
    OutcomeUnresolved,
    PointerLost,
    PointerMoved,
    VerificationFailed,
)
from daemon.publishing.grammar import MOST_SEQUENCE, timestamp
from daemon.publishing.manifest import RenderedState
from daemon.publishing.pointer import Pointer, PreviousChunk, Publication
from daemon.publishing.protocol import Resolution, Writing
from daemon.publishing.reader import PointerRead, Reader
from daemon.publishing.retry import while_busy
from daemon.publishing.signatures import ROLES, Role, Signature, Signer
from daemon.publishing.trust import attestation
from daemon.retry import Backoff
from daemon.runtime import Runtime
from daemon.stores.errors import (
    ConditionFailed,
    ObjectDamaged,
    ObjectMissing,
    ObjectTooBig,
    OutcomeUnknown,
    StoreRefused,
    StoreUnavailable,
)
from daemon.stores.port import Content, ObjectStore, Version
from renderers.values import Scope

_JSON: Final = "application/json"
_GZIP: Final = "application/gzip"
_RESENDS: Final = 3
_RESEND_BACKOFF: Final = Backoff(first=0.4, longest=1.6)
_WAITS: Final = 20
"""How often one write is repeated after the answer "slow down", before it fails with StoreBusy."""
_SIGN_SECONDS: Final = 30


@dataclass(frozen=True, slots=True)
class _Packed:
    """A state in the form in which it is stored."""

    members: Sequence[Member]
    archive: Archive
    manifest: bytes
    publication: Publication


class Publisher:
    """Writes publications and pointers into one bucket.

    Safe for concurrent tasks of one event loop, and while other daemons write to the bucket.
    """

    def __init__(
        self,
        store: ObjectStore,
        reader: Reader,
        runtime: Runtime,
        *,
        signers: Sequence[Signer] = (),
    ) -> None:
        """All `signers` sign every publication and pointer; there are two during a key exchange."""
        self._store = store
        self._reader = reader
        self._runtime = runtime
        self._signers = tuple(signers)
        self._packer = Packer()

    def writing(self, by: str, reason: str = "") -> Writing:
        """The data of one try to change a pointer, with a random id that identifies its write."""
        return Writing(self._runtime.random_id(), timestamp(self._runtime.now()), by, reason)

    async def store_state(self, scope: Scope, state: RenderedState) -> Publication:
        """Upload archive, manifest and signature under a new attempt. Nothing refers to them yet.

        Raises:
            StoreUnavailable: try again, under a new attempt. Nothing refers to the stored objects.
            CannotSign: this writer's own trust policy does not accept its signatures.
            OperationRefused: the bundle is larger than readers accept.
        """
        self._refuse_useless_keys(scope, ROLES)
        attempt, at = self._runtime.random_id(), timestamp(self._runtime.now())
        # Always in a thread: it takes milliseconds at 500 models, and measuring the size would take
        # one.
        packed = await self._runtime.run_in_thread(self._pack, state, attempt, at)
        objects = [
            (layout.archive(scope, state.state, attempt), Content(packed.archive.body, _GZIP)),
            (layout.manifest(scope, state.state, attempt), Content(packed.manifest, _JSON)),
        ]
        if self._signers:
            envelope = await self._signed_statement(scope, packed)
            objects.append(
                (layout.signature(scope, state.state, attempt), Content(envelope, _JSON))
            )
        await concurrently(
            lambda key_and_content: self._create_own(*key_and_content),
            objects,
            limit=len(objects),
        )
        self._reader.remember(scope, packed.publication, state.files)
        return packed.publication

    def _pack(self, state: RenderedState, attempt: str, at: str) -> "_Packed":
        members = self._packer.members(state.composition.scope, state.files)
        packed = archive.pack(members)
        body = manifest.written(state, attempt, at, members, packed)
        _refuse_too_big(state, members, len(packed.body), len(body))
        return _Packed(members, packed, body, manifest.publication(state, attempt, at, body))

    async def _signed_statement(self, scope: Scope, packed: "_Packed") -> bytes:
        files = ((member.file.path, member.file.sha256) for member in packed.members)
        payload = await self._runtime.run_in_thread(
            attestation.statement, str(scope), packed.publication, packed.archive.sha256, files
        )
        return attestation.enveloped(payload, await self._signed(signatures_of.STATEMENT, payload))

    async def swap(
        self,
        scope: Scope,
        base: PointerRead,
        following: Pointer,
        *,
        before_creating: Callable[[], Awaitable[None]] | None = None,
    ) -> PointerRead:
        """Replace the pointer by `following`, if it is still the one that was read as `base`.

        Args:
            scope: the scope of the pointer.
            base: the pointer that was read.
            following: the pointer to write.
            before_creating: called before every sending of a first pointer. Its condition ("there
                is none") holds in every bucket without the scope, so the caller can check the
                bucket here. Its errors are passed on. They leave the outcome of an earlier sending
                unknown.

        Returns:
            The pointer afterwards: `following`, or one that another writer has based on it.

        Raises:
            PointerMoved: another writer changed the pointer first. Read it, and compute the change
                again.
            OutcomeUnresolved: whether the pointer was changed is unknown.
            StoreRefused: the store denies permission. The pointer was not changed.
            CannotSign: the pointer is signed, and this writer has no key, or none that its own
                policy accepts.
            NewerSchema: a newer release wrote the pointer.
            OperationRefused: no reader would accept the pointer.
        """
        self.refuse_unwritable(scope, base)
        following = await self._with_short_history(scope, following)
        signatures = await self._signed(signatures_of.POINTER, pointer.signed_part(following))
        content = Content(pointer.encode(following, signatures), _JSON)
        _refuse_unreadable(scope, following, len(content.body))
        for resend in range(1 + _RESENDS):
            if resend:
                await _RESEND_BACKOFF.wait(resend, self._runtime)
            if base.version is None and before_creating is not None:
                await before_creating()
            try:
                read = await self._try_swap(scope, base, following, content)
            except StoreRefused as error:
                if resend:  # an earlier sending may still take effect
                    raise _unresolved(scope) from error
                raise
            if read is not None:
                return read
        raise _unresolved(scope)

    async def _try_swap(
        self, scope: Scope, base: PointerRead, following: Pointer, content: Content
    ) -> PointerRead | None:
        """Send the pointer once, and find out the outcome.

        Returns:
            The pointer if the write is known to have won. None if it must be sent again, and that
            is safe.
        """
        try:
            version = await self._send(layout.pointer(scope), content, base.version)
            return PointerRead(following, version, signed=bool(self._signers))
        except (ConditionFailed, ObjectMissing, OutcomeUnknown, StoreUnavailable):
            return await self._resolve(scope, base, following)
        except StoreRefused:
            # An HTTP client that resends automatically may have been refused only the second time.
            read = await self._resolve(scope, base, following)
            if read is None:
                raise
            return read

    async def _send(self, key: str, content: Content, version: Version | None) -> Version:
        """Write an object under the condition that it has `version`, and return its new version."""

        async def write() -> Version:
            if version is None:
                return await self._store.create(key, content)
            return await self._store.replace(key, content, version)

        return await while_busy(self._runtime, write, _WAITS)

    async def _signed(self, kind: str, payload: bytes) -> tuple[Signature, ...]:
        if not self._signers:
            return ()
        try:
            async with asyncio.timeout(_SIGN_SECONDS):
                return await self._runtime.run_in_thread(
                    signatures_of.signed_by, self._signers, kind, payload
                )
        except TimeoutError as error:
            raise StoreUnavailable(
                f"signing took longer than {_SIGN_SECONDS} s: try again"
            ) from error

    def refuse_unwritable(
        self, scope: Scope, base: PointerRead, roles: tuple[Role, ...] = ("pointer",)
    ) -> None:
        """Raise the errors that `swap` raises before it writes; for callers that write nothing.

        Args:
            scope: the scope of the pointer.
            base: the pointer that was read.
            roles: the roles that the keys of this writer must have. Storing a state also needs
                `publish`.

        Raises:
            NewerSchema, CannotSign: as in `swap`.
        """
        if base.pointer.schema_ > documents.SCHEMA:
            raise NewerSchema(
                f"the pointer of {scope} was written by a newer release (schema "
                f"{base.pointer.schema_}): use that release here, too"
            )
        if base.signed and not self._signers:
            raise CannotSign(
                f"the pointer of {scope} is signed, and no signing key is configured: set "
                "signing.key_file to one that readers trust"
            )
        self._refuse_useless_keys(scope, roles)

    def _refuse_useless_keys(self, scope: Scope, roles: tuple[Role, ...]) -> None:
        """Raise CannotSign if readers with this machine's trust policy would refuse the result."""
        keyids = [signer.keyid for signer in self._signers]
        objection = self._reader.verifier.objection(keyids, roles, scope)
        if objection is not None:
            raise CannotSign(
                f"{scope} was not changed: this machine's trust policy would reject the result: "
                f"{objection}. Sign with a key that has the role (signing.key_file, `rebundle keys "
                "trust POLICY PUBLIC`)"
            )

    async def _resolve(
        self, scope: Scope, base: PointerRead, following: Pointer
    ) -> PointerRead | None:
        """Read the pointer back to find the outcome of a write.

        Returns:
            The pointer if the write has won. None if it was not applied, and may be sent again.

        Raises:
            PointerMoved: another writer has won.
            OutcomeUnresolved: the store refuses to read the pointer.
        """
        try:
            current = await self._reader.pointer(scope)
        except StoreUnavailable:
            return None
        except StoreRefused as error:
            raise _unresolved(scope) from error
        except (PointerLost, VerificationFailed, ObjectDamaged):
            if following.kind != "recover":
                raise
            return None  # the unusable pointer, which the recovery replaces, is still there
        known = None if current.version is None else current.pointer
        match protocol.resolve(known, following.write_id, base.pointer.sequence):
            case Resolution.WON:
                return current
            case Resolution.NOT_APPLIED:
                return None
            case Resolution.BEYOND_HISTORY:
                entries = await self._reader.history(current.pointer)
                if any(entry.write_id == following.write_id for entry in entries):
                    return current
        raise _moved(scope, current.pointer.sequence)

    async def _with_short_history(self, scope: Scope, following: Pointer) -> Pointer:
        """The pointer with its oldest history in a stored chunk, where its history is too long."""
        split = protocol.split_history(following)
        if split is None:
            return following
        chunk, oldest = split
        key = layout.history(scope, oldest, chunk.entries[-1].sequence, following.write_id)
        body = pointer.encode_chunk(chunk)
        await self._create_own(key, Content(body, _JSON))
        return protocol.without_chunk(
            following, PreviousChunk(key=key, sha256=hashlib.sha256(body).hexdigest())
        )

    async def _create_own(self, key: str, content: Content) -> None:
        """Create an object under a key that only this try uses.

        An existing object with the same bytes is a success: an earlier sending took effect.

        Raises:
            StoreUnavailable: whether it is stored is unknown.
            VerificationFailed: the object exists with other bytes.
        """
        try:
            await self._store.create(key, content)
        except (ConditionFailed, OutcomeUnknown) as error:
            try:
                stored = await self._store.get(key, max_bytes=len(content.body))
            except ObjectMissing:
                raise StoreUnavailable(
                    f"it is unknown whether {key} was stored: try again"
                ) from error
            except ObjectTooBig:
                stored = None
            if stored is None or stored.body != content.body:
                raise VerificationFailed(
                    f"{key} exists with different content: does another program write to this "
                    "bucket? The next try uses another name"
                ) from error


def _refuse_unreadable(scope: Scope, following: Pointer, size: int) -> None:
    """Refuse a pointer that no reader would accept (`sizes`, `grammar`).

    Raises:
        OperationRefused: it is too large, or a counter of it is too high.
    """
    if size > sizes.POINTER:
        raise OperationRefused(
            f"the pointer of {scope} would have {size:,} bytes, and readers accept "
            f"{sizes.POINTER:,}: lift quarantines that are no longer needed "
            f"(`rebundle quarantine {scope} STATE --lift --reason '…'`)"
        )
    if max(following.sequence, following.gc_epoch) > MOST_SEQUENCE:
        raise OperationRefused(
            f"the pointer of {scope} has reached the largest possible sequence, which no Rebundle "
            f"daemon writes: move {layout.pointer(scope)}, "
            f"{layout.live_tree(scope, layout.MARKER)} and "
            f"{layout.freshness(scope)} away, then `rebundle recover {scope} --reason '…'`"
        )


def _refuse_too_big(
    state: RenderedState, members: Sequence[Member], archive_size: int, manifest_size: int
) -> None:
    """Refuse a publication that no reader would accept (`sizes`).

    Raises:
        OperationRefused: it is too large.
    """
    file_sizes = [len(member.file.body) for member in members]
    for what, size, limit in (
        ("files", len(file_sizes), sizes.FILES),
        ("bytes in its largest file", max(file_sizes, default=0), sizes.FILE),
        ("bytes in all files", archive.size_of_tar(file_sizes), sizes.UNPACKED),
        ("bytes in its archive", archive_size, sizes.ARCHIVE),
        ("bytes in its manifest", manifest_size, sizes.MANIFEST),
    ):
        if size > limit:
            raise OperationRefused(
                f"state {state.state} of {state.composition.scope} has {size:,} {what}, and "
                f"readers accept {limit:,}: make the bundle smaller"
            )


def _moved(scope: Scope, sequence: int) -> PointerMoved:
    return PointerMoved(
        f"another writer changed {scope} first (sequence {sequence}): look at `rebundle status "
        f"{scope}`, then try again"
    )


def _unresolved(scope: Scope) -> OutcomeUnresolved:
    return OutcomeUnresolved(
        f"it is unknown whether the pointer of {scope} was changed: a daemon checks it at its next "
        f"try; before you repeat a command, look at `rebundle status {scope}`"
    )

"""`rebundle keys`: signing keys, and whose signatures count on this machine.

A private key is one file, its public key the file beside it. The trust policy is a file of every machine that reads:
what is done to it here has to be brought to the others by whatever brings them their settings.
"""

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, ParamSpec

from cyclopts import App, Parameter

from daemon import local_files
from daemon.bucket import Bucket, open_bucket
from daemon.cli.failures import UsageError
from daemon.cli.formatting import columns
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.output import Printer
from daemon.cli.session import load_settings, printer_of
from daemon.lifecycle import SystemRuntime
from daemon.publishing import layout
from daemon.publishing.errors import NotFound, PublishingError, VerificationFailed
from daemon.publishing.manifest import Manifest
from daemon.publishing.pointer import Publication
from daemon.settings import SettingsError
from daemon.stores.errors import ObjectDamaged, ObjectMissing, StoreError
from daemon.telemetry import warnings_for_people
from renderers.model import Scope

if TYPE_CHECKING:
    from daemon.publishing.trust.policy import TrustPolicy

P = ParamSpec("P")

_LEAST_KEY_ID: Final = 8

keys: Final = App(name="keys", help="Signing keys, and whose signatures count here.")

_Policy = Annotated[Path, Parameter(help="The trust policy's file.")]
_KeyId = Annotated[str, Parameter(help="The key's id, or its unique beginning, 8 characters or more.")]
_Reason = Annotated[str, Parameter(help="Why; it is shown wherever the key is refused.")]


@keys.command
async def generate(
    file: Annotated[Path, Parameter(help="Where the private key goes; its public key goes to FILE.pub.")],
    /,
    *,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Make a signing key. A file that is there is never overwritten."""
    from daemon.publishing.trust import keys  # noqa: PLC0415  # takes long to import

    private, public = keys.generate()
    _write_new(file, private, 0o600)
    _write_new(_public_file(file), public.pem, 0o644)
    printer = printer_of(printing)
    printer.data({"keyid": public.keyid, "file": str(file), "public": str(_public_file(file))}, [public.keyid])
    printer.say(
        f"sign with it: signing.key_file = {file}\n"
        f"let readers trust it: rebundle keys trust POLICY {_public_file(file)}"
    )


@keys.command
async def trust(
    policy: _Policy,
    public: Annotated[Path, Parameter(help="The public key (PEM).")],
    /,
    *,
    role: Annotated[
        tuple[Literal["publish", "pointer"], ...],
        Parameter(help="What its signatures count for: states, which of them is live. Without it: both.", negative=()),
    ] = (),
    scope: Annotated[
        tuple[str, ...], Parameter(help="For which scopes, as a shell's pattern. Without it: all.", negative=())
    ] = (),
    freshness: Annotated[
        Literal["off", "required"] | None, Parameter(help="Whether readers demand a fresh pointer from now on.")
    ] = None,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Let a key's signatures count; makes the policy where there is none."""
    from daemon.publishing.trust.keys import PublicKey  # noqa: PLC0415  # takes long to import
    from daemon.publishing.trust.policy import ROLES, TrustedKey, TrustPolicy  # noqa: PLC0415

    before = TrustPolicy.parse(policy.read_bytes(), str(policy)) if policy.exists() else TrustPolicy()
    key = PublicKey.parse(_read(public))
    if any(each.keyid == key.keyid for each in before.revoked):
        raise UsageError(f"key {key.keyid} was revoked: make another one")
    added = TrustedKey(keyid=key.keyid, public=key.pem, roles=role or ROLES, scopes=scope or ("*",))
    kept = [each for each in before.keys if each.keyid != key.keyid]
    after = before.model_copy(
        update={"keys": (*kept, added), "freshness": freshness or before.freshness},
    )
    _write(policy, after.written())
    printer_of(printing).data(_document(after), _lines(after))


@keys.command
async def rotate(
    policy: _Policy,
    old: _KeyId,
    file: Annotated[Path, Parameter(help="Where the new private key goes; its public key goes to FILE.pub.")],
    /,
    *,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Make a key that takes another one's place, and trust it for the same beside it."""
    from daemon.publishing.trust import keys  # noqa: PLC0415  # takes long to import
    from daemon.publishing.trust.policy import TrustPolicy  # noqa: PLC0415

    before = TrustPolicy.parse(_read(policy).encode(), str(policy))
    replaced = next(each for each in before.keys if each.keyid == _found(before, old))
    private, public = keys.generate()
    _write_new(file, private, 0o600)
    _write_new(_public_file(file), public.pem, 0o644)
    added = replaced.model_copy(update={"keyid": public.keyid, "public": public.pem})
    after = before.model_copy(update={"keys": (*before.keys, added)})
    _write(policy, after.written())
    printer = printer_of(printing)
    printer.data(_document(after), _lines(after))
    printer.say(
        "what is next:\n"
        f"1. bring {policy} to every reader\n"
        f"2. let daemons sign with both: signing.second_key_file = {file}\n"
        "3. once all that is to stay is published again (rebundle republish), let them sign with the new one alone\n"
        f"4. rebundle keys revoke {policy} {replaced.keyid[:12]} --reason ... --dry-run tells what that would block"
    )


@keys.command
async def revoke(
    policy: _Policy,
    key: _KeyId,
    /,
    *,
    reason: _Reason,
    dry_run: Annotated[bool, Parameter(negative=(), help="Only list what it would block.")] = False,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Let a key's signatures count for nothing, and list what of the bucket no reader accepts any more."""
    from daemon.publishing.trust.policy import Revocation, TrustPolicy  # noqa: PLC0415  # takes long to import

    before = TrustPolicy.parse(_read(policy).encode(), str(policy))
    keyid = _found(before, key)
    runtime = SystemRuntime()
    printer = printer_of(printing)
    at = runtime.now().astimezone(UTC).isoformat(timespec="seconds")
    others = tuple(each for each in before.revoked if each.keyid != keyid)
    already = len(others) < len(before.revoked)
    revocation = Revocation(keyid=keyid, reason=reason, at=at)
    after = before if already else before.model_copy(update={"revoked": (*others, revocation)})
    before = before.model_copy(update={"revoked": others})
    if not dry_run and not already:
        # First: who stole the key may well be able to keep the bucket from being read.
        _write(policy, after.written())
    seen = _Blocked()
    try:
        with warnings_for_people():
            await seen.look(open_bucket(load_settings(place).bucket, runtime), before, after)
    except (StoreError, SettingsError) as error:
        if dry_run:
            raise
        seen.unread.append(("", "the bucket", str(error)))
    finally:
        runtime.close()
    printer.data(
        {
            "keyid": keyid,
            "blocked": [{"scope": scope, "what": what} for scope, what in seen.blocked],
            "unread": [{"scope": scope or None, "what": what, "problem": why} for scope, what, why in seen.unread],
            "dry_run": dry_run,
        },
        columns(("SCOPE", "BLOCKED"), seen.blocked) if seen.blocked else ["nothing that can be read is blocked"],
    )
    for scope, what, why in seen.unread:
        printer.warn(f"whether {f'{what} of {scope}' if scope else what} is blocked cannot be told: {why}")
    if already:
        printer.say(f"key {keyid[:12]} was revoked already: nothing was changed")
    else:
        _tell_revoked(printer, policy, keyid, dry_run=dry_run)


def _tell_revoked(printer: Printer, policy: Path, keyid: str, *, dry_run: bool) -> None:
    if dry_run:
        printer.say("nothing was changed")
    else:
        printer.say(
            f"key {keyid[:12]} counts for nothing here any more: bring {policy} to every reader, and start the daemons "
            "that have it again"
        )


@dataclass(frozen=True, slots=True)
class _Blocked:
    """What a policy accepted before, and does not any more."""

    blocked: list[tuple[str, str]] = field(default_factory=list)
    """Scope, and what of it."""
    unread: list[tuple[str, str, str]] = field(default_factory=list)
    """Scope, what of it, and why it cannot be told."""

    async def look(self, bucket: Bucket, before: "TrustPolicy", after: "TrustPolicy") -> None:
        """At everything in a bucket. Raises StoreError: that ended early."""
        for scope in await bucket.reader.scopes():
            try:
                pointer = (await bucket.reader.existing(scope)).pointer
                body = (await bucket.store.get(layout.pointer(scope))).body
            except NotFound:
                continue
            except (PublishingError, ObjectDamaged) as error:
                self.unread.append((str(scope), "pointer", str(error)))
                continue
            if _accepts(before.check_pointer, body, scope) and not _accepts(after.check_pointer, body, scope):
                self.blocked.append((str(scope), "pointer"))
            for publication in reversed(pointer.retained):
                try:
                    given = await _signed(bucket, scope, publication)
                except (PublishingError, ObjectMissing, ObjectDamaged) as error:
                    self.unread.append((str(scope), str(publication.id), str(error)))
                    continue
                if _accepts(before.check_publication, *given) and not _accepts(after.check_publication, *given):
                    self.blocked.append((str(scope), str(publication.id)))


async def _signed(
    bucket: Bucket, scope: Scope, publication: Publication
) -> tuple[bytes | None, Manifest, bytes, Scope]:
    """A publication's envelope and manifest, as `Trust.check_publication` takes them."""
    place = (publication.state, publication.attempt)
    manifest = await bucket.reader.manifest(scope, publication)
    body = (await bucket.store.get(layout.manifest(scope, *place))).body
    return await _envelope(bucket, layout.signature(scope, *place)), manifest, body, scope


async def _envelope(bucket: Bucket, key: str) -> bytes | None:
    try:
        return (await bucket.store.get(key)).body
    except ObjectMissing:
        return None


def _accepts(check: Callable[P, object], *given: P.args, **named: P.kwargs) -> bool:
    try:
        check(*given, **named)
    except VerificationFailed:
        return False
    return True


def _found(policy: "TrustPolicy", start: str) -> str:
    """The id of the trusted key that begins so."""
    if len(start) < _LEAST_KEY_ID:
        raise UsageError(f"{start!r} is too short for a key's id: give its first {_LEAST_KEY_ID} characters or more")
    fitting = [each.keyid for each in policy.keys if each.keyid.startswith(start)]
    if len(fitting) != 1:
        raise NotFound(f"{start} fits {len(fitting)} keys of the trust policy: {', '.join(fitting) or 'none'}")
    return fitting[0]


def _document(policy: "TrustPolicy") -> dict[str, Any]:
    described: dict[str, Any] = policy.model_dump(mode="json", by_alias=True)
    return {"freshness": described["freshness"], "keys": described["keys"], "revoked": described["revoked"]}


def _lines(policy: "TrustPolicy") -> Sequence[str]:
    revoked = {each.keyid for each in policy.revoked}
    rows = [
        (each.keyid, ", ".join(each.roles), ", ".join(each.scopes), "revoked" if each.keyid in revoked else "-")
        for each in policy.keys
    ]
    return list(columns(("KEY", "COUNTS FOR", "SCOPES", "NOTE"), rows))


def _public_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.pub")


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from error


def _write_new(file: Path, text: str, mode: int) -> None:
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as opened:
            opened.write(text)
    except FileExistsError:
        raise UsageError(f"{file} is there already, and a key is never overwritten") from None
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error


def _write(file: Path, body: bytes) -> None:
    """At once and whole: a policy cut short would be none."""
    try:
        # What a link means is what others read, too: another user must be able to change neither.
        kept = file.resolve()
        present = kept.exists()
        local_files.check_writers(file if present else kept.parent)
        # Whatever the umask: a policy that a group may write is refused by who reads it.
        local_files.replace(kept, body, mode=stat.S_IMODE(kept.stat().st_mode) if present else 0o644)
    except local_files.Unsafe as error:
        raise UsageError(f"another user may change the trust policy, so no reader would accept it: {error}") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error

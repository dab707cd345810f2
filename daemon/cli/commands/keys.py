"""`rebundle keys`: generates, trusts, rotates and revokes signing keys.

A private key is one file; its public key is the file beside it. The trust policy is a local file of
every machine that reads the bucket. These commands change it on this machine only: distribute it
with the tool that distributes the settings.
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
from daemon.bucket import Bucket, bucket_on, open_store
from daemon.cli.failures import UsageError
from daemon.cli.formatting import columns
from daemon.cli.options import DEFAULT_PLACE, DEFAULT_PRINTING, Place, Printing
from daemon.cli.output import Printer
from daemon.cli.session import load_settings, printer_of
from daemon.lifecycle import SystemRuntime
from daemon.publishing import layout
from daemon.publishing.errors import (
    KeyUnusable,
    NotFound,
    PublishingError,
    VerificationFailed,
)
from daemon.publishing.manifest import Manifest
from daemon.publishing.pointer import Publication
from daemon.publishing.signatures import ROLES
from daemon.publishing.wording import some
from daemon.settings import SettingsError
from daemon.stores.errors import ObjectDamaged, ObjectMissing, StoreError
from renderers.values import Scope

if TYPE_CHECKING:
    from daemon.publishing.trust.keys import PublicKey
    from daemon.publishing.trust.policy import TrustPolicy

P = ParamSpec("P")

_LEAST_KEY_ID: Final = 8

keys: Final = App(name="keys", help="Manage signing keys and the trust policy.")

_Policy = Annotated[Path, Parameter(help="File of the trust policy.")]
_KeyId = Annotated[
    str, Parameter(help="Id of the key, or a unique prefix of at least 8 characters.")
]
_Reason = Annotated[str, Parameter(help="Reason, shown wherever the key is rejected.")]


@keys.command
async def generate(
    file: Annotated[
        Path, Parameter(help="File for the private key; the public key is written to FILE.pub.")
    ],
    /,
    *,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Generate a signing key. Existing files are never overwritten."""
    from daemon.publishing.trust import keys  # noqa: PLC0415  # slow to import

    private, public = keys.generate()
    _write_new(file, private, 0o600)
    _write_new(_public_file(file), public.pem, 0o644)
    printer = printer_of(printing)
    printer.data(
        {"keyid": public.keyid, "file": str(file), "public": str(_public_file(file))},
        [public.keyid],
    )
    printer.say(
        f"to sign with it, set signing.key_file = {file}\n"
        f"to make readers trust it, run: rebundle keys trust POLICY {_public_file(file)}"
    )


@keys.command
async def trust(
    policy: _Policy,
    public: Annotated[Path, Parameter(help="Public key (PEM).")],
    /,
    *,
    role: Annotated[
        tuple[Literal["publish", "pointer"], ...],
        Parameter(
            help="What the key may sign. publish: states; pointer: which state is live. "
            "Default: both.",
            negative=(),
        ),
    ] = (),
    scope: Annotated[
        tuple[str, ...],
        Parameter(help="Scopes the key may sign, as a shell pattern. Default: all.", negative=()),
    ] = (),
    freshness: Annotated[
        Literal["off", "required"] | None,
        Parameter(help="Whether readers require a fresh pointer. Default: as before."),
    ] = None,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Add a key to the trust policy; creates the policy if it does not exist."""
    from daemon.publishing.trust.policy import TrustedKey, TrustPolicy  # noqa: PLC0415  # slow

    before = (
        TrustPolicy.parse(policy.read_bytes(), str(policy)) if policy.exists() else TrustPolicy()
    )
    key = _public_key(public)
    if any(revocation.keyid == key.keyid for revocation in before.revoked):
        raise UsageError(f"key {key.keyid} is revoked: generate another one")
    added = TrustedKey(keyid=key.keyid, public=key.pem, roles=role or ROLES, scopes=scope or ("*",))
    others = [trusted for trusted in before.keys if trusted.keyid != key.keyid]
    after = before.model_copy(
        update={"keys": (*others, added), "freshness": freshness or before.freshness},
    )
    _write(policy, after.written())
    printer_of(printing).data(_document(after), _lines(after))


@keys.command
async def rotate(
    policy: _Policy,
    old: _KeyId,
    file: Annotated[
        Path, Parameter(help="File for the new private key; the public key is written to FILE.pub.")
    ],
    /,
    *,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Generate a successor of a key, and trust it for the same roles and scopes."""
    from daemon.publishing.trust import keys  # noqa: PLC0415  # slow to import
    from daemon.publishing.trust.policy import TrustPolicy  # noqa: PLC0415

    before = TrustPolicy.parse(_read(policy).encode(), str(policy))
    keyid = _resolve_key_id(before, old)
    replaced = next(trusted for trusted in before.keys if trusted.keyid == keyid)
    private, public = keys.generate()
    _write_new(file, private, 0o600)
    _write_new(_public_file(file), public.pem, 0o644)
    added = replaced.model_copy(update={"keyid": public.keyid, "public": public.pem})
    after = before.model_copy(update={"keys": (*before.keys, added)})
    _write(policy, after.written())
    printer = printer_of(printing)
    printer.data(_document(after), _lines(after))
    printer.say(
        "next steps:\n"
        f"1. distribute {policy} to every reader\n"
        f"2. make the daemons sign with both keys: signing.second_key_file = {file}\n"
        "3. republish every state that you keep (rebundle republish), then sign with the new "
        "key only\n"
        f"4. rebundle keys revoke {policy} {replaced.keyid[:12]} --reason ... --dry-run "
        "lists what the revocation would block"
    )


@keys.command
async def revoke(
    policy: _Policy,
    key: _KeyId,
    /,
    *,
    reason: _Reason,
    dry_run: Annotated[
        bool, Parameter(negative=(), help="List what it would block; change nothing.")
    ] = False,
    place: Place = DEFAULT_PLACE,
    printing: Printing = DEFAULT_PRINTING,
) -> None:
    """Revoke a key, and list the objects in the bucket that readers no longer accept."""
    from daemon.publishing.trust.policy import Revocation, TrustPolicy  # noqa: PLC0415  # slow to import

    before = TrustPolicy.parse(_read(policy).encode(), str(policy))
    keyid = _resolve_key_id(before, key)
    runtime = SystemRuntime()
    printer = printer_of(printing)
    at = runtime.now().astimezone(UTC).isoformat(timespec="seconds")
    others = tuple(revocation for revocation in before.revoked if revocation.keyid != keyid)
    already = len(others) < len(before.revoked)
    revocation = Revocation(keyid=keyid, reason=reason, at=at)
    after = before if already else before.model_copy(update={"revoked": (*others, revocation)})
    before = before.model_copy(update={"revoked": others})
    if not dry_run and not already:
        # Before the bucket is read: the thief of the key may be able to prevent that.
        _write(policy, after.written())
    effect = _RevocationEffect()
    try:
        bucket = bucket_on(open_store(load_settings(place).bucket, runtime), runtime)
        await effect.survey(bucket, before, after)
    except (StoreError, SettingsError) as error:
        if dry_run:
            raise
        effect.unread.append(("", "the bucket", str(error)))
    finally:
        runtime.close()
    printer.data(
        {
            "keyid": keyid,
            "blocked": [{"scope": scope, "what": what} for scope, what in effect.blocked],
            "unread": [
                {"scope": scope or None, "what": what, "problem": why}
                for scope, what, why in effect.unread
            ],
            "dry_run": dry_run,
        },
        columns(("SCOPE", "BLOCKED"), effect.blocked)
        if effect.blocked
        else ["no readable object is blocked"],
    )
    for scope, what, why in effect.unread:
        printer.warn(f"unknown whether {f'{what} of {scope}' if scope else what} is blocked: {why}")
    if already:
        printer.say(f"key {keyid[:12]} is already revoked: nothing was changed")
    else:
        _print_next_steps(printer, policy, keyid, dry_run=dry_run)


def _print_next_steps(printer: Printer, policy: Path, keyid: str, *, dry_run: bool) -> None:
    if dry_run:
        printer.say("nothing was changed")
    else:
        printer.say(
            f"key {keyid[:12]} is no longer trusted on this machine: distribute {policy} to "
            "every reader, "
            "and restart the daemons that use it"
        )


@dataclass(frozen=True, slots=True)
class _RevocationEffect:
    """The objects that a policy accepted before a revocation and rejects after it."""

    blocked: list[tuple[str, str]] = field(default_factory=list)
    """Scope and object."""
    unread: list[tuple[str, str, str]] = field(default_factory=list)
    """Scope, object, and why it could not be checked."""

    async def survey(self, bucket: Bucket, before: "TrustPolicy", after: "TrustPolicy") -> None:
        """Check every pointer and publication of a bucket. Raises StoreError: it is incomplete."""
        for scope in await bucket.reader.scopes():
            try:
                pointer = (await bucket.reader.existing(scope)).pointer
                body = (await bucket.store.get(layout.pointer(scope))).body
            except NotFound:
                continue
            except (PublishingError, ObjectDamaged) as error:
                self.unread.append((str(scope), "pointer", str(error)))
                continue
            if _accepts(before.check_pointer, body, scope) and not _accepts(
                after.check_pointer, body, scope
            ):
                self.blocked.append((str(scope), "pointer"))
            for publication in reversed(pointer.retained):
                try:
                    signed = await _signed(bucket, scope, publication)
                except (PublishingError, ObjectMissing, ObjectDamaged) as error:
                    self.unread.append((str(scope), str(publication.id), str(error)))
                    continue
                if _accepts(before.check_publication, *signed) and not _accepts(
                    after.check_publication, *signed
                ):
                    self.blocked.append((str(scope), str(publication.id)))


async def _signed(
    bucket: Bucket, scope: Scope, publication: Publication
) -> tuple[bytes | None, Manifest, bytes, Scope]:
    """A publication's envelope and manifest: the arguments of `TrustPolicy.check_publication`."""
    place = (publication.state, publication.attempt)
    manifest = await bucket.reader.manifest(scope, publication)
    body = (await bucket.store.get(layout.manifest(scope, *place))).body
    return await _envelope(bucket, layout.signature(scope, *place)), manifest, body, scope


async def _envelope(bucket: Bucket, key: str) -> bytes | None:
    try:
        return (await bucket.store.get(key)).body
    except ObjectMissing:
        return None


def _accepts(check: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
    try:
        check(*args, **kwargs)
    except VerificationFailed:
        return False
    return True


def _resolve_key_id(policy: "TrustPolicy", prefix: str) -> str:
    """The id of the trusted key with this prefix."""
    if len(prefix) < _LEAST_KEY_ID:
        raise UsageError(
            f"{prefix!r} is too short for a key id: give at least its first "
            f"{_LEAST_KEY_ID} characters"
        )
    matching = [trusted.keyid for trusted in policy.keys if trusted.keyid.startswith(prefix)]
    if len(matching) != 1:
        found = f"{len(matching)} keys" if matching else "no key"
        listed = matching or [trusted.keyid for trusted in policy.keys]
        raise NotFound(
            f"{prefix} is the beginning of {found} of the trust policy; "
            f"{'these are' if matching else 'it has'} {some(listed) or 'no keys'}"
        )
    return matching[0]


def _document(policy: "TrustPolicy") -> dict[str, Any]:
    described: dict[str, Any] = policy.model_dump(mode="json", by_alias=True)
    return {
        "freshness": described["freshness"],
        "keys": described["keys"],
        "revoked": described["revoked"],
    }


def _lines(policy: "TrustPolicy") -> Sequence[str]:
    revoked = {revocation.keyid for revocation in policy.revoked}
    rows = [
        (
            key.keyid,
            ", ".join(key.roles),
            ", ".join(key.scopes),
            "revoked" if key.keyid in revoked else "-",
        )
        for key in policy.keys
    ]
    return list(columns(("KEY", "ROLES", "SCOPES", "NOTE"), rows))


def _public_key(file: Path) -> "PublicKey":
    """The key of a file. Raises KeyUnusable, UsageError: each names the file."""
    from daemon.publishing.trust.keys import PublicKey  # noqa: PLC0415  # slow to import

    text = _read(file)
    if "PRIVATE KEY-----" in text:
        raise UsageError(f"{file} is a private key: give its public key, {_public_file(file)}")
    try:
        return PublicKey.parse(text)
    except KeyUnusable as error:
        raise KeyUnusable(f"{file}: {error}") from error


def _public_file(file: Path) -> Path:
    return file.with_name(f"{file.name}.pub")


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {file}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}"
        ) from error


def _write_new(file: Path, text: str, mode: int) -> None:
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as opened:
            opened.write(text)
    except FileExistsError:
        raise UsageError(
            f"{file} exists already, and keys are never overwritten: choose another name"
        ) from None
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error


def _write(file: Path, body: bytes) -> None:
    """Replace the policy atomically: a truncated policy would be unusable."""
    try:
        # Readers follow a symlink. Neither the link nor its target may be writable by other users.
        target = file.resolve()
        exists = target.exists()
        local_files.check_writers(file if exists else target.parent)
        # Independent of the umask: readers reject a policy that a group can write.
        local_files.replace(
            target, body, mode=stat.S_IMODE(target.stat().st_mode) if exists else 0o644
        )
    except local_files.Unsafe as error:
        raise UsageError(
            f"another user can change the trust policy, so readers would reject it: {error}"
        ) from error
    except OSError as error:
        raise UsageError(f"{file} cannot be written: {error.strerror}") from error

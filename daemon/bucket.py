"""What acts on one bucket, and the keys of this process, made from settings: what the command line needs.

It imports no service, pipeline, renderer or web framework, so that a command that only reads starts fast. SDKs and
securesystemslib are imported where they are needed.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

from daemon import local_files
from daemon import settings as settings_of
from daemon.publishing.errors import PolicyUnusable
from daemon.publishing.live_tree import ownership
from daemon.publishing.live_tree.sync import LiveTree
from daemon.publishing.maintenance.garbage_collector import GarbageCollector
from daemon.publishing.maintenance.retention_rules import Policy
from daemon.publishing.operator_commands import Operations
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import Reader
from daemon.publishing.signatures import Signer
from daemon.publishing.trust.sequence_memory import FileSequences
from daemon.runtime import Runtime
from daemon.settings import RetentionSettings, Settings
from daemon.stores import locations
from daemon.stores.directory.filesystem import FileSystem, RealFileSystem
from daemon.stores.errors import StoreRefused
from daemon.stores.locations import Location
from daemon.stores.port import ObjectStore
from daemon.stores.remedies import move_object
from daemon.stores.wrappers.etag_form import QuotingStore
from daemon.stores.wrappers.rate_limit import PacedStore
from daemon.stores.wrappers.timeout import LimitedStore
from daemon.stores.wrappers.write_guard import GuardedStore

if TYPE_CHECKING:  # see `keys_of`
    from daemon.publishing.trust.policy import TrustPolicy

_GCS_WRITE_SECONDS: Final = 1.1


@dataclass(frozen=True, slots=True)
class Bucket:
    """Everything that acts on one bucket."""

    store: ObjectStore
    reader: Reader
    publisher: Publisher
    live_tree: LiveTree
    operations: Operations
    runtime: Runtime
    location: Location
    quoting: QuotingStore | None
    """Where the server's form of ETags has to be found out."""


@dataclass(frozen=True, slots=True)
class Keys:
    """What a process signs with, and whose signatures count for it."""

    signers: tuple[Signer, ...] = ()
    trust: "TrustPolicy | None" = None
    state_file: Path | None = None
    """Where the highest sequence of each scope is kept, for a reader with a policy."""


NO_KEYS: Final = Keys()


def keys_of(settings: Settings) -> Keys:
    """The keys that the settings name.

    Raises:
        KeyUnusable: a signing key cannot be used. PolicyUnusable: the trust policy cannot.
    """
    files = [each for each in (settings.signing.key_file, settings.signing.second_key_file) if each is not None]
    if not files and settings.trust.policy is None:
        return NO_KEYS
    from daemon.publishing.trust import keys  # noqa: PLC0415  # securesystemslib imports every cloud's SDK it finds

    signers = tuple(map(keys.load, files))
    return Keys(signers, _trust(settings.trust, is_writer=bool(signers)), _state_file(settings.trust))


def _state_file(trusting: settings_of.TrustSettings) -> Path | None:
    """Where accepted sequences are kept. Who can make a reader forget can show it an older pointer.

    Raises:
        PolicyUnusable: there is no such place, or another user may write it.
    """
    if trusting.policy is None:
        return None
    kept = trusting.state_file
    if kept is None:
        raise PolicyUnusable(
            f"trust policy {trusting.policy} is of no use without a place to remember what was accepted: "
            "set trust.state_file"
        )
    try:
        # Root may work with the memory of a daemon's user (docs/operations.md).
        owner = kept.parent.stat().st_uid if os.geteuid() == 0 else 0
        local_files.check_writers(kept if kept.exists() else kept.parent, also=frozenset({owner}))
    except FileNotFoundError:
        pass  # made with the first pointer that is accepted, for this user alone
    except local_files.Unsafe as error:
        raise PolicyUnusable(f"what was accepted must not be forgotten (trust.state_file): {error}") from error
    except OSError as error:
        raise PolicyUnusable(f"{kept} cannot be looked at: {error.strerror} (trust.state_file)") from error
    return kept


def _trust(trusting: settings_of.TrustSettings, *, is_writer: bool) -> "TrustPolicy | None":
    if trusting.policy is None:
        return None
    from daemon.publishing.trust.policy import TrustPolicy  # noqa: PLC0415  # as above

    try:
        local_files.check_writers(trusting.policy)
        policy = TrustPolicy.parse(trusting.policy.read_bytes(), str(trusting.policy))
    except local_files.Unsafe as error:
        raise PolicyUnusable(f"another user who may change the trust policy decides whom to trust: {error}") from error
    except OSError as error:
        raise PolicyUnusable(f"trust policy {trusting.policy} cannot be read: {error.strerror}") from error
    # Who signs makes pointers fresh: asked to believe only fresh ones, a daemon could not go on after a long stop.
    return policy.model_copy(update={"freshness": "off"}) if is_writer else policy


def open_bucket(
    url: str,
    runtime: Runtime,
    filesystem: FileSystem | None = None,
    *,
    call_seconds: float = 120,
    gcs_write_seconds: float = _GCS_WRITE_SECONDS,
    around: Callable[[ObjectStore], ObjectStore] = lambda store: store,
    keys: Keys = NO_KEYS,
    guarded: bool = False,
) -> Bucket:
    """The bucket that `url` names (`stores.locations`); `call_seconds` is the limit of one call to it.

    `gcs_write_seconds`: how far apart GCS wants two writes of a key. `around` puts something between the store and
    everyone who uses it. `keys`: what is signed and whose signatures count. `guarded`: before the
    first write the store has to show that it honours conditions (`stores.wrappers.write_guard`); those of a folder are
    our own code.

    Raises:
        StoreRefused: no bucket has such a name.
    """
    try:
        location = locations.parse(url)
    except ValueError as error:
        raise StoreRefused(f"bucket {url} {error}") from error
    opened = _store(location, runtime, filesystem or RealFileSystem())
    store: ObjectStore = LimitedStore(around(opened), call_seconds)
    if isinstance(location, locations.Gcs):
        # Outside of the limit: waiting for one's turn is no call that hangs.
        store = PacedStore(store, runtime, gcs_write_seconds)
    if guarded and not isinstance(location, locations.Directory):
        store = GuardedStore(store, runtime)
    accepted = FileSequences(keys.state_file, _identity(location, os.environ), runtime) if keys.state_file else None
    reader = Reader(store, runtime, trust=keys.trust, accepted=accepted)
    publisher = Publisher(store, reader, runtime, signers=keys.signers)
    live_tree = LiveTree(
        store,
        reader,
        runtime,
        believes_markers=keys.trust is None,
        move_command=partial(move_object, location),
    )
    operations = Operations(reader, publisher, live_tree)
    quoting = opened if isinstance(opened, QuotingStore) else None
    return Bucket(store, reader, publisher, live_tree, operations, runtime, location, quoting)


def _identity(location: Location, environment: Mapping[str, str]) -> str:
    """One name for one bucket, from wherever and however it is named: what was seen in another says nothing of it.

    A URL without an endpoint leaves it to the SDKs, which look into the environment.
    """
    match location:
        case locations.Directory(path=path):
            return path.resolve().as_uri()
        case locations.S3(bucket=bucket, prefix=prefix, endpoint=endpoint):
            found = endpoint or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
            return f"s3 {locations.spelled(found or '')} {bucket} {prefix}"
        case locations.Gcs(bucket=bucket, prefix=prefix, endpoint=endpoint):
            found = endpoint or environment.get("STORAGE_EMULATOR_HOST")
            return f"gs {locations.spelled(found or '')} {bucket} {prefix}"
        case _:
            assert_never(location)


def collector(bucket: Bucket, kept: RetentionSettings) -> GarbageCollector:
    """What collects in a bucket, by these settings."""
    policy = Policy(newest=kept.newest, days=kept.days, dropped_days=kept.dropped_days, grace_hours=kept.grace_hours)
    return GarbageCollector(bucket.store, bucket.reader, bucket.publisher, bucket.runtime, policy)


def _store(location: Location, runtime: Runtime, filesystem: FileSystem) -> ObjectStore:
    # Lazily: each SDK takes a quarter of a second to import.
    match location:
        case locations.Directory(path=path):
            from daemon.stores.directory.store import DirectoryStore  # noqa: PLC0415

            return DirectoryStore(
                path.absolute(),
                runtime,
                filesystem,
                unread=ownership.is_credential,
                private=ownership.is_credential,
            )
        case locations.S3(bucket=bucket, prefix=prefix, endpoint=endpoint, region=region):
            from daemon.stores.s3 import S3Store  # noqa: PLC0415

            quoted = S3Store(bucket, prefix, runtime, endpoint=endpoint, region=region)
            return QuotingStore(quoted, quoted.unquoted(), runtime)
        case locations.Gcs(bucket=bucket, prefix=prefix, endpoint=endpoint):
            from daemon.stores.gcs import GcsStore  # noqa: PLC0415

            return GcsStore(bucket, prefix, runtime, endpoint=endpoint)

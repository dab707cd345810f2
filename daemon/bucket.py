"""Opens a bucket and loads the keys of this process, by the settings.

The command line uses it, so it imports no service, pipeline, renderer or web framework: a command
that only reads starts fast. SDKs and cryptography are imported where they are needed.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, assert_never

from daemon import local_files
from daemon.publishing import layout
from daemon.publishing.bucket_identity import ANY_BUCKET, BucketCheck
from daemon.publishing.errors import PolicyUnusable
from daemon.publishing.reader import Reader
from daemon.publishing.signatures import Signer
from daemon.publishing.trust.sequence_memory import FileSequences
from daemon.runtime import Runtime
from daemon.settings import (
    RetentionSettings,
    SettingProblem,
    Settings,
    SettingsError,
    TrustSettings,
)
from daemon.stores import locations
from daemon.stores.directory.filesystem import FileSystem, RealFileSystem
from daemon.stores.errors import StoreRefused
from daemon.stores.locations import Location
from daemon.stores.port import ObjectStore
from daemon.stores.remedies import move_object
from daemon.stores.wrappers.rate_limit import RateLimitedStore
from daemon.stores.wrappers.timeout import TimeLimitedStore

if TYPE_CHECKING:  # see `keys_of` and `Bucket`
    from daemon.publishing.live_tree.sync import LiveTree
    from daemon.publishing.maintenance.garbage_collector import GarbageCollector
    from daemon.publishing.operator_commands import Operations
    from daemon.publishing.publisher import Publisher
    from daemon.publishing.trust.policy import TrustPolicy
    from daemon.stores.wrappers.etag_form import EtagFormStore

_GCS_WRITE_SECONDS: Final = 1.1


@dataclass(frozen=True)
class Bucket:
    """An open bucket: its store, and the objects that read and change it.

    What a command that only reads a pointer does not need is imported when it is used.
    """

    store: ObjectStore
    reader: Reader
    runtime: Runtime
    location: Location
    keys: "Keys"
    quoting: "EtagFormStore | None"
    """Set if the server's form of ETags has to be detected."""

    @cached_property
    def publisher(self) -> "Publisher":
        """Stores states and swaps the pointer."""
        from daemon.publishing.publisher import Publisher  # noqa: PLC0415

        return Publisher(self.store, self.reader, self.runtime, signers=self.keys.signers)

    @cached_property
    def live_tree(self) -> "LiveTree":
        """Makes live trees follow their pointers."""
        from daemon.publishing.live_tree.sync import LiveTree  # noqa: PLC0415

        return LiveTree(
            self.store,
            self.reader,
            self.runtime,
            trusts_markers=self.keys.trust is None,
            move_command=partial(move_object, self.location),
        )

    @cached_property
    def operations(self) -> "Operations":
        """Carries out operators' commands."""
        from daemon.publishing.operator_commands import Operations  # noqa: PLC0415

        return Operations(self.reader, self.publisher, self.live_tree)


@dataclass(frozen=True, slots=True)
class Keys:
    """The signing keys of a process, and its trust policy."""

    signers: tuple[Signer, ...] = ()
    trust: "TrustPolicy | None" = None
    state_file: Path | None = None
    """File with the highest sequence seen of each scope; set if there is a trust policy."""


NO_KEYS: Final = Keys()


def keys_of(settings: Settings) -> Keys:
    """Load the signing keys and the trust policy that the settings name.

    Raises:
        KeyUnusable: a signing key cannot be used.
        SettingsError: there is no file of the trust policy.
        PolicyUnusable: the trust policy or its state file cannot be used.
    """
    named = (settings.signing.key_file, settings.signing.second_key_file)
    files = [file for file in named if file is not None]
    if not files and settings.trust.policy is None:
        return NO_KEYS
    from daemon.publishing.trust import keys  # noqa: PLC0415  # cryptography takes long to import

    signers = tuple(map(keys.load, files))
    return Keys(
        signers, _trust(settings.trust, is_writer=bool(signers)), _state_file(settings.trust)
    )


def _state_file(settings: TrustSettings) -> Path | None:
    """The file with the accepted sequences. A user who can reset it can replay an older pointer.

    Raises:
        PolicyUnusable: no file is set, or another user may write it.
    """
    if settings.policy is None:
        return None
    state_file = settings.state_file
    if state_file is None:
        raise PolicyUnusable(
            f"trust policy {settings.policy} needs a file for the accepted sequences: set "
            "trust.state_file"
        )
    try:
        # Root may use the file of the daemon's user (docs/operations.md).
        owner = state_file.parent.stat().st_uid if os.geteuid() == 0 else 0
        checked = state_file if state_file.exists() else state_file.parent
        local_files.check_writers(checked, also=frozenset({owner}))
    except FileNotFoundError:
        pass  # created for this user alone when the first pointer is accepted
    except local_files.Unsafe as error:
        raise PolicyUnusable(f"another user could reset trust.state_file: {error}") from error
    except OSError as error:
        raise PolicyUnusable(
            f"{state_file} cannot be checked: {error.strerror} (trust.state_file)"
        ) from error
    return state_file


def _trust(settings: TrustSettings, *, is_writer: bool) -> "TrustPolicy | None":
    if settings.policy is None:
        return None
    from daemon.publishing.trust.policy import TrustPolicy  # noqa: PLC0415  # takes long to import

    try:
        local_files.check_writers(settings.policy)
        policy = TrustPolicy.parse(settings.policy.read_bytes(), str(settings.policy))
    except local_files.Unsafe as error:
        raise PolicyUnusable(f"another user could change the trust policy: {error}") from error
    except FileNotFoundError as error:
        place = settings.policy.absolute()
        advice = f"there is no file {place}; `rebundle keys trust {place} PUBLIC` creates it"
        raise SettingsError(SettingProblem("trust.policy", "settings", advice)) from error
    except OSError as error:
        raise PolicyUnusable(
            f"trust policy {settings.policy} cannot be read: {error.strerror} (trust.policy)"
        ) from error
    # A signing daemon refreshes freshness.json itself. If it required a fresh one, it could not
    # continue after a long stop.
    return policy.model_copy(update={"freshness": "off"}) if is_writer else policy


@dataclass(frozen=True, slots=True)
class OpenStore:
    """The store of a bucket, without the objects that read and change it."""

    store: ObjectStore
    location: Location
    quoting: "EtagFormStore | None"
    """Set if the server's form of ETags has to be detected."""


def open_store(
    url: str,
    runtime: Runtime,
    filesystem: FileSystem | None = None,
    *,
    call_seconds: float = 120,
    gcs_write_seconds: float = _GCS_WRITE_SECONDS,
    around: Callable[[ObjectStore], ObjectStore] = lambda store: store,
    guarded: bool = False,
    must_exist: bool = False,
    slow: Callable[[], None] | None = None,
) -> OpenStore:
    """Open the store that `url` names (`stores.locations`).

    `call_seconds`: the limit of one call to the store. `gcs_write_seconds`: the pause between two
    writes of one key, which GCS requires. `around` wraps the store before anything uses it.
    `guarded`: probe before the first write that the store honours conditions
    (`stores.wrappers.write_guard`). A directory is not probed, because its conditions are code of
    this project. `must_exist`: the bucket was used before, so the folder of a directory is never
    created; while it is absent, every call raises StoreRefused. `slow` is called while a call takes
    more than 5 s.

    Raises:
        StoreRefused: the URL names no bucket.
    """
    try:
        location = locations.parse(url)
    except ValueError as error:
        raise StoreRefused(f"bucket {url} {error}") from error
    opened, quoting = _store(
        location, runtime, filesystem or RealFileSystem(), must_exist=must_exist
    )
    store: ObjectStore = TimeLimitedStore(around(opened), call_seconds, slow)
    if isinstance(location, locations.Gcs):
        # Outside of the time limit: a call that waits for its turn does not hang.
        store = RateLimitedStore(store, runtime, gcs_write_seconds)
    if guarded and not isinstance(location, locations.Directory):
        from daemon.stores.wrappers.write_guard import GuardedStore  # noqa: PLC0415

        store = GuardedStore(store, runtime)
    return OpenStore(store, location, quoting)


def bucket_on(
    opened: OpenStore, runtime: Runtime, *, keys: Keys = NO_KEYS, check: BucketCheck = ANY_BUCKET
) -> Bucket:
    """The objects that read and change a bucket.

    `keys`: the signing keys and the trust policy. `check`: refuses to read from another bucket.
    """
    store, location = opened.store, opened.location
    accepted = (
        FileSequences(keys.state_file, _identity(location, os.environ), runtime)
        if keys.state_file
        else None
    )
    reader = Reader(store, runtime, trust=keys.trust, accepted=accepted, bucket=check)
    return Bucket(store, reader, runtime, location, keys, opened.quoting)


def _identity(location: Location, environment: Mapping[str, str]) -> str:
    """One name per bucket for the sequence memory, whichever URL and working directory name it.

    Without an endpoint in the URL, the SDKs take it from the environment.
    """
    match location:
        case locations.Directory(path=path):
            return path.resolve().as_uri()
        case locations.S3(bucket=bucket, prefix=prefix, endpoint=endpoint):
            effective = (
                endpoint
                or environment.get("AWS_ENDPOINT_URL_S3")
                or environment.get("AWS_ENDPOINT_URL")
            )
            return f"s3 {locations.spelled(effective or '')} {bucket} {prefix}"
        case locations.Gcs(bucket=bucket, prefix=prefix, endpoint=endpoint):
            effective = endpoint or environment.get("STORAGE_EMULATOR_HOST")
            return f"gs {locations.spelled(effective or '')} {bucket} {prefix}"
        case _:
            assert_never(location)


def collector(bucket: Bucket, retention: RetentionSettings) -> "GarbageCollector":
    """The garbage collector of a bucket, with these settings."""
    from daemon.publishing.maintenance import (  # noqa: PLC0415
        garbage_collector,
        retention_rules,
    )

    policy = retention_rules.RetentionPolicy(
        newest=retention.newest,
        days=retention.days,
        dropped_days=retention.dropped_days,
        grace_hours=retention.grace_hours,
    )
    return garbage_collector.GarbageCollector(
        bucket.store, bucket.reader, bucket.publisher, bucket.runtime, policy
    )


def _store(
    location: Location, runtime: Runtime, filesystem: FileSystem, *, must_exist: bool
) -> "tuple[ObjectStore, EtagFormStore | None]":
    # Imported here, because each SDK takes a quarter of a second to import.
    match location:
        case locations.Directory(path=path):
            from daemon.stores.directory.store import DirectoryStore  # noqa: PLC0415

            directory = DirectoryStore(
                path.absolute(),
                runtime,
                filesystem,
                must_exist=must_exist,
                unread=layout.is_credential,
                private=layout.is_credential,
            )
            return directory, None
        case locations.S3(bucket=bucket, prefix=prefix, endpoint=endpoint, region=region):
            from daemon.stores.s3 import S3Store  # noqa: PLC0415
            from daemon.stores.wrappers.etag_form import EtagFormStore  # noqa: PLC0415

            store = S3Store(bucket, prefix, runtime, endpoint=endpoint, region=region)
            quoting = EtagFormStore(store, store.unquoted(), runtime)
            return quoting, quoting
        case locations.Gcs(bucket=bucket, prefix=prefix, endpoint=endpoint):
            from daemon.stores.gcs import GcsStore  # noqa: PLC0415

            return GcsStore(bucket, prefix, runtime, endpoint=endpoint), None

"""Runs the daemon: builds its parts from the settings, starts them, and drains them on a signal.

The web framework is imported where it is needed, so that `rebundle run --help` starts fast.
"""

import asyncio
import os
import resource
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
from pydantic import SecretStr

from daemon import customisation
from daemon.bucket import Bucket, Keys, bucket_on, collector, keys_of, open_store
from daemon.customisation import Customisations
from daemon.lifecycle import ServiceManager, Stop, SystemRuntime, stop_on_signals
from daemon.pipeline import Observer, Pipeline
from daemon.publishing.bucket_identity import BucketCheck, BucketIdentity
from daemon.publishing.errors import KeyUnusable
from daemon.publishing.maintenance.garbage_collector import BOTH
from daemon.publishing.signatures import ROLES
from daemon.publishing.verification import Verifier
from daemon.rendering import Rendering
from daemon.reporting import Reporter
from daemon.retry import Backoff
from daemon.settings import RetentionSettings, Settings
from daemon.stores import locations
from daemon.stores.directory.filesystem import FileSystem
from daemon.stores.startup_probe import Admission
from daemon.telemetry import Metrics, configure_logging
from daemon.timers import every
from daemon.timers.collection import CollectionTimer
from daemon.timers.freshness import FreshnessTimer
from daemon.timers.pruning import PruneTimer
from daemon.timers.stored_states import StoredStatesTimer
from daemon.worker import Worker
from events.dialects.cloudevents import DecodingLimits
from events.journal import Journal, JournalLimits
from events.source import EventSource
from renderers import gate
from renderers.bundle import RENDERER_VERSION, Renderer

if TYPE_CHECKING:
    from daemon.attention import ConditionKind
    from daemon.readiness import Failing, HealthChecks

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_CHECK_SECONDS: Final = 5
_VALIDATION_THREADS: Final = 2
_OTHER_DESCRIPTORS: Final = 200
_MIN_CONNECTIONS: Final = 16


def _refuse_useless_keys(keys: Keys) -> None:
    """Stop the start if readers would refuse every publication of this daemon.

    Raises:
        KeyUnusable: the trust policy of this daemon accepts none of its signing keys.
    """
    keyids = [signer.keyid for signer in keys.signers]
    objection = Verifier(keys.trust).objection(keyids, ROLES, None)
    if objection is not None:
        raise KeyUnusable(
            f"the trust policy of this daemon refuses what it would publish: {objection}. "
            "Set signing.key_file, or trust its key (`rebundle keys trust POLICY PUBLIC`)"
        )


def _collection_timer(
    bucket: Bucket, retention: RetentionSettings, reporter: Reporter
) -> CollectionTimer:
    return CollectionTimer(
        collector=collector(bucket, retention),
        reader=bucket.reader,
        runtime=bucket.runtime,
        writer=_writer(),
        hours=retention.every_hours,
        parts=BOTH if retention.delete else frozenset({"release"}),
        refused=reporter.deletion_refused,
    )


def _freshness_timer(bucket: Bucket, keys: Keys, minutes: int) -> FreshnessTimer:
    return FreshnessTimer(
        store=bucket.store,
        reader=bucket.reader,
        runtime=bucket.runtime,
        signers=keys.signers,
        trust=keys.trust,
        minutes=minutes,
    )


def _writer() -> str:
    return f"rebundle@{socket.gethostname()}"


def _pipeline(
    bucket: Bucket,
    source: EventSource,
    settings: Settings,
    customisations: Customisations,
    observer: Observer,
    *,
    identity: BucketCheck,
) -> Pipeline:
    return Pipeline(
        source=source,
        reader=bucket.reader,
        publisher=bucket.publisher,
        live_tree=bucket.live_tree,
        rendering=Rendering(
            Renderer(), gate.check, customisations.of, settings.limits, settings.publish.pinning
        ),
        runtime=bucket.runtime,
        observer=observer,
        writer=_writer(),
        accept_older_renderer=settings.publish.accept_older_renderer,
        bucket=identity,
    )


async def run(
    settings: Settings,
    version: str,
    *,
    announce: Callable[[str], None] = lambda _line: None,
    filesystem: FileSystem | None = None,
    new_bucket: bool = False,
) -> None:
    """Run the daemon until a signal stops it.

    `announce` gets one line when the daemon is ready. `new_bucket`: publish to this bucket from now
    on, although the journal published to another one.

    Raises:
        SettingsError: the templates of a scope cannot be used.
        KeyUnusable, PolicyUnusable: a signing key or the trust policy cannot be used.
        JournalLocked, JournalDamaged: the operator must act.
        ListenFailed: the address is not available.
        UnsafeStore: the bucket ignores conditions.
    """
    from daemon.http.server import bind  # noqa: PLC0415  # the web framework

    configure_logging(settings.log.format, settings.log.level)
    runtime = SystemRuntime()
    # Separate threads: calls to the bucket that hang must not delay the intake.
    validating = SystemRuntime(_VALIDATION_THREADS)
    keys = await runtime.run_in_thread(keys_of, settings)
    if keys.signers and keys.trust is None:
        log.warning(
            "pointers are signed without verifying the ones they follow",
            hint="set trust.policy here, too, once every pointer is signed (docs/signing.md)",
        )
    _refuse_useless_keys(keys)
    customisations = await runtime.run_in_thread(customisation.for_every_scope, settings)
    if customisations.replaced:
        log.info("templates replaced", scopes=customisations.replaced)
    stop, closing = Stop(), Stop()
    manager = ServiceManager.of(os.environ, os.getpid())
    with bind(*settings.http.address) as sock, stop_on_signals(stop, settings.drain_seconds):
        limits = JournalLimits(
            max_unacknowledged=settings.journal.max_unacknowledged_events,
            max_unacknowledged_bytes=settings.journal.max_unacknowledged_bytes,
            identities_kept=timedelta(days=settings.journal.identity_days),
            bodies_kept=timedelta(days=settings.journal.body_days),
        )
        journal = await Journal.open(
            settings.journal.path,
            clock=runtime.now,
            token=runtime.random_id,
            run=True,
            limits=limits,
        )
        async with journal:
            backoff = Backoff(
                settings.publish.retry_first_seconds, settings.publish.retry_max_seconds
            )
            opened = open_store(
                settings.bucket,
                runtime,
                filesystem,
                call_seconds=settings.publish.timeout_seconds,
                must_exist=not new_bucket and await journal.bucket() is not None,
            )
            identity = BucketIdentity(
                opened.store,
                journal,
                runtime,
                backoff,
                new_bucket=new_bucket,
            )
            bucket = bucket_on(opened, runtime, keys=keys, check=identity)
            freshness = _freshness_timer(bucket, keys, settings.signing.freshness_minutes)
            pruning = PruneTimer(journal, runtime)
            stored_states = StoredStatesTimer(bucket.reader, runtime)
            daemon = await _Daemon.build(
                settings,
                version,
                bucket,
                (runtime, validating),
                journal,
                customisations=customisations,
                stop=stop,
                tried={"freshness": freshness, "pruning": pruning, "damaged": stored_states},
                identity=identity,
                backoff=backoff,
            )
            await daemon.health.observe()
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(daemon.serve(sock, closing))
                timers = [
                    group.create_task(pruning.run()),
                    group.create_task(every(_CHECK_SECONDS, runtime, daemon.health.observe)),
                    # Separate from the health checks: a token file on a file system that hangs must
                    # not make the daemon unready.
                    group.create_task(every(_CHECK_SECONDS, runtime, daemon.refresh_tokens)),
                    group.create_task(
                        manager.feed_watchdog(runtime, lambda: daemon.health.fault() is None)
                    ),
                    group.create_task(daemon.once_admitted(daemon.collections.run)),
                    group.create_task(daemon.once_admitted(freshness.run)),
                    group.create_task(daemon.once_admitted(stored_states.run)),
                ]
                working = group.create_task(daemon.work(stop))
                host, port = sock.getsockname()[:2]
                announce(f"listening on http://{host}:{port}, bucket {settings.bucket}")
                log.info(
                    "ready",
                    host=host,
                    port=port,
                    bucket=settings.bucket,
                    journal=str(settings.journal.path),
                )
                manager.notify("READY=1")
                await stop.wait()
                manager.notify("STOPPING=1")
                log.info("stopping", reason=stop.reason)
                await asyncio.wait([working])
                # Until here senders got a 503 with Retry-After instead of a refused connection.
                closing.request("drained")
                await asyncio.wait([serving])
                for timer in timers:
                    timer.cancel()
        log.info("stopped")
    runtime.close()
    validating.close()


@dataclass(frozen=True, slots=True)
class _Daemon:
    """The parts of a running daemon."""

    worker: Worker
    health: "HealthChecks"
    refresh_tokens: Callable[[], Coroutine[None, None, None]]
    admission: Admission | None
    """None for a directory: its conditions are code of this project."""
    identity: BucketIdentity
    collections: CollectionTimer
    serve: Callable[[socket.socket, Stop], Coroutine[None, None, None]]

    async def work(self, stop: Stop) -> None:
        """Publish once the bucket may be written. Events are accepted before that, too."""
        async with asyncio.TaskGroup() as group:
            granting = group.create_task(self._granted())
            stopping = group.create_task(stop.wait())
            await asyncio.wait((granting, stopping), return_when=asyncio.FIRST_COMPLETED)
            granting.cancel()
            stopping.cancel()
        if not stop.is_set:
            await self.worker.run(stop)

    async def once_admitted(self, timer: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run a timer that writes to the bucket once the bucket may be written."""
        await self.identity.until_granted()
        await timer()

    async def _granted(self) -> None:
        if self.admission is not None:
            await self.admission.granted()
        await self.identity.granted()

    @classmethod
    async def build(
        cls,
        settings: Settings,
        version: str,
        bucket: Bucket,
        runtimes: tuple[SystemRuntime, SystemRuntime],
        journal: Journal,
        *,
        customisations: Customisations,
        stop: Stop,
        tried: "Mapping[ConditionKind, Failing]",
        identity: BucketIdentity,
        backoff: Backoff,
    ) -> "_Daemon":
        from daemon.http.app import RequestLimits, create_app  # noqa: PLC0415  # the web framework
        from daemon.http.auth import Credentials  # noqa: PLC0415
        from daemon.http.connections import ConnectionLimits  # noqa: PLC0415
        from daemon.http.intake import Intake  # noqa: PLC0415
        from daemon.http.server import serve  # noqa: PLC0415
        from daemon.http.tokens import TokenName, Tokens  # noqa: PLC0415
        from daemon.readiness import HealthChecks  # noqa: PLC0415

        metrics = Metrics.create(version, RENDERER_VERSION)
        runtime, validating = runtimes
        reporter = Reporter(metrics, runtime)
        worker = Worker(
            source=journal,
            reader=bucket.reader,
            pipeline=_pipeline(
                bucket, journal, settings, customisations, reporter, identity=identity
            ),
            runtime=runtime,
            observer=reporter,
            backoff=backoff,
            live_tree_seconds=settings.publish.live_tree_seconds,
            opened_at=await journal.highest(),
            bucket=identity,
        )
        admission = (
            None
            if isinstance(bucket.location, locations.Directory)
            else Admission(bucket.store, runtime, backoff)
        )
        http = settings.http
        limits = DecodingLimits(
            max_bytes=http.max_body_bytes,
            max_events=http.max_batch_events,
            max_depth=http.max_depth,
        )
        files: dict[TokenName, Path | None] = {
            "token": http.token_file,
            "rollback_token": http.rollback_token_file,
        }
        tokens = Tokens(
            Credentials(_plain(http.token), _plain(http.rollback_token)),
            {name: file.absolute() for name, file in files.items() if file is not None},
        )
        collections = _collection_timer(bucket, settings.retention, reporter)
        health = HealthChecks(
            journal=journal,
            journal_path=settings.journal.path.absolute(),
            bucket=_from_any_folder(bucket.location, settings.bucket),
            worker=worker,
            reporter=reporter,
            threads=runtime,
            call_seconds=settings.publish.timeout_seconds,
            metrics=metrics,
            stop=stop,
            gates={
                command: gate
                for command, gate in (("doctor", admission), ("status", identity))
                if gate is not None
            },
            tried={"token": tokens, **tried, "collection": collections},
        )

        app = create_app(
            Intake(journal, validating, metrics, stop, limits, bundle_limits=settings.limits),
            health,
            metrics,
            tokens.current,
            RequestLimits(http.max_body_bytes, http.body_seconds, http.max_requests),
            runtime=validating,
            stop=stop,
            version=version,
        )
        connections = ConnectionLimits(
            _most_connections(http.max_connections),
            http.max_connections_per_peer,
            http.trusted_proxies,
        )
        serving = partial(serve, app, limits=connections, closed=reporter.connection_closed)
        refresh_tokens = partial(validating.run_in_thread, tokens.refresh)
        return cls(worker, health, refresh_tokens, admission, identity, collections, serving)


def _most_connections(wanted: int) -> int:
    """The limit of connections that leaves descriptors for the bucket, the journal and the log."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = max(allowed - _OTHER_DESCRIPTORS, _MIN_CONNECTIONS)
    if wanted <= limit:
        return wanted
    needed = wanted + _OTHER_DESCRIPTORS
    hint = (
        f"ulimit -n {needed}, LimitNOFILE={needed} in the unit, or --ulimit "
        f"nofile={needed} for the container"
    )
    log.warning(
        "http.max_connections lowered to the limit of open files",
        connections=limit,
        open_files=allowed,
        hint=hint,
    )
    return limit


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _from_any_folder(location: locations.Location, bucket: str) -> str:
    """The bucket by a name that works in any working directory."""
    return str(location.path.absolute()) if isinstance(location, locations.Directory) else bucket

"""Runs the daemon: builds its parts from the settings, starts them, and drains them on a signal.

The web framework is imported where it is needed, so that `rebundle run --help` starts fast.
"""

import asyncio
import os
import resource
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import structlog
from pydantic import SecretStr

from daemon import customisation
from daemon.bucket import Bucket, Keys, bucket_on, collector, keys_of, open_store
from daemon.changes import validate_data
from daemon.customisation import Customisations
from daemon.lifecycle import ServiceManager, Stop, SystemRuntime, stop_on_signals
from daemon.pipeline import Pipeline
from daemon.publishing.bucket_identity import BucketIdentity, BucketMemory
from daemon.publishing.errors import KeyUnusable
from daemon.publishing.maintenance.garbage_collector import BOTH
from daemon.publishing.signatures import ROLES
from daemon.publishing.verification import Verifier
from daemon.rendering import Rendering
from daemon.reporting import Reporter
from daemon.retry import Backoff
from daemon.settings import HttpSettings, JournalSettings, Settings
from daemon.stores import locations
from daemon.stores.directory.filesystem import FileSystem
from daemon.stores.startup_probe import Admission
from daemon.telemetry import Metrics, configure_logging
from daemon.timers import every
from daemon.timers.collection import CollectionTimer
from daemon.timers.freshness import FreshnessTimer
from daemon.timers.pruning import Prunable, PruneTimer
from daemon.timers.stored_states import StoredStatesTimer
from daemon.worker import Worker
from events.dialects.cloudevents import DecodingLimits, decode_http
from events.errors import EventError
from events.journal import Journal, JournalLimits
from events.log import EventLog, SourceHealth
from events.source import EventSource
from renderers import gate
from renderers.bundle import RENDERER_VERSION, Renderer

if TYPE_CHECKING:
    from daemon.http.tokens import Tokens
    from daemon.readiness import HealthChecks

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_HTTP_INTAKE: Final = "http"
_CHECK_SECONDS: Final = 5
_VALIDATION_THREADS: Final = 2
_OTHER_DESCRIPTORS: Final = 200
_MIN_CONNECTIONS: Final = 16


class Source(EventSource, EventLog, SourceHealth, BucketMemory, Prunable, Protocol):
    """What a daemon needs of the source of its events."""


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
        JournalLocked, JournalDamaged: another daemon has the journal, or it is damaged.
        StoreRefused: the URL names no bucket.
        ListenFailed: the address is not available.
        UnsafeStore: the bucket ignores conditions.
    """
    from daemon.http.server import bind  # noqa: PLC0415  # the web framework

    configure_logging(settings.log.format, settings.log.level)
    # Separate threads: calls to the bucket that hang must not delay the intake.
    with (
        closing(SystemRuntime()) as runtime,
        closing(SystemRuntime(_VALIDATION_THREADS)) as validating,
    ):
        keys = await runtime.run_in_thread(_usable_keys, settings)
        customisations = await runtime.run_in_thread(customisation.for_every_scope, settings)
        if customisations.replaced:
            log.info("templates replaced", scopes=customisations.replaced)
        stop = Stop()
        with bind(*settings.http.address) as sock, stop_on_signals(stop, settings.drain_seconds):
            async with await _open_journal(settings.journal, runtime) as journal:
                shared = await _shared_parts(
                    settings,
                    version,
                    journal,
                    keys,
                    runtime=runtime,
                    validating=validating,
                    stop=stop,
                    filesystem=filesystem,
                    new_bucket=new_bucket,
                )
                daemon = await _build(shared, customisations)
                await daemon.health.observe()
                waiting = daemon.health.waiting_events
                await daemon.run(
                    sock, stop, lambda: _report_ready(sock, settings, waiting, announce)
                )
                log.info("stopped", waiting_events=await _waiting(journal))


def _usable_keys(settings: Settings) -> Keys:
    """The keys that the settings name. Readers have to accept what is signed with them.

    Raises:
        SettingsError, PolicyUnusable: as `keys_of`.
        KeyUnusable: a key cannot be loaded, or the trust policy of this daemon accepts none.
    """
    keys = keys_of(settings)
    if keys.signers and keys.trust is None:
        log.warning(
            "pointers are signed without verifying the ones they follow",
            hint="set trust.policy here, too, once every pointer is signed (docs/signing.md)",
        )
    keyids = [signer.keyid for signer in keys.signers]
    objection = Verifier(keys.trust).objection(keyids, ROLES, None)
    if objection is not None:
        raise KeyUnusable(
            f"the trust policy of this daemon refuses what it would publish: {objection}. "
            "Set signing.key_file, or trust its key (`rebundle keys trust POLICY PUBLIC`)"
        )
    return keys


async def _open_journal(settings: JournalSettings, runtime: SystemRuntime) -> Journal:
    limits = JournalLimits(
        max_unacknowledged=settings.max_unacknowledged_events,
        max_unacknowledged_bytes=settings.max_unacknowledged_bytes,
        identities_kept=timedelta(days=settings.identity_days),
        bodies_kept=timedelta(days=settings.body_days),
    )
    journal = await Journal.open(
        settings.path, clock=runtime.now, token=runtime.random_id, run=True, limits=limits
    )
    if journal.is_copy:
        log.warning(
            "the journal is a copy or was restored, and continues under a new instance",
            journal=str(settings.path),
            hint="send again what was accepted after the copy was made and is not published, at "
            "least the newest state",
        )
    return journal


async def _waiting(journal: Journal) -> int | None:
    """The events without an outcome; None if the journal cannot be read."""
    try:
        return (await journal.backlog()).events
    except EventError:
        return None


def _report_ready(
    sock: socket.socket,
    settings: Settings,
    waiting: int | None,
    announce: Callable[[str], None],
) -> None:
    host, port = sock.getsockname()[:2]
    announce(f"listening on http://{host}:{port}, bucket {settings.bucket}")
    log.info(
        "ready",
        host=host,
        port=port,
        bucket=settings.bucket,
        journal=str(settings.journal.path),
        waiting_events=waiting,
    )


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the parts of a daemon have in common."""

    settings: Settings
    version: str
    source: Source
    keys: Keys
    runtime: SystemRuntime
    validating: SystemRuntime
    """Threads of the intake alone."""
    stop: Stop
    bucket: Bucket
    identity: BucketIdentity
    admission: Admission | None
    """None for a directory: its conditions are code of this project."""
    backoff: Backoff
    metrics: Metrics
    reporter: Reporter
    tokens: "Tokens"


@dataclass(frozen=True, slots=True)
class _Timers:
    """The jobs that the daemon repeats."""

    pruning: PruneTimer
    collection: CollectionTimer
    freshness: FreshnessTimer
    stored_states: StoredStatesTimer


@dataclass(frozen=True, slots=True)
class _Daemon:
    """The parts of a running daemon."""

    shared: _Shared
    worker: Worker
    health: "HealthChecks"
    timers: _Timers
    serve: Callable[[socket.socket, Stop], Coroutine[None, None, None]]

    async def run(self, sock: socket.socket, stop: Stop, report_ready: Callable[[], None]) -> None:
        """Accept events and publish until `stop`, then finish what has begun."""
        manager, closing = ServiceManager.of(os.environ, os.getpid()), Stop()
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self.serve(sock, closing))
            repeated = [group.create_task(job) for job in self._repeated(manager)]
            working = group.create_task(self._work(stop))
            report_ready()
            manager.notify("READY=1")
            await stop.wait()
            manager.notify("STOPPING=1")
            log.info("stopping", reason=stop.reason)
            await asyncio.wait([working])
            # Until here senders got a 503 with Retry-After instead of a refused connection.
            closing.request("drained")
            await asyncio.wait([serving])
            for task in repeated:
                task.cancel()

    def _repeated(self, manager: ServiceManager) -> Iterator[Coroutine[None, None, None]]:
        runtime = self.shared.runtime
        yield self.timers.pruning.run()
        yield every(_CHECK_SECONDS, runtime, self.health.observe)
        # Separate from the health checks: a token file on a file system that hangs must not make
        # the daemon unready.
        refresh = partial(self.shared.validating.run_in_thread, self.shared.tokens.refresh)
        yield every(_CHECK_SECONDS, runtime, refresh)
        yield manager.feed_watchdog(runtime, lambda: self.health.fault() is None)
        yield self._once_admitted(self.timers.collection.run)
        yield self._once_admitted(self.timers.freshness.run)
        yield self._once_admitted(self.timers.stored_states.run)

    async def _work(self, stop: Stop) -> None:
        """Publish once the bucket may be written. Events are accepted before that, too."""
        async with asyncio.TaskGroup() as group:
            admitting = group.create_task(self._wait_for_admission())
            stopping = group.create_task(stop.wait())
            await asyncio.wait((admitting, stopping), return_when=asyncio.FIRST_COMPLETED)
            admitting.cancel()
            stopping.cancel()
        if not stop.is_set:
            await self.worker.run(stop)

    async def _once_admitted(self, timer: Callable[[], Coroutine[None, None, None]]) -> None:
        """Run a timer that writes to the bucket once the bucket may be written."""
        await self.shared.identity.wait_until_granted()
        await timer()

    async def _wait_for_admission(self) -> None:
        if self.shared.admission is not None:
            await self.shared.admission.probe_until_passed()
        await self.shared.identity.check_until_granted()


async def _shared_parts(
    settings: Settings,
    version: str,
    source: Source,
    keys: Keys,
    *,
    runtime: SystemRuntime,
    validating: SystemRuntime,
    stop: Stop,
    filesystem: FileSystem | None,
    new_bucket: bool,
) -> _Shared:
    publish = settings.publish
    backoff = Backoff(publish.retry_first_seconds, publish.retry_max_seconds)
    opened = open_store(
        settings.bucket,
        runtime,
        filesystem,
        call_seconds=publish.timeout_seconds,
        must_exist=not new_bucket and await source.bucket() is not None,
    )
    identity = BucketIdentity(opened.store, source, runtime, backoff, new_bucket=new_bucket)
    bucket = bucket_on(opened, runtime, keys=keys, check=identity)
    is_directory = isinstance(bucket.location, locations.Directory)
    metrics = Metrics.create(version, RENDERER_VERSION)
    return _Shared(
        settings=settings,
        version=version,
        source=source,
        keys=keys,
        runtime=runtime,
        validating=validating,
        stop=stop,
        bucket=bucket,
        identity=identity,
        admission=None if is_directory else Admission(bucket.store, runtime, backoff),
        backoff=backoff,
        metrics=metrics,
        reporter=Reporter(metrics, runtime),
        tokens=_tokens(settings.http),
    )


async def _build(shared: _Shared, customisations: Customisations) -> _Daemon:
    worker = _worker(shared, customisations)
    timers = _timers(shared)
    health = _health(shared, worker, timers)
    return _Daemon(shared, worker, health, timers, _server(shared, health))


def _worker(shared: _Shared, customisations: Customisations) -> Worker:
    publish, bucket = shared.settings.publish, shared.bucket
    rendering = Rendering(
        Renderer(), gate.check, customisations.of, shared.settings.limits, publish.pinning
    )
    pipeline = Pipeline(
        source=shared.source,
        reader=bucket.reader,
        publisher=bucket.publisher,
        live_tree=bucket.live_tree,
        rendering=rendering,
        runtime=shared.runtime,
        observer=shared.reporter,
        writer=_writer(),
        accept_older_renderer=publish.accept_older_renderer,
        bucket=shared.identity,
    )
    return Worker(
        source=shared.source,
        reader=bucket.reader,
        pipeline=pipeline,
        runtime=shared.runtime,
        observer=shared.reporter,
        backoff=shared.backoff,
        live_tree_seconds=publish.live_tree_seconds,
        gather_seconds=publish.gather_seconds,
        lanes_at_once=publish.lanes_at_once,
        bucket=shared.identity,
    )


def _writer() -> str:
    return f"rebundle@{socket.gethostname()}"


def _timers(shared: _Shared) -> _Timers:
    bucket, runtime = shared.bucket, shared.runtime
    retention = shared.settings.retention
    return _Timers(
        PruneTimer(shared.source, runtime),
        CollectionTimer(
            collector=collector(bucket, retention),
            reader=bucket.reader,
            runtime=runtime,
            writer=_writer(),
            hours=retention.every_hours,
            parts=BOTH if retention.delete else frozenset({"release"}),
            refused=shared.reporter.deletion_refused,
        ),
        FreshnessTimer(
            store=bucket.store,
            reader=bucket.reader,
            runtime=runtime,
            signers=shared.keys.signers,
            trust=shared.keys.trust,
            minutes=shared.settings.signing.freshness_minutes,
        ),
        StoredStatesTimer(bucket.reader, runtime),
    )


def _tokens(http: HttpSettings) -> "Tokens":
    from daemon.http.auth import Credentials  # noqa: PLC0415  # the web framework
    from daemon.http.tokens import TokenName, Tokens  # noqa: PLC0415

    files: dict[TokenName, Path | None] = {
        "token": http.token_file,
        "rollback_token": http.rollback_token_file,
    }
    return Tokens(
        Credentials(_plain(http.token), _plain(http.rollback_token)),
        {name: file.absolute() for name, file in files.items() if file is not None},
    )


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret else None


def _health(shared: _Shared, worker: Worker, timers: _Timers) -> "HealthChecks":
    from daemon.readiness import HealthChecks  # noqa: PLC0415

    settings, bucket = shared.settings, shared.bucket
    return HealthChecks(
        source=shared.source,
        journal_path=settings.journal.path.absolute(),
        bucket=_from_any_folder(bucket.location, settings.bucket),
        worker=worker,
        reporter=shared.reporter,
        threads=shared.runtime,
        call_seconds=settings.publish.timeout_seconds,
        metrics=shared.metrics,
        stop=shared.stop,
        preconditions={
            command: precondition
            for command, precondition in (
                ("doctor", shared.admission),
                ("status", shared.identity),
            )
            if precondition is not None
        },
        repeated_jobs={
            "token": shared.tokens,
            "freshness": timers.freshness,
            "pruning": timers.pruning,
            "damaged": timers.stored_states,
            "collection": timers.collection,
        },
    )


def _from_any_folder(location: locations.Location, bucket: str) -> str:
    """The bucket by a name that works in any working directory."""
    return str(location.path.absolute()) if isinstance(location, locations.Directory) else bucket


def _server(
    shared: _Shared, health: "HealthChecks"
) -> Callable[[socket.socket, Stop], Coroutine[None, None, None]]:
    """Serves the HTTP API on a socket until its second argument stops it."""
    from daemon.http.app import RequestLimits, create_app  # noqa: PLC0415  # the web framework
    from daemon.http.connections import ConnectionLimits  # noqa: PLC0415
    from daemon.http.intake import Intake  # noqa: PLC0415
    from daemon.http.server import serve  # noqa: PLC0415

    http, validating, stop = shared.settings.http, shared.validating, shared.stop
    decoding = DecodingLimits(
        max_bytes=http.max_body_bytes, max_events=http.max_batch_events, max_depth=http.max_depth
    )
    decode = partial(decode_http, limits=decoding, validate_data=validate_data)
    app = create_app(
        Intake(
            _HTTP_INTAKE,
            decode,
            shared.source,
            runtime=validating,
            metrics=shared.metrics,
            stop=stop,
            bundle_limits=shared.settings.limits,
        ),
        health,
        shared.metrics,
        shared.tokens.current,
        RequestLimits(http.max_body_bytes, http.body_seconds, http.max_requests),
        runtime=validating,
        stop=stop,
        version=shared.version,
    )
    limits = ConnectionLimits(
        _most_connections(http.max_connections),
        http.max_connections_per_peer,
        http.trusted_proxies,
    )
    return partial(serve, app, limits=limits, closed=shared.reporter.connection_closed)


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

"""Validation and append, without a network: what goes to the journal, and where the work runs."""

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from daemon.changes import validate_data
from daemon.http.auth import Role
from daemon.http.intake import Intake, Receipt
from daemon.http.problems import RequestRefused
from daemon.lifecycle import Stop, SystemRuntime
from daemon.telemetry import Metrics
from events.dialects.cloudevents import decode_http
from events.errors import EventError, JournalDamaged, Problem, SourceUnavailable
from events.model import Position
from events.records import Accepted, Arrival, EventStatus
from renderers.limits import DEFAULT_LIMITS, BundleLimits
from tests.unit.daemon.http.service import state_event

PUBLISHER = frozenset({Role.READ, Role.PUBLISH})


class Log:
    """An event log in memory that keeps everything, or fails."""

    def __init__(self, failure: EventError | None = None) -> None:
        self.failure = failure
        self.arrivals: list[Arrival] = []
        self.rejected: list[tuple[str, bytes, Sequence[Problem]]] = []

    async def append(self, arrivals: Sequence[Arrival], /) -> list[Accepted]:
        if self.failure:
            raise self.failure
        first = len(self.arrivals) + 1
        self.arrivals += arrivals
        return [
            Accepted(Position("journal:test", first + index), known=False)
            for index in range(len(arrivals))
        ]

    async def reject(self, intake: str, body: bytes, problems: Sequence[Problem], /) -> None:
        if self.failure:
            raise self.failure
        self.rejected.append((intake, body, problems))

    async def find(self, event_id: str, /) -> list[EventStatus]:
        if self.failure:
            raise self.failure
        return []


class Counting(SystemRuntime):
    """Counts the calls that leave the event loop."""

    def __init__(self) -> None:
        super().__init__(1)
        self.offloaded = 0

    async def run_in_thread(self, work: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        self.offloaded += 1
        return work(*args, **kwargs)


def taken(
    log: Log, event: Any, runtime: SystemRuntime | None = None, most: BundleLimits = DEFAULT_LIMITS
) -> list[Receipt]:
    kind = (
        b"application/cloudevents-batch+json"
        if isinstance(event, list)
        else b"application/cloudevents+json"
    )

    async def accept() -> list[Receipt]:
        intake = Intake(
            "http",
            partial(decode_http, validate_data=validate_data),
            log,
            runtime=runtime or Counting(),
            metrics=Metrics.create("1", "1"),
            stop=Stop(),
            bundle_limits=most,
        )
        return await intake.accept([(b"content-type", kind)], json.dumps(event).encode(), PUBLISHER)

    return asyncio.run(accept())


def test_an_arrival_has_the_intakes_name_the_digest_and_the_scopes() -> None:
    log = Log()
    (receipt,) = taken(log, state_event())
    (arrival,) = log.arrivals
    assert (arrival.identity.intake, arrival.identity.source, arrival.identity.id) == (
        "http",
        state_event()["source"],
        state_event()["id"],
    )
    assert arrival.scopes == ("visual-anomaly/core-versions",)
    assert len(arrival.digest) == 64
    assert receipt.accepted == Accepted(Position("journal:test", 1), known=False)


def test_receipts_are_in_the_order_of_the_events_with_ignored_ones_between() -> None:
    events = [state_event(1), state_event(2, type="io.rebundle.later.v9"), state_event(3)]
    receipts = taken(Log(), events)
    assert [receipt.event.id for receipt in receipts] == [event["id"] for event in events]
    assert [receipt.accepted and receipt.accepted.position.offset for receipt in receipts] == [
        1,
        None,
        2,
    ]


def test_nothing_is_appended_when_every_type_is_unknown() -> None:
    (receipt,) = taken(
        Log(failure=SourceUnavailable("must not be asked")),
        state_event(type="io.rebundle.later.v9"),
    )
    assert receipt.accepted is None


@pytest.mark.parametrize(("models", "offloaded"), [(1, 0), (800, 1)])
def test_only_a_large_body_is_decoded_in_a_thread(models: int, offloaded: int) -> None:
    runtime, event = Counting(), state_event()
    model = event["data"]["models"][0]
    event["data"]["models"] = [model | {"id": f"m{index}"} for index in range(models)]
    taken(Log(), event, runtime)
    assert runtime.offloaded == offloaded


@pytest.mark.parametrize("place", ["", "[1]"])
def test_problems_of_envelope_and_data_are_reported_together(place: str) -> None:
    broken = state_event(2)
    del broken["specversion"]
    broken["data"]["state"]["revision"] = 0
    broken["data"]["models"][0]["artifact"]["uri"] = "http://example.com/x"
    with pytest.raises(RequestRefused) as refused:
        taken(Log(), [state_event(1), broken] if place else broken)

    paths = {problem.path for problem in refused.value.errors}
    assert paths >= {
        f"${place}.specversion",
        f"${place}.data.state.revision",
        f"${place}.data.models[0].artifact.uri",
    }


def test_a_state_beyond_limits_is_refused_with_each_of_them() -> None:
    log = Log()
    with pytest.raises(RequestRefused) as refused:
        taken(
            log, state_event(), most=BundleLimits(composition_bytes=100, files=1, signature_depth=1)
        )
    assert refused.value.status == 400
    problems = log.rejected[0][2]
    assert [problem.path for problem in problems] == ["$.data", "$.data", "$.data.proxy.signature"]
    assert "files; the limit is 1 (setting limits.files)" in problems[0].expected
    assert "bytes; the limit is 100 (setting limits.composition_bytes)" in problems[1].expected
    assert not log.arrivals


def test_an_answer_has_a_bounded_number_of_problems() -> None:
    events = [state_event(number) | {"data": {"models": [{}] * 50}} for number in range(90)]
    log = Log()
    with pytest.raises(RequestRefused) as refused:
        taken(log, events)
    assert len(refused.value.errors) == 100
    assert log.rejected[0][2] == refused.value.errors


@pytest.mark.parametrize(
    "failure", [SourceUnavailable("secret path"), JournalDamaged("secret path")]
)
def test_a_failing_journal_is_503_without_internal_details(failure: EventError) -> None:
    with pytest.raises(RequestRefused) as refused:
        taken(Log(failure), state_event())
    assert refused.value.status == 503
    assert refused.value.headers["retry-after"]
    assert "secret" not in refused.value.detail


def test_a_rejection_that_cannot_be_kept_is_still_a_rejection() -> None:
    with pytest.raises(RequestRefused) as refused:
        taken(Log(SourceUnavailable("no space")), {})
    assert refused.value.status == 400

"""Every answer of the intake, over a real socket, with a real journal."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon.http.app import RequestLimits
from daemon.http.auth import Credentials
from events.journal import Journal, JournalLimits
from events.model import Outcome, OutcomeKind
from events.records import Accepted
from tests.support.journals import next_of
from tests.unit.daemon.http.service import (
    BATCH,
    NO_CREDENTIALS,
    ROLLBACK,
    STRUCTURED,
    TOKEN,
    Service,
    bearer,
    rollback_event,
    run,
    running,
    state_event,
)


async def send(service: Service, event: Any, token: str = TOKEN, **headers: str) -> httpx.Response:
    kind = BATCH if isinstance(event, list) else STRUCTURED
    return await service.client.post(
        "/v1/events", json=event, headers=kind | bearer(token) | headers
    )


def problem(response: httpx.Response, status: int, reason: str) -> dict[str, Any]:
    body = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, body["status"], body["type"]) == (
        status,
        status,
        f"urn:rebundle:problem:{reason}",
    ), body
    assert body["title"]
    assert body["detail"]
    return dict(body)


def test_an_event_is_durable_before_it_is_accepted_and_recognised_the_second_time(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            first, again = await send(service, state_event()), await send(service, state_event())
            assert (first.status_code, again.status_code) == (202, 202)
            (new,), (known,) = first.json()["events"], again.json()["events"]
            assert new == known | {"known": False}
            assert known["known"] is True
            assert (new["id"], new["source"]) == (state_event()["id"], state_event()["source"])
            delivery = await next_of(service.journal)
            assert f"{delivery.position.instance}@{delivery.position.offset}" == new["position"]
            assert delivery.event.data == state_event()["data"]
            assert delivery.scopes == ("visual-anomaly/core-versions",)
            assert delivery.identity.intake == "http"
            assert service.counted("rebundle_events_accepted_total") == {
                ("http", state_event()["type"]): 1
            }

    run(scenario())


def test_the_binary_mode_is_accepted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            event = state_event()
            data = event.pop("data")
            headers = {f"ce-{name}": value for name, value in event.items()} | bearer()
            response = await service.client.post("/v1/events", json=data, headers=headers)
            assert response.status_code == 202
            assert (await next_of(service.journal)).event.id == event["id"]

    run(scenario())


def test_a_batch_is_accepted_as_a_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            response = await send(service, [state_event(1), state_event(2)])
            assert [event["id"] for event in response.json()["events"]] == [
                state_event(1)["id"],
                state_event(2)["id"],
            ]
            assert await service.backlog() == 2

    run(scenario())


def test_a_batch_with_one_bad_event_keeps_nothing_and_names_every_problem(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            bad = state_event(2)
            bad["data"]["models"][1]["artifact"]["uri"] = "ftp://x"
            bad["data"]["state"]["revision"] = 0
            response = await send(service, [state_event(1), bad])
            body = problem(response, 400, "invalid")
            assert {error["path"] for error in body["errors"]} == {
                "$[1].data.models[1].artifact.uri",
                "$[1].data.state.revision",
            }
            assert all(error["expected"] and "found" in error for error in body["errors"])
            assert await service.backlog() == 0
            (kept,) = await service.journal.rejected()
            assert (kept.intake, len(kept.problems)) == ("http", 2)
            assert json.loads(kept.body)[0]["id"] == state_event(1)["id"]

    run(scenario())


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"\xff", b'{"a":1,"a":2}', b"[" * 5000, b"null", b'{"id":"x"}']
)
def test_a_body_that_is_not_an_event_is_400_and_kept_as_rejected(
    tmp_path: Path, body: bytes
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            response = await service.client.post(
                "/v1/events", content=body, headers=STRUCTURED | bearer()
            )
            assert problem(response, 400, "invalid")["errors"]
            assert [kept.body for kept in await service.journal.rejected()] == [body]

    run(scenario())


@pytest.mark.parametrize(
    "headers",
    [{}, {"content-type": "text/plain"}, {"content-type": "application/cloudevents+avro"}],
)
def test_another_content_type_is_415(tmp_path: Path, headers: dict[str, str]) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            response = await service.client.post(
                "/v1/events", content=b"x", headers=headers | bearer()
            )
            problem(response, 415, "media-type")

    run(scenario())


def test_a_known_id_with_different_content_is_409_and_names_the_event(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            await send(service, state_event(1))
            other = state_event(2, id=state_event(1)["id"])
            unknown = {**state_event(3), "type": "io.rebundle.later.v9", "id": "unknown"}
            body = problem(await send(service, [unknown, state_event(4), other]), 409, "conflict")
            assert body["errors"][0]["path"] == "$[2].id"
            assert await service.backlog() == 1
            assert len(await service.journal.rejected()) == 1
            alone = problem(await send(service, other), 409, "conflict")
            assert alone["errors"][0]["path"] == "$.id"
            advice = f"send new content under a new id; `rebundle status {other['id']}` shows the status of the first event"
            assert alone["detail"].endswith(advice)

    run(scenario())


def test_an_unknown_type_is_202_ignored_counted_and_not_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            response = await send(service, state_event(type="io.rebundle.later.v9"))
            (event,) = response.json()["events"]
            assert response.status_code == 202
            assert event["position"] is None
            assert (event["ignored"], event["nearest_type"]) == (True, None)
            assert await service.backlog() == 0
            assert service.counted("rebundle_events_accepted_total") == {("http", "other"): 1}

    run(scenario())


def test_a_type_with_a_typing_error_is_answered_with_the_nearest_known_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            response = await send(service, state_event(type="io.rebundle.bundle_state.create.v1"))
            (event,) = response.json()["events"]
            assert (event["ignored"], event["nearest_type"]) == (
                True,
                "io.rebundle.bundle_state.created.v1",
            )
            (taken,) = (await send(service, state_event())).json()["events"]
            assert (taken["ignored"], taken["nearest_type"]) == (False, None)

    run(scenario())


def test_a_rollback_request_needs_its_own_token(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            refused = problem(await send(service, rollback_event()), 403, "forbidden")
            assert "http.rollback_token_file" in refused["detail"]
            assert await service.backlog() == 0
            assert (await send(service, rollback_event(), ROLLBACK)).status_code == 202
            problem(await send(service, state_event(), ROLLBACK), 403, "forbidden")
            problem(
                await send(service, [rollback_event(), state_event()], ROLLBACK), 403, "forbidden"
            )
            assert await service.backlog() == 1

    run(scenario())


def test_a_rollback_request_is_refused_where_no_rollback_token_is_configured(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, credentials=NO_CREDENTIALS) as service:
            response = await service.client.post(
                "/v1/events", json=rollback_event(), headers=STRUCTURED
            )
            assert "http.rollback_token_file" in problem(response, 403, "forbidden")["detail"]

    run(scenario())


ROUTES = [("POST", "/v1/events"), ("GET", "/v1/events/some-id"), ("GET", "/v1/openapi.json")]
WRONG: dict[str, list[tuple[str, str]]] = {
    "nothing": [],
    "another token": [("authorization", "Bearer token-of-somebody-else")],
    "an empty token": [("authorization", "Bearer")],
    "another scheme": [("authorization", f"Basic {TOKEN}")],
    "no scheme": [("authorization", TOKEN)],
    "twice": [("authorization", f"Bearer {TOKEN}"), ("authorization", f"Bearer {TOKEN}")],
    "in another header": [("x-authorization", f"Bearer {TOKEN}")],
    "a prefix": [("authorization", f"Bearer {TOKEN[:-1]}")],
}


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_without_a_valid_token_every_path_is_refused(
    tmp_path: Path, headers: list[tuple[str, str]]
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            for method, path in ROUTES:
                response = await service.client.request(method, path, headers=headers)
                problem(response, 401, "unauthorized")
                assert response.headers["www-authenticate"].startswith("Bearer")
            assert await service.journal.rejected() == ()

    run(scenario())


def test_every_path_is_either_named_open_or_authorised(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            document = (await service.client.get("/v1/openapi.json", headers=bearer())).json()
            described = {
                (method.upper(), path)
                for path, methods in document["paths"].items()
                for method in methods
            }
            opened = {("GET", path) for path in ("/livez", "/readyz", "/attention", "/metrics")}
            assert described == opened | {("POST", "/v1/events"), ("GET", "/v1/events/{event_id}")}
            for method, path in opened:
                assert (await service.client.request(method, path)).status_code == 200
            for path in ("/docs", "/redoc", "/openapi.json", "/", "/v1", "/v1/event"):
                problem(await service.client.get(path), 404, "not-found")
            problem(
                await service.client.delete("/v1/events", headers=bearer()),
                405,
                "method-not-allowed",
            )

    run(scenario())


def test_the_schema_of_an_event_report_is_the_documented_one(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            document = (await service.client.get("/v1/openapi.json", headers=bearer())).json()
            stored = Path(__file__).parents[3] / "data" / "documents" / "openapi_events.json"
            for name, schema in json.loads(stored.read_text()).items():
                assert document["components"]["schemas"][name] == schema

    run(scenario())


LOCAL = STRUCTURED
AWAY: dict[str, dict[str, str]] = {
    "a rebound name": {"host": "evil.example.com"},
    "a name that starts well": {"host": "127.0.0.1.evil.example.com"},
    "through a proxy": {"x-forwarded-for": "203.0.113.7"},
    "from a page": {"origin": "https://evil.example.com"},
    "from a page of no origin": {"sec-fetch-site": "cross-site"},
    "with a token nobody configured": {"authorization": f"Bearer {TOKEN}"},
}


@pytest.mark.parametrize("headers", AWAY.values(), ids=AWAY)
def test_without_configured_tokens_only_loopback_is_authorised(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, credentials=NO_CREDENTIALS) as service:
            refused = await service.client.post(
                "/v1/events", json=state_event(), headers=LOCAL | headers
            )
            assert refused.status_code in {401, 403}
            assert await service.backlog() == 0
            for host in (f"127.0.0.1:{service.port}", "localhost", "LOCALHOST:1", "[::1]:8420"):
                taken = await service.client.post(
                    "/v1/events", json=state_event(), headers=LOCAL | {"host": host}
                )
                assert taken.status_code == 202, host

    run(scenario())


def test_with_only_a_rollback_token_events_come_only_from_loopback(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, credentials=Credentials(rollback_token=ROLLBACK)) as service:
            assert (await send(service, rollback_event(), ROLLBACK)).status_code == 202
            assert (
                await service.client.post("/v1/events", json=state_event(), headers=LOCAL)
            ).status_code == 202

    run(scenario())


SMALL = RequestLimits(max_body_bytes=2048)


async def _chunks(count: int) -> Any:
    for _ in range(count):
        yield b"x" * 1024


def test_a_body_above_the_limit_is_413_declared_or_not(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, limits=SMALL) as service:
            headers = STRUCTURED | bearer()
            declared = await service.client.post("/v1/events", content=b"x" * 2049, headers=headers)
            assert "2048 bytes" in problem(declared, 413, "too-large")["detail"]
            undeclared = await service.client.post(
                "/v1/events", content=_chunks(3), headers=headers
            )
            problem(undeclared, 413, "too-large")
            at_the_limit = await service.client.post(
                "/v1/events", content=b"x" * 2048, headers=headers
            )
            problem(at_the_limit, 400, "invalid")
            assert len(await service.journal.rejected()) == 1

    run(scenario())


def test_a_client_that_asks_first_sends_no_body_that_is_too_large(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, limits=SMALL, idle_seconds=0.2) as service:
            head = _head({"content-length": "999999999", "expect": "100-continue"})
            answer = await service.raw(head)
            assert answer.startswith(b"HTTP/1.1 413 ")
            assert b"100 Continue" not in answer

    run(scenario())


def _head(headers: dict[str, str], token: str = TOKEN) -> bytes:
    fields = {"host": "127.0.0.1"} | STRUCTURED | bearer(token) | headers
    return "\r\n".join(
        ["POST /v1/events HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]
    ).encode()


def test_a_stalled_body_is_408_and_its_connection_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, limits=RequestLimits(body_seconds=0.2)) as service:
            answer = await service.raw(_head({"content-length": "1000"}) + b'{"id"')
            assert answer.startswith(b"HTTP/1.1 408 ")
            assert b"problem:too-slow" in answer
            assert service.counted("rebundle_events_rejected_total") == {("http", "too-slow"): 1}

    run(scenario())


def test_a_client_that_disconnects_in_its_body_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(
            tmp_path, limits=RequestLimits(max_requests=1, body_seconds=60)
        ) as service:
            await service.raw(_head({"content-length": "1000"}) + b'{"id"', finish=True)
            await service.requests.all_ended(1)
            assert (await send(service, state_event())).status_code == 202
            assert await service.journal.rejected() == ()
            assert service.counted("rebundle_events_rejected_total") == {("http", "gone"): 1}

    run(scenario())


def test_a_full_journal_is_503_with_retry_after(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path, journal_limits=JournalLimits(max_unacknowledged=1)) as service:
            assert (await send(service, state_event(1))).status_code == 202
            response = await send(service, state_event(2))
            problem(response, 503, "journal-full")
            assert 5 <= int(response.headers["retry-after"]) <= 30
            assert (await send(service, state_event(1))).status_code == 202
            assert await service.journal.rejected() == ()

    run(scenario())


def test_a_stopping_daemon_is_503_with_retry_after(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            service.stop.request("SIGTERM")
            response = await send(service, state_event())
            problem(response, 503, "stopping")
            assert response.headers["retry-after"] == "20"
            ready = await service.client.get("/readyz")
            assert (ready.status_code, ready.json()["ready"]) == (503, False)
            assert (await service.client.get("/livez")).status_code == 200
            assert await service.backlog() == 0

    run(scenario())


class Held:
    """A journal whose appends wait until the test releases them."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()

    async def append(self, arrivals: Any, /) -> list[Accepted]:
        self.arrived.set()
        await self.go_on.wait()
        return await self._journal.append(arrivals)

    async def reject(self, intake: str, body: bytes, problems: Any, /) -> None:
        await self.go_on.wait()
        await self._journal.reject(intake, body, problems)

    async def find(self, event_id: str, /) -> Any:
        return await self._journal.find(event_id)


def test_requests_beyond_the_concurrent_slots_are_503(tmp_path: Path) -> None:
    async def scenario() -> None:
        held: list[Held] = []

        def hold(journal: Journal) -> Held:
            held.append(Held(journal))
            return held[0]

        async with running(tmp_path, limits=RequestLimits(max_requests=1), log=hold) as service:
            first = asyncio.create_task(send(service, state_event(1)))
            await held[0].arrived.wait()
            second = await send(service, state_event(2))
            problem(second, 503, "busy")
            assert second.headers["retry-after"]
            held[0].go_on.set()
            assert (await first).status_code == 202
            assert (await send(service, state_event(2))).status_code == 202

    run(scenario())


def test_a_journal_that_hangs_is_503_and_a_rejection_that_cannot_be_kept_is_still_400(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, log=Held, journal_seconds=0.1) as service:
            hung = await send(service, state_event())
            problem(hung, 503, "journal-slow")
            assert hung.headers["retry-after"]
            problem(await send(service, {}), 400, "invalid")

    run(scenario())


class Broken(Held):
    async def append(self, arrivals: Any, /) -> list[Accepted]:
        raise ZeroDivisionError("secret detail of ours")


def test_a_programming_error_is_500_without_a_traceback_and_the_next_request_is_served(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path, log=Broken) as service:
            body = problem(await send(service, state_event()), 500, "internal")
            assert "secret detail" not in str(body)
            problem(
                await service.client.get("/v1/events/x", headers=bearer()), 404, "unknown-event"
            )

    run(scenario())


def test_the_status_of_an_event_can_be_queried(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            await send(service, state_event())
            path = f"/v1/events/{state_event()['id']}"
            problem(
                await service.client.get("/v1/events/unheard-of", headers=bearer()),
                404,
                "unknown-event",
            )
            (waiting,) = (await service.client.get(path, headers=bearer(ROLLBACK))).json()["events"]
            (lane,) = waiting["scopes"]
            assert (waiting["acknowledged_at"], lane["scope"], lane["outcome"]) == (
                None,
                "visual-anomaly/core-versions",
                None,
            )
            delivery = await next_of(service.journal)
            outcome = Outcome(OutcomeKind.PUBLISHED, "it was new", "state-1")
            await service.journal.settle(
                "visual-anomaly/core-versions", {delivery.position: outcome}
            )
            escaped = path.replace("core-versions/", "core-versions%2F")
            (settled,) = (await service.client.get(escaped, headers=bearer())).json()["events"]
            assert settled["acknowledged_at"]
            assert settled["type"] == state_event()["type"]
            (lane,) = settled["scopes"]
            assert (lane["outcome"], lane["reason"], lane["state"]) == (
                "published",
                "it was new",
                "state-1",
            )

    run(scenario())


def test_a_large_state_is_accepted(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            event = state_event()
            model = event["data"]["models"][0]
            event["data"]["models"] = [model | {"id": f"m{index}"} for index in range(500)]
            assert len(json.dumps(event)) > 64 << 10
            assert (await send(service, event)).status_code == 202

    run(scenario())


def test_an_unknown_field_does_not_make_it_another_event(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            event = state_event()
            await send(service, event)
            event["data"]["unknown"] = "stays in the event, enters no digest"
            (again,) = (await send(service, event)).json()["events"]
            assert again["known"] is True
            assert again["ignored_fields"] == ["$.data.unknown"]

    run(scenario())


def test_an_unknown_field_inside_serving_is_400_with_its_path_and_the_nearest_one(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            event = state_event()
            event["data"]["models"][0]["serving"]["gpus"] = 1
            (error,) = problem(await send(service, event), 400, "invalid")["errors"]
            assert error["path"] == "$.data.models[0].serving.gpus"
            assert "did you mean gpu?" in error["expected"]
            assert await service.backlog() == 0

    run(scenario())

"""`rebundle send`: sends events from a file to a daemon, and waits for their outcome."""

import json

import pytest

from daemon.cli.client import DaemonClient
from daemon.cli.commands.send import read_events, requests, wait_for
from daemon.cli.failures import DaemonUnreachable
from events.dialects.cloudevents import BATCH, STRUCTURED
from tests.support.scripted_http import says, server

SOURCE = "https://registry.example.com/"


def event(number, kind="io.rebundle.bundle_state.created.v1", **data):
    return {
        "specversion": "1.0",
        "id": f"e{number}",
        "source": SOURCE,
        "type": kind,
        "data": {"n": number} | data,
    }


def write_events(tmp_path, *events):
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def accepting(handler):
    """Accepts everything, like the daemon."""
    body = json.loads(handler.received)
    taken = body if isinstance(body, list) else [body]
    known = [
        {"id": e["id"], "source": e["source"], "position": f"j@{e['id']}", "known": e["id"] == "e2"}
        for e in taken
    ]
    says(202, json.dumps({"events": known}).encode())(handler)


def test_one_event_is_sent_alone_and_several_as_a_batch(tmp_path, rebundle):
    with server(accepting) as (url, seen):
        one = rebundle("send", write_events(tmp_path, event(1)), "--to", url)
        three = rebundle(
            "send", write_events(tmp_path, event(1), event(2), event(3)), "--to", url, "-o", "json"
        )

    assert (one.code, three.code) == (0, 0)
    assert [request[2]["Content-Type"] for request in seen] == [STRUCTURED, BATCH]
    assert [load["id"] for load in json.loads(seen[1][3])] == ["e1", "e2", "e3"]
    assert [receipt["known"] for receipt in three.json["events"]] == [False, True, False]
    assert "accepted" in one.out


def test_many_events_are_sent_in_order_in_requests_of_a_hundred(tmp_path):
    sent = read_events(str(write_events(tmp_path, *(event(number) for number in range(250)))))

    assert [len(request) for request in requests(sent)] == [100, 100, 50]
    assert [delivery.event.id for request in requests(sent) for delivery in request] == [
        f"e{n}" for n in range(250)
    ]


def test_large_events_share_a_request_only_up_to_its_byte_limit(tmp_path):
    sent = read_events(
        str(write_events(tmp_path, *(event(number, big="x" * 300_000) for number in range(3))))
    )

    assert [len(request) for request in requests(sent)] == [1, 1, 1]


def test_rollback_requests_are_sent_separately_with_their_own_token(tmp_path):
    kinds = ["a", "io.rebundle.bundle.rollback_requested.v1", "b", "c"]
    sent = read_events(
        str(write_events(tmp_path, *(event(n, kind) for n, kind in enumerate(kinds))))
    )

    assert [[delivery.event.id for delivery in request] for request in requests(sent)] == [
        ["e0"],
        ["e1"],
        ["e2", "e3"],
    ]


def test_each_kind_is_sent_with_its_token_from_the_settings(tmp_path, rebundle, monkeypatch):
    monkeypatch.setenv("REBUNDLE_HTTP__TOKEN", "publishing-token-0123")
    monkeypatch.setenv("REBUNDLE_HTTP__ROLLBACK_TOKEN", "rolling-back-token-0123")
    events = write_events(tmp_path, event(1), event(3, "io.rebundle.bundle.rollback_requested.v1"))

    with server(accepting) as (url, seen):
        monkeypatch.setenv("REBUNDLE_HTTP__LISTEN", url.removeprefix("http://"))
        assert rebundle("send", events).code == 0
        assert rebundle("send", events, "--to", url).code == 0
        (tmp_path / "token").write_text("another-token-0123456\n")
        assert rebundle("send", events, "--to", url, "--token-file", tmp_path / "token").code == 0

    sent = [request[2].get("Authorization", "none").removeprefix("Bearer ") for request in seen]
    assert sent == [
        "publishing-token-0123",
        "rolling-back-token-0123",
        "none",
        "none",
        "another-token-0123456",
        "another-token-0123456",
    ]


def test_a_faulty_envelope_is_reported_with_file_line_and_path_and_nothing_is_sent(
    tmp_path, rebundle
):
    path = write_events(tmp_path, event(1), event(2) | {"id": ""})

    with server(accepting) as (url, seen):
        result = rebundle("send", path, "--to", url)

    assert (result.code, seen) == (1, [])
    assert f"{path}: line 2 $.id: must be text" in result.err


def test_a_rejection_names_the_events_of_the_file_and_what_was_accepted(tmp_path, rebundle):
    problem = {"path": "$[1].data.models", "expected": "is required", "found": ""}
    document = {
        "detail": "nothing was kept",
        "errors": [problem, {"path": "$", "expected": "x", "found": "y"}],
    }
    events = write_events(
        tmp_path, event(1, "io.rebundle.bundle.rollback_requested.v1"), event(2), event(3)
    )

    def first_only(handler):
        if isinstance(json.loads(handler.received), list):
            says(400, json.dumps(document).encode())(handler)
        else:
            accepting(handler)

    with server(first_only) as (url, _):
        result = rebundle("send", events, "--to", url, "-o", "json")

    assert result.code == 1
    assert [item["id"] for item in result.json["events"]] == ["e1"]
    assert "1 of 3 events were accepted" in result.err
    assert f"{events} event 3: $.data.models: is required" in result.err
    assert "$: x (found y)" in result.err


@pytest.mark.parametrize(
    ("status", "code"), [(400, 1), (403, 4), (409, 4), (413, 1), (500, 6), (502, 6), (503, 6)]
)
def test_every_refusal_has_its_exit_code(tmp_path, rebundle, status, code):
    with server(says(status, b'{"detail": "because"}', retry_after="7")) as (url, _):
        result = rebundle("send", write_events(tmp_path, event(1)), "--to", url)

    assert result.code == code
    assert "because" in result.err
    assert ("try again in 7 s" in result.err) == (status == 503)


@pytest.mark.parametrize("nearest", ["io.rebundle.bundle_state.created.v1", None])
def test_an_event_of_an_unknown_type_is_a_failure_that_names_the_nearest_type(
    tmp_path, rebundle, nearest
):
    def ignoring(handler):
        event = {
            "id": "e1",
            "source": "s",
            "position": None,
            "known": False,
            "ignored": True,
            "nearest_type": nearest,
        }
        says(202, json.dumps({"events": [event]}).encode())(handler)

    with server(ignoring) as (url, _):
        for more in ((), ("--wait",)):
            result = rebundle(
                "send", write_events(tmp_path, event(1, "io.rebundle.typo")), "--to", url, *more
            )
            assert (result.code, "ignored" in result.out) == (1, True)
            assert "1 of 1 events have an unknown type" in result.err
            assert (
                f"did you mean {nearest}?" if nearest else "docs/events.md lists the types"
            ) in result.err


def test_a_missing_token_is_reported_with_how_to_set_one(tmp_path, rebundle):
    with server(says(401, b'{"detail": "send the header"}')) as (url, _):
        without = rebundle("send", write_events(tmp_path, event(1)), "--to", url)
        (tmp_path / "token").write_text("wrong")
        wrong = rebundle(
            "send",
            write_events(tmp_path, event(1)),
            "--to",
            url,
            "--token-file",
            tmp_path / "token",
        )

    assert (without.code, "pass --token-file FILE" in without.err) == (4, True)
    assert (wrong.code, "send the header" in wrong.err) == (4, True)


@pytest.mark.parametrize(
    "body", [b"hello", b'{"events": []}', b'{"events": 1}', b'{"events": [1]}']
)
def test_an_answer_of_another_server_is_not_a_success(tmp_path, rebundle, body):
    with server(says(202, body)) as (url, _):
        assert rebundle("send", write_events(tmp_path, event(1)), "--to", url).code == 6


def test_without_a_file_it_is_a_usage_error(rebundle):
    assert rebundle("send").code == 2


def report(position, acknowledged_at, *outcomes, source=SOURCE):
    scopes = [{"scope": "a/b", "outcome": outcome, "reason": "why"} for outcome in outcomes]
    return {
        "source": source,
        "position": position,
        "acknowledged_at": acknowledged_at,
        "scopes": scopes,
    }


class Clock:
    def __init__(self):
        self.now = 0.0
        self.slept = []

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self):
        return self.now


def answers(*documents):
    left = list(documents)

    def answer(handler):
        document = left.pop(0) if len(left) > 1 else left[0]
        status = 503 if document is None else 200
        says(status, json.dumps({"events": document or []}).encode())(handler)

    return answer


def test_waiting_polls_with_growing_delays_until_the_event_is_acknowledged():
    clock = Clock()
    waiting, done = report("j@1", None), report("j@1", "2026-11-22T10:00:00Z", "published")

    with server(answers([waiting], None, [report("other", None, source="another"), done])) as (
        url,
        seen,
    ):
        (view,) = wait_for(
            DaemonClient(url),
            [{"id": "e/1 ?", "source": SOURCE, "position": "j@1"}],
            60,
            clock=clock,
            sleep=clock.sleep,
        )

    assert (view["acknowledged_at"], view["scopes"][0]["outcome"]) == (
        "2026-11-22T10:00:00Z",
        "published",
    )
    assert clock.slept == [0.25, 0.5]
    assert seen[0][1] == "/v1/events/e%2F1%20%3F"


def test_waiting_ends_at_its_limit():
    clock = Clock()

    with server(answers([report("j@1", None)])) as (url, _):
        (view,) = wait_for(
            DaemonClient(url),
            [{"id": "e1", "source": SOURCE, "position": "j@1"}],
            3,
            clock=clock,
            sleep=clock.sleep,
        )

    assert view["acknowledged_at"] is None


def test_an_event_that_went_to_no_scope_has_an_outcome_in_words(tmp_path, rebundle):
    def taken_without_scopes(handler):
        if handler.command == "POST":
            accepting(handler)
        else:
            done = report("j@e1", "2026-11-30T12:00:00Z")
            says(200, json.dumps({"events": [done | {"scopes": []}]}).encode())(handler)

    with server(taken_without_scopes) as (url, _):
        result = rebundle("send", write_events(tmp_path, event(1)), "--to", url, "--wait")

    assert (result.code, "no scope had its model" in result.out) == (0, True)


def test_a_timeout_names_the_command_that_shows_why_the_event_still_waits(tmp_path, rebundle):
    def taken_then_waiting(handler):
        if handler.command == "POST":
            accepting(handler)
        else:
            says(200, json.dumps({"events": [report("j@e1", None)]}).encode())(handler)

    with server(taken_then_waiting) as (url, _):
        events = write_events(tmp_path, event(1))
        result = rebundle("send", events, "--to", url, "--wait", "--timeout", "0")

    assert (result.code, "still waiting" in result.out) == (1, True)
    assert "1 of 1 events have no outcome after 0 s" in result.err
    assert "`rebundle status e1` shows why" in result.err


def test_an_event_of_an_unknown_type_is_not_waited_for():
    (view,) = wait_for(
        DaemonClient("http://127.0.0.1:1"), [{"id": "e1", "position": None, "ignored": True}], 3
    )

    assert view["acknowledged_at"] == "never"


def test_a_daemon_that_has_forgotten_the_event_is_an_error():
    with (
        server(answers([])) as (url, _),
        pytest.raises(DaemonUnreachable, match="no longer knows it"),
    ):
        wait_for(DaemonClient(url), [{"id": "e1", "source": SOURCE, "position": "j@1"}], 3)


def test_the_outcome_of_a_scope_is_that_of_the_newest_replay():
    failed = report("j@1", "2026-11-22T10:00:00Z", "dead-lettered")
    replayed = report("j@2", "2026-11-22T11:00:00Z", "published")

    with server(answers([failed, replayed])) as (url, _):
        (view,) = wait_for(
            DaemonClient(url), [{"id": "e1", "source": SOURCE, "position": "j@1"}], 3
        )

    assert [scope["outcome"] for scope in view["scopes"]] == ["published"]
    assert view["acknowledged_at"] == "2026-11-22T11:00:00Z"


def test_an_event_is_found_after_the_journal_took_a_new_instance():
    done = report("other@1", "2026-11-22T10:00:00Z", "published")

    with server(answers([done])) as (url, _):
        (view,) = wait_for(
            DaemonClient(url), [{"id": "e1", "source": SOURCE, "position": "j@1"}], 3
        )

    assert view["acknowledged_at"] == "2026-11-22T10:00:00Z"


def test_a_daemon_that_restarts_is_waited_for():
    clock = Clock()
    with server(answers([])) as (url, _):
        pass  # it no longer listens

    with pytest.raises(DaemonUnreachable, match="does not answer"):
        wait_for(
            DaemonClient(url),
            [{"id": "e1", "source": SOURCE, "position": "j@1"}],
            1,
            clock=clock,
            sleep=clock.sleep,
        )

    assert clock.slept == [0.25, 0.5, 0.25], "until the limit, and no longer"


def outcomes_of(tmp_path, rebundle, *scopes):
    def settled(handler):
        if handler.command == "POST":
            accepting(handler)
        else:
            done = report("j@e1", "2026-11-30T12:00:00Z") | {"scopes": list(scopes)}
            says(200, json.dumps({"events": [done]}).encode())(handler)

    with server(settled) as (url, _):
        return rebundle("send", write_events(tmp_path, event(1)), "--to", url, "--wait").out


def test_scopes_with_the_same_outcome_are_listed_together(tmp_path, rebundle):
    published = [
        {"scope": f"a/{n}", "outcome": "published", "reason": f"published as {n}"} for n in range(4)
    ]
    ignored = [{"scope": f"b/{n}", "outcome": "ignored", "reason": "no model"} for n in range(2)]
    dead = [{"scope": "c/1", "outcome": "dead-lettered", "reason": "why", "dead_letter": "7"}]

    out = outcomes_of(tmp_path, rebundle, *published, *ignored, *dead)

    assert "published in 4 scopes; ignored in b/0, b/1 (no model); " in out
    assert "dead-lettered in c/1 as dead letter 7 (why)" in out
    assert "published in a/0 (published as 0)" in outcomes_of(tmp_path, rebundle, published[0])


@pytest.mark.parametrize("timeout", ["nan", "-1"])
def test_a_timeout_that_is_no_time_is_a_usage_error(tmp_path, rebundle, timeout):
    result = rebundle("send", write_events(tmp_path, event(1)), "--wait", "--timeout", timeout)

    assert (result.code, "--timeout must be a number of seconds" in result.err) == (2, True)


def waited(handlers):
    """The view of an event after a wait for a daemon that answers so, in order."""
    left, clock = list(handlers), Clock()

    def next_answer(handler):
        left.pop(0)(handler)

    with server(next_answer) as (url, _):
        (view,) = wait_for(
            DaemonClient(url),
            [{"id": "e1", "source": SOURCE, "position": "j@1"}],
            3,
            clock=clock,
            sleep=clock.sleep,
        )
    assert not left
    return view


def settled(handler):
    done = report("j@1", "2026-11-22T10:00:00Z", "published")
    says(200, json.dumps({"events": [done]}).encode())(handler)


def breaks_off(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"ev')
    handler.close_connection = True


@pytest.mark.parametrize(
    "restarting", [*(says(status, b"") for status in (429, 500, 502, 503, 504)), breaks_off]
)
def test_an_answer_of_a_daemon_that_restarts_is_waited_out(restarting):
    assert waited([restarting, settled])["acknowledged_at"] == "2026-11-22T10:00:00Z"


@pytest.mark.parametrize(
    "document",
    [
        {"events": None},
        {"events": {}},
        {"events": ["e1"]},
        {"events": [{"source": SOURCE, "scopes": None}]},
        {"events": [{"source": SOURCE, "scopes": ["a/b"]}]},
        {"events": [{"source": SOURCE, "scopes": [{"scope": None, "outcome": "published"}]}]},
        {"events": [{"source": SOURCE, "scopes": [{"scope": "a/b", "outcome": 1}]}]},
        {"events": [{"source": SOURCE, "scopes": [{"scope": "a", "outcome": None, "reason": []}]}]},
        [],
    ],
)
def test_an_answer_of_another_form_is_no_report(document):
    with pytest.raises(DaemonUnreachable, match="unexpected answer"):
        waited([says(200, json.dumps(document).encode())])


def test_dead_letters_are_listed_whatever_their_number(tmp_path, rebundle):
    dead = [
        {"scope": f"a/{n}", "outcome": "dead-lettered", "reason": "why", "dead_letter": str(n)}
        for n in range(5)
    ]

    out = outcomes_of(tmp_path, rebundle, *dead)

    assert "dead-lettered in a/0 as dead letter 0, a/1 as dead letter 1, " in out


def test_unknown_fields_are_named_with_the_place_of_their_event(tmp_path, rebundle):
    def reporting(handler):
        said = [
            {
                "id": event["id"],
                "source": SOURCE,
                "position": "j@1",
                "known": False,
                "ignored_fields": ["$.data.owner"] if event["id"] == "e2" else [],
            }
            for event in json.loads(handler.received)
        ]
        says(202, json.dumps({"events": said}).encode())(handler)

    path = write_events(tmp_path, event(1), event(2))
    with server(reporting) as (url, _):
        text = rebundle("send", path, "--to", url)
        document = rebundle("send", path, "--to", url, "-o", "json")

    assert (text.code, document.code) == (0, 0)
    assert f"{path} event 2: these fields are unknown and have no effect: $.data.owner" in text.err
    assert "event 1" not in text.err
    assert [sent["ignored_fields"] for sent in document.json["events"]] == [[], ["$.data.owner"]]


def test_of_many_events_with_unknown_fields_only_some_are_named(tmp_path, rebundle):
    def reporting(handler):
        said = [
            {"id": event["id"], "position": "j@1", "known": False, "ignored_fields": ["$.data.a"]}
            for event in json.loads(handler.received)
        ]
        says(202, json.dumps({"events": said}).encode())(handler)

    with server(reporting) as (url, _):
        result = rebundle("send", write_events(tmp_path, *map(event, range(23))), "--to", url)

    assert result.err.count("have no effect") == 20
    assert "3 more events have unknown fields" in result.err

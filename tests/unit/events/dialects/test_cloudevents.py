"""Decoding CloudEvents (structured, binary, batches, files), with every problem at its path."""

import contextlib
import json
import string
from functools import partial

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from events.dialects.cloudevents import (
    BATCH,
    STRUCTURED,
    DecodingLimits,
    decode_http,
    decode_many,
    decode_structured,
)
from events.errors import InvalidEvent, Problem, UnsupportedContentType
from events.model import Event
from events.strict_json import MAX_PROBLEMS

ENVELOPE = {
    "specversion": "1.0",
    "id": "visual-anomaly/edge/state-0042",
    "type": "io.rebundle.bundle_state.created.v1",
    "source": "https://registry.example.com/",
    "data": {"a": [1, "ü"]},
}


def http(content_type, body, *headers):
    given = [(b"content-type", content_type.encode()), *headers]
    return decode_http(given, body if isinstance(body, bytes) else json.dumps(body).encode())


def binary(*, body=b"{}", without=(), **attributes):
    given = {"specversion": "1.0", "id": "1", "type": "t", "source": "urn:x"} | attributes
    headers = [
        (f"ce-{name}".encode(), value.encode())
        for name, value in given.items()
        if name not in without
    ]
    return http("application/json", body, *headers)


def problems(call, *args, **kwargs):
    with pytest.raises(InvalidEvent) as caught:
        call(*args, **kwargs)
    return {problem.path: problem.expected for problem in caught.value.problems}


def with_attributes(**attributes):
    return json.dumps(ENVELOPE | attributes).encode()


def test_a_structured_event_is_decoded_whole():
    decoded = http(
        f"{STRUCTURED}; charset=UTF-8",
        with_attributes(
            subject="s", time="2026-11-22T10:00:00Z", partitionkey="k", retries=3, traced=True
        ),
    )
    assert decoded.batch is False
    assert decoded.events == (
        Event(
            id=ENVELOPE["id"],
            source=ENVELOPE["source"],
            type=ENVELOPE["type"],
            data=ENVELOPE["data"],
            subject="s",
            time="2026-11-22T10:00:00Z",
            extensions={"partitionkey": "k", "retries": 3, "traced": True},
        ),
    )


def test_a_null_attribute_is_not_set():
    event = decode_structured(with_attributes(subject=None, time=None, partitionkey=None))
    assert (event.subject, event.time, event.extensions) == (None, None, {})


def test_an_event_round_trips_through_its_structured_form():
    event = decode_structured(
        with_attributes(subject="s", time="2026-11-22T10:00:00+01:00", partitionkey="k")
    )
    assert decode_structured(event.structured()) == event


def test_a_binary_event_is_unquoted_and_percent_decoded_once():
    decoded = binary(id='"a\\"%2525 b"', subject="%C3%A4%F0%9F%98%80", body=b'{"a":1}')
    [event] = decoded.events
    assert decoded.batch is False
    assert (event.id, event.subject, event.data) == ('a"%25 b', "ä\U0001f600", {"a": 1})


@pytest.mark.parametrize(
    ("given", "read"),
    [('a"', 'a"'), ('"a', '"a'), ('"', '"'), (' \t"a b" \t', "a b"), (" a ", "a"), ('"\\""', '"')],
)
def test_a_header_is_unquoted_only_if_it_is_quoted_on_both_sides(given, read):
    assert binary(id=given).events[0].id == read


def test_a_header_of_quotes_alone_is_empty():
    assert list(problems(binary, subject='""')) == ["$.subject"]


def test_header_names_are_read_in_any_case():
    headers = [
        (b"Content-Type", b"Application/JSON"),
        (b"CE-SpecVersion", b"1.0"),
        (b"Ce-Id", b"1"),
    ]
    decoded = decode_http([*headers, (b"cE-type", b"t"), (b"ce-SOURCE", b"urn:x")], b"{}")
    assert decoded.events[0].id == "1"


def test_a_binary_event_as_deep_as_allowed_can_be_read_back_from_its_structured_form():
    limits = DecodingLimits(max_depth=5)
    headers = [
        (b"content-type", b"application/json"),
        (b"ce-specversion", b"1.0"),
        (b"ce-id", b"1"),
    ]
    headers += [(b"ce-type", b"t"), (b"ce-source", b"urn:x")]
    [event] = decode_http(headers, b'{"a":[[[]]]}', limits).events
    assert decode_structured(event.structured(), limits) == event
    assert (
        "levels" in problems(decode_http, headers, b'{"a":[[[[]]]]}', limits)["$.data.a[0][0][0]"]
    )


def test_a_structured_message_with_ce_headers_is_read_as_structured():
    decoded = http(STRUCTURED, ENVELOPE, (b"ce-id", b"other"))
    assert decoded.events[0].id == ENVELOPE["id"]


def test_a_batch_keeps_its_order():
    decoded = http(BATCH, [ENVELOPE | {"id": str(number)} for number in range(3)])
    assert decoded.batch
    assert [event.id for event in decoded.events] == ["0", "1", "2"]


def test_an_empty_batch_has_no_events():
    assert http(BATCH, []).events == ()


def test_problems_of_a_batch_start_with_the_index():
    found = problems(http, BATCH, [ENVELOPE, ENVELOPE | {"id": ""}, 3])
    assert list(found) == ["$[1].id", "$[2]"]


def test_a_batch_above_the_limit_or_not_a_list_is_refused():
    assert problems(http, BATCH, [ENVELOPE] * 101) == {"$": "must hold at most 100 events"}
    assert problems(http, BATCH, ENVELOPE) == {"$": "must be a list of events"}


def test_an_answer_to_a_hostile_batch_is_bounded():
    with pytest.raises(InvalidEvent) as caught:
        http(BATCH, [{}] * 100)
    assert len(caught.value.problems) == 100


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/cloudevents+avro",
        "application/cloudevents+xml",
        "application/cloudevents-x+json",
        "application/cloudevents-batch+xml",
        "application/x-www-form-urlencoded",
        "application/cloudevents+json; charset=utf-16",
        "application/json; charset=latin-1",
        "",
    ],
)
def test_an_unsupported_content_type_is_a_separate_error(content_type):
    with pytest.raises(UnsupportedContentType):
        http(content_type, ENVELOPE)


def test_no_content_type_and_two_of_them_are_refused():
    with pytest.raises(UnsupportedContentType):
        decode_http([], b"{}")
    with pytest.raises(UnsupportedContentType):
        http(STRUCTURED, ENVELOPE, (b"content-type", b"application/json"))


def test_plain_json_without_ce_headers_is_refused_with_an_explanation():
    assert problems(http, "application/json", ENVELOPE)["$"].startswith("must be a CloudEvent")


@pytest.mark.parametrize(
    ("attributes", "path"),
    [
        ({"specversion": "0.3"}, "$.specversion"),
        ({"specversion": 1.0}, "$.specversion"),
        ({"specversion": "1.0\n"}, "$.specversion"),
        ({"id": ""}, "$.id"),
        ({"id": 7}, "$.id"),
        ({"id": "x" * 257}, "$.id"),
        ({"id": "a\nb"}, "$.id"),
        ({"id": "a\u202eb"}, "$.id"),
        ({"id": None}, "$.id"),
        ({"source": "/relative"}, "$.source"),
        ({"source": "registry"}, "$.source"),
        ({"source": "https:"}, "$.source"),
        ({"source": "https://a b"}, "$.source"),
        ({"source": "https://ä"}, "$.source"),
        ({"source": "https://x/%zz"}, "$.source"),
        ({"source": "https://x/\n"}, "$.source"),
        ({"type": ""}, "$.type"),
        ({"type": []}, "$.type"),
        ({"subject": "\x07"}, "$.subject"),
        ({"subject": ""}, "$.subject"),
        ({"time": "2026-11-22"}, "$.time"),
        ({"time": "2026-11-22T10:00:61Z"}, "$.time"),
        ({"time": "2026-11-22T10:00:00"}, "$.time"),
        ({"time": "2026-11-22 10:00:00Z"}, "$.time"),
        ({"time": "2026-02-30T10:00:00Z"}, "$.time"),
        ({"time": "2026-11-22T10:00:00Z\n"}, "$.time"),
        ({"time": "\u0662026-11-22T10:00:00Z"}, "$.time"),
        ({"time": 1}, "$.time"),
        ({"datacontenttype": "text/xml"}, "$.datacontenttype"),
        ({"datacontenttype": "application/json; charset=utf-16"}, "$.datacontenttype"),
        ({"datacontenttype": 1}, "$.datacontenttype"),
        ({"data": None}, "$.data"),
        ({"data": []}, "$.data"),
        ({"data": "{}"}, "$.data"),
        ({"data_base64": "e30="}, "$.data_base64"),
        ({"partitionKey": "x"}, "$.partitionKey"),
        ({"x-y": "x"}, "$['x-y']"),
        ({"ext": {}}, "$.ext"),
        ({"ext": 1.5}, "$.ext"),
        ({"ext": "a\nb"}, "$.ext"),
    ],
)
def test_a_broken_attribute_is_named_by_its_path_and_nothing_else_is(attributes, path):
    assert list(problems(decode_structured, with_attributes(**attributes))) == [path]


TEXT = "must be text of 1 to {} printable characters"
TIME = "must be a time with its zone, such as 2026-11-22T10:00:00Z (RFC 3339)"
URI = "must be an absolute URI, such as https://registry.example.com/"


@pytest.mark.parametrize(
    ("attributes", "expected", "found"),
    [
        ({"specversion": "0.3"}, 'must be "1.0"', "'0.3'"),
        ({"specversion": None}, 'must be "1.0"', ""),
        ({"id": 7}, TEXT.format(256), "7"),
        ({"source": ""}, TEXT.format(1024), "''"),
        (
            {"source": "urn:" + "x" * 1021},
            TEXT.format(1024),
            f"'urn:{'x' * 76}' and 945 more characters",
        ),
        ({"source": "registry"}, URI, "'registry'"),
        ({"type": "x" * 257}, TEXT.format(256), f"'{'x' * 80}' and 177 more characters"),
        ({"subject": "x" * 1025}, TEXT.format(1024), f"'{'x' * 80}' and 945 more characters"),
        ({"time": "now"}, TIME, "'now'"),
        ({"datacontenttype": "text/xml"}, "must be application/json", "'text/xml'"),
        (
            {"datacontenttype": "application/json; charset=latin-1"},
            "must be UTF-8: charset 'latin-1' is not supported",
            "'application/json; charset=latin-1'",
        ),
        ({"datacontenttype": []}, "must be application/json", "a list of 0"),
        ({"data": []}, "must be an object", "a list of 0"),
        ({"data": None}, "must be an object", "null"),
        ({"data_base64": "e30="}, "must be absent: data is a JSON object", ""),
        (
            {"partitionKey": "x"},
            "must be named with lower-case letters and digits only, or be part of data",
            "",
        ),
        ({"ext": 1.5}, "must be text, a whole number, true or false", "1.5"),
        ({"ext": "a\nb"}, "must have printable characters only", "'a\\nb'"),
    ],
)
def test_a_problem_has_the_expected_and_the_found_value(attributes, expected, found):
    with pytest.raises(InvalidEvent) as caught:
        decode_structured(with_attributes(**attributes))
    assert [(problem.expected, problem.found) for problem in caught.value.problems] == [
        (expected, found)
    ]


def test_a_problem_of_a_header_has_the_expected_and_the_found_value():
    headers = [
        (b"ce-id", b"1"),
        (b"ce-id", b"2"),
        (b"ce-data", b"x"),
        (b"ce-datacontenttype", b"y"),
        (b"ce-x", b"%ff"),
    ]
    with pytest.raises(InvalidEvent) as caught:
        http("application/json", b"{}", *headers)
    assert [(problem.path, problem.expected, problem.found) for problem in caught.value.problems][
        :4
    ] == [
        ("$.id", "must be given once, as one header", ""),
        ("$.data", "must not be a header: the body is the data, Content-Type its type", ""),
        (
            "$.datacontenttype",
            "must not be a header: the body is the data, Content-Type its type",
            "",
        ),
        ("$.x", "must be percent-encoded UTF-8", "'%ff'"),
    ]


def validate(kind, data):
    """Reports a problem for any data of type `t`."""
    return [Problem(f"$.data.{next(iter(data))}", "is judged")] if kind == "t" else []


BROKEN = {"specversion": "1.0", "id": "", "source": "urn:x", "type": "t", "data": {"a": 1}}
HEADERS = [
    (b"ce-specversion", b"1.0"),
    (b"ce-source", b"urn:x"),
    (b"ce-type", b"t"),
    (b"ce-id", b""),
]


@pytest.mark.parametrize(
    ("decode", "before"),
    [
        (
            lambda: decode_http(
                [(b"content-type", STRUCTURED.encode())],
                json.dumps(BROKEN).encode(),
                validate_data=validate,
            ),
            "$",
        ),
        (
            lambda: decode_http(
                [(b"content-type", BATCH.encode())],
                json.dumps([BROKEN]).encode(),
                validate_data=validate,
            ),
            "$[0]",
        ),
        (
            lambda: decode_http(
                [(b"content-type", b"application/json"), *HEADERS],
                b'{"a":1}',
                validate_data=validate,
            ),
            "$",
        ),
        (lambda: decode_structured(json.dumps(BROKEN).encode(), validate_data=validate), "$"),
        (lambda: decode_many(json.dumps(BROKEN).encode(), validate_data=validate), "$"),
        (lambda: decode_many(json.dumps([BROKEN]).encode(), validate_data=validate), "$[0]"),
        (
            lambda: decode_many(
                json.dumps(BROKEN).encode() + b"\n" + with_attributes(), validate_data=validate
            ),
            "line 1 $",
        ),
    ],
    ids=["structured", "batch", "binary", "one", "file", "array", "lines"],
)
def test_problems_of_envelope_and_data_are_reported_at_once(decode, before):
    assert list(problems(decode)) == [f"{before}.id", f"{before}.data.a"]


def test_data_of_an_event_with_a_broken_header_is_validated_too():
    headers = [
        (b"content-type", b"application/json"),
        *HEADERS[:3],
        (b"ce-id", b"1"),
        (b"ce-id", b"2"),
    ]

    assert list(problems(decode_http, headers, b'{"a":1}', validate_data=validate)) == [
        "$.id",
        "$.data.a",
    ]
    assert list(problems(decode_http, headers, b"{", validate_data=validate)) == ["$.id", "$.data"]


def test_problems_of_data_count_towards_the_limit_of_an_answer():
    def many(kind, data):
        return [Problem(f"$.data.{number}", "is judged") for number in range(200)]

    headers = [(b"content-type", b"application/json"), *HEADERS]
    for call in (
        partial(decode_structured, json.dumps(BROKEN).encode()),
        partial(decode_http, headers, b"{}"),
    ):
        with pytest.raises(InvalidEvent) as caught:
            call(validate_data=many)
        assert len(caught.value.problems) == MAX_PROBLEMS


def test_an_event_may_nest_as_deeply_in_a_batch_as_alone():
    limits = DecodingLimits(max_depth=5)
    for data, is_too_deep in ({"a": [[[]]]}, False), ({"a": [[[[]]]]}, True):
        for body in (ENVELOPE | {"data": data}, [ENVELOPE | {"data": data}]):
            headers = [
                (b"content-type", (BATCH if isinstance(body, list) else STRUCTURED).encode())
            ]
            with (
                pytest.raises(InvalidEvent, match="levels")
                if is_too_deep
                else contextlib.nullcontext()
            ):
                decode_http(headers, json.dumps(body).encode(), limits)


def test_a_problem_of_the_whole_body_has_the_expected_and_the_found_value():
    for content_type, body, expected, found in (
        (STRUCTURED, 3, "must be an event: a JSON object", "3"),
        (BATCH, 3, "must be a list of events", "3"),
        (BATCH, [{}] * 101, "must hold at most 100 events", "101 events"),
        (
            "application/json",
            {},
            (
                f"must be a CloudEvent: Content-Type {STRUCTURED}, "
                "or application/json with the headers ce-specversion, ce-id, ce-source and ce-type"
            ),
            "",
        ),
    ):
        with pytest.raises(InvalidEvent) as caught:
            http(content_type, body)
        assert [
            (problem.path, problem.expected, problem.found) for problem in caught.value.problems
        ] == [("$", expected, found)]


@pytest.mark.parametrize(
    ("content_type", "error"),
    [
        (
            "text/plain",
            f"Content-Type 'text/plain': must be {STRUCTURED}, {BATCH}, or application/json with ce- headers",
        ),
        ("application/json; charset=latin-1", "must be UTF-8: charset 'latin-1' is not supported"),
    ],
)
def test_an_unsupported_content_type_is_refused_with_the_supported_ones(content_type, error):
    with pytest.raises(UnsupportedContentType) as refused:
        http(content_type, ENVELOPE)
    assert str(refused.value) == error


def test_a_request_without_a_single_content_type_is_refused():
    for headers in ([], [(b"content-type", b"application/json")] * 2):
        with pytest.raises(
            UnsupportedContentType, match=r"^a request needs one Content-Type header$"
        ):
            decode_http(headers, b"{}")


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"utf-8"', "us-ascii"])
def test_a_charset_that_is_a_subset_of_utf8_is_accepted(charset):
    assert http(f"{STRUCTURED}; profile=x; charset={charset}", ENVELOPE).events


@pytest.mark.parametrize(
    "attributes",
    [
        {"id": "x" * 256},
        {"source": "urn:uuid:1"},
        {"source": "urn:" + "x" * 1020},
        {"subject": "x" * 1024},
        {"source": "projects://a/%20?q#f"},
        {"time": "2026-11-22t10:00:00.123456789z"},
        {"time": "2016-12-31T23:59:60Z"},
        {"time": "2026-11-22T10:00:00-11:30"},
        {"datacontenttype": "application/json; charset=utf-8"},
        {"datacontenttype": "application/vnd.x.v1+json"},
        {"dataref": "https://example.com/data"},
        {"type": "com.example.anything"},
    ],
)
def test_an_unusual_but_valid_attribute_is_accepted(attributes):
    decode_structured(with_attributes(**attributes))


def test_a_missing_id_is_never_invented():
    body = {name: value for name, value in ENVELOPE.items() if name != "id"}
    assert problems(http, STRUCTURED, body) == {"$.id": "is required"}
    assert problems(binary, without=("id",)) == {"$.id": "is required"}


def test_a_reference_to_data_is_not_followed():
    body = {name: value for name, value in ENVELOPE.items() if name != "data"}
    assert problems(http, STRUCTURED, body) == {"$.data": "is required"}
    found = problems(http, STRUCTURED, body | {"dataref": "http://169.254.169.254/"})
    assert found == {"$.data": "is required: dataref is not followed, send the data itself"}


def test_an_event_that_is_not_an_object_is_refused():
    assert problems(decode_structured, b"[]") == {"$": "must be an event: a JSON object"}


@pytest.mark.parametrize("name", [b"ce-\0\x1b[31m", b"ce-a\r\nb", b"ce-\xff\x9b"])
def test_no_problem_shows_control_characters_of_a_headers_name(name):
    headers = [(name, b"1"), (name, b"2"), (name + b"%", b"%ff")]
    with pytest.raises(InvalidEvent) as refused:
        decode_http([(b"content-type", b"application/json"), *headers], b"{}")
    for problem in refused.value.problems:
        assert all(
            text.isprintable() for text in (problem.path, problem.expected, problem.found or "")
        )


def test_all_problems_of_a_binary_event_are_reported_at_once():
    headers = [
        (b"ce-id", b"1"),
        (b"ce-id", b"2"),
        (b"ce-data", b"x"),
        (b"ce-datacontenttype", b"x"),
        (b"ce-x", b"%ff"),
    ]
    found = problems(http, "application/json", b'{"a":NaN}', *headers)
    assert set(found) == {
        "$.id",
        "$.data",
        "$.datacontenttype",
        "$.x",
        "$.data.a",
        "$.specversion",
        "$.type",
        "$.source",
    }


def test_a_file_holds_one_event_an_array_or_lines():
    one, two = with_attributes(id="1"), with_attributes(id="2")
    pretty = json.dumps(ENVELOPE, indent=2).encode()
    assert [event.id for event in decode_many(pretty)] == [ENVELOPE["id"]]
    assert [event.id for event in decode_many(b" \n[" + one + b",\n" + two + b"]")] == ["1", "2"]
    assert [event.id for event in decode_many(one + b"\n\n" + two + b"\r\n")] == ["1", "2"]
    assert [event.id for event in decode_many(one + b"\n")] == ["1"]


def test_problems_of_lines_start_with_the_line():
    found = problems(
        decode_many, with_attributes(id="1") + b"\n\n" + with_attributes(id="") + b"\n{\n"
    )
    assert list(found) == ["line 3 $.id", "line 4 $"]
    assert list(problems(decode_many, with_attributes(id="1") + b"\n{\n")) == ["line 2 $"]
    assert list(problems(decode_many, with_attributes(id=""))) == ["$.id"]


def test_a_broken_file_is_refused_with_the_place():
    with pytest.raises(InvalidEvent, match="line 2 column"):
        decode_many(b'{"id":\n x}')
    with pytest.raises(InvalidEvent):
        decode_many(b"")
    with pytest.raises(InvalidEvent, match="levels"):
        decode_many(b"{" + b'"a":{' * 100_000 + b"\nx")


def envelopes():
    text = st.text(
        st.characters(categories=["L", "N", "P", "S", "Zs"]).filter(str.isprintable),
        min_size=1,
        max_size=20,
    )
    names = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=10).filter(
        lambda name: (
            name
            not in {
                "specversion",
                "id",
                "source",
                "type",
                "subject",
                "time",
                "datacontenttype",
                "data",
                "dataschema",
            }
        )
    )
    required = st.fixed_dictionaries(
        {"id": text, "type": text, "source": st.sampled_from(["urn:a", "https://b.example/c?d"])}
    )
    return st.tuples(
        required,
        st.dictionaries(names, text, max_size=3),
        st.dictionaries(text, st.integers() | text, max_size=3),
    )


@given(envelopes())
def test_the_public_sdk_and_this_decoder_agree_on_what_the_sdk_writes(parts):
    required, extensions, data = parts
    data = {
        key: value
        for key, value in data.items()
        if not isinstance(value, int) or abs(value) < 2**63
    }
    sent = CloudEvent(
        required | extensions | {"specversion": "1.0", "datacontenttype": "application/json"}, data
    )
    for write in (to_binary_event, to_structured_event):
        message = write(sent, JSONFormat())
        headers = [(name.encode(), value.encode()) for name, value in message.headers.items()]
        [event] = decode_http(headers, message.body).events
        assert (event.id, event.type, event.source, event.data) == (
            sent.get_id(),
            sent.get_type(),
            sent.get_source(),
            data,
        )
        assert dict(event.extensions) == extensions


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["ce-id", "ce-source", "ce-type", "ce-specversion", "content-type", "ce-x", "ce-"]
            ),
            st.binary(max_size=12),
        )
    ),
    st.binary(max_size=30),
)
def test_every_request_is_an_event_or_one_of_two_errors(headers, body):
    given_headers = [(name.encode(), value) for name, value in headers]
    for content_type in (b"application/json", STRUCTURED.encode(), BATCH.encode()):
        with contextlib.suppress(InvalidEvent, UnsupportedContentType):
            decode_http([(b"content-type", content_type), *given_headers], body)

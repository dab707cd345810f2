"""The strict JSON parser: what it accepts, and the path and message of each refusal."""

import contextlib
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.errors import InvalidEvent
from events.strict_json import MAX_PROBLEMS, below, described, loads

MIB = 1 << 20


def problems(body: bytes, **limits: int) -> dict[str, str]:
    with pytest.raises(InvalidEvent) as caught:
        loads(body, **{"max_bytes": MIB} | limits)
    return {problem.path: problem.expected for problem in caught.value.problems}


def json_values():
    leaves = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1)
    texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
    leaves |= texts | st.floats(allow_nan=False, allow_infinity=False)
    return st.recursive(
        leaves, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20
    )


@given(json_values(), st.booleans())
def test_every_valid_value_round_trips(value, escaped):
    assert loads(json.dumps(value, ensure_ascii=escaped).encode(), max_bytes=MIB) == value


def faulty_documents():
    """JSON texts, some with duplicate keys, NaN or numbers that are too large."""
    leaves = st.sampled_from(
        ["1", '"x"', "null", "true", "1.5", "NaN", "1e999", "9" * 20, '"\\u0000"', '"\\ud800"']
    )
    keys = st.sampled_from(['"a"', '"b"', '"c d"'])
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner).map(lambda each: f"[{','.join(each)}]")
            | st.lists(st.tuples(keys, inner)).map(
                lambda each: "{" + ",".join(f"{key}:{value}" for key, value in each) + "}"
            )
        ),
        max_leaves=8,
    )


@given(faulty_documents(), st.integers(1, 4))
def test_the_quick_check_accepts_exactly_what_has_no_problems(text, depth):
    def loaded() -> object:
        try:
            return loads(text.encode(), max_bytes=MIB, max_depth=depth)
        except InvalidEvent as error:
            return error.problems

    with pytest.MonkeyPatch.context() as patch:
        quick = loaded()
        patch.setattr("events.strict_json._is_free_of_problems", lambda *_: False)
        assert quick == loaded()


def test_paths_are_made_only_for_a_value_that_may_have_a_problem(monkeypatch):
    def unexpected(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("events.strict_json._problems", unexpected)
    assert loads(b'{"a":[1,{"b":"x"}]}', max_bytes=MIB, max_depth=3) == {"a": [1, {"b": "x"}]}
    for suspect in (b'{"a":1,"a":2}', b'"\\u0041"', b"[[]]"):
        with pytest.raises(AssertionError):
            loads(suspect, max_bytes=MIB, max_depth=1)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_a_value_or_an_invalid_event(body):
    with contextlib.suppress(InvalidEvent):
        loads(body, max_bytes=MIB)


@given(st.text(alphabet='[]{}",:\\u0d8naNIfity-.1e9 ', max_size=60))
def test_text_that_looks_like_json_is_a_value_or_an_invalid_event(text):
    try:
        value = loads(text.encode(), max_bytes=MIB)
    except InvalidEvent:
        return
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("body", "path", "expected"),
    [
        (b"", "$", "must be JSON"),
        (b"{", "$", "must be JSON"),
        (b'{"a":1} x', "$", "must be JSON"),
        (b'{"a":"\x00"}', "$", "must be JSON"),
        (b"\xef\xbb\xbf{}", "$", "must be UTF-8 without a byte order mark"),
        (b'"\xff"', "$", "must be UTF-8"),
        (b'"\xed\xa0\x80"', "$", "must be UTF-8"),
        ('{"a":1}'.encode("utf-16"), "$", "must be UTF-8"),
        (b'{"a":[1,NaN]}', "$.a[1]", "must be a JSON value"),
        (b'{"a":-Infinity}', "$.a", "must be a JSON value"),
        (b'{"a":1e999}', "$.a", "must be a number that a double can hold"),
        (b'{"a":9223372036854775808}', "$.a", "must be an integer of at most 64 bits, or a string"),
        (
            b'{"a":-9223372036854775808}',
            "$.a",
            "must be an integer of at most 64 bits, or a string",
        ),
        (
            b'{"a":' + b"9" * 500_000 + b"}",
            "$.a",
            "must be an integer of at most 64 bits, or a string",
        ),
        (b'{"a":{"b":1,"b":2}}', "$.a.b", "must occur only once in its object"),
        (b'{"a":1,"\\u0061":2}', "$.a", "must occur only once in its object"),
        (b'{"a":"x\\u0000"}', "$.a", "must have no NUL character"),
        (b'{"a":"\\ud800"}', "$.a", "must have no half of a surrogate pair"),
        (b'{"\\udfff":1}', "$", "must have no half of a surrogate pair"),
    ],
)
def test_values_that_the_parser_accepts_are_refused_with_their_path(body, path, expected):
    assert problems(body) == {path: expected}


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"a":\n x}', "line 2 column 2: Expecting value"),
        (b'["\xff"]', "byte 0xff at 2"),
        (b"\xef\xbb\xbf{}", ""),
        (b'{"a":[1,NaN]}', "NaN"),
        (b"1e999", "1e999"),
        (b"9" * 100, "9" * 80),
        (b"9223372036854775808", "9223372036854775808"),
        (b'{"b":1,"b":2}', ""),
        (b'"x\\u0000"', "'x\\x00'"),
        (b'"\\ud800"', "'\\ud800'"),
        (b'{"\\udfff":1}', "'\\udfff'"),
        (b"[" * 33 + b"]" * 33, ""),
        (b"x" * (MIB + 1), "1048577 bytes"),
    ],
)
def test_a_problem_has_the_found_value(body, found):
    with pytest.raises(InvalidEvent) as caught:
        loads(body, max_bytes=MIB)
    assert [problem.found for problem in caught.value.problems] == [found]


def test_events_nest_32_levels_by_default():
    assert loads(b"[" * 32 + b"]" * 32, max_bytes=MIB)
    assert list(problems(b"[" * 33 + b"]" * 33).values()) == ["must nest at most 32 levels"]


def test_a_whole_surrogate_pair_is_a_character():
    assert loads(b'"\\ud83d\\ude00"', max_bytes=100) == "\U0001f600"


def test_the_largest_and_smallest_integers_are_kept_exactly():
    assert loads(b"[9223372036854775807,-9223372036854775807]", max_bytes=100) == [
        2**63 - 1,
        1 - 2**63,
    ]


def test_a_body_of_exactly_the_limit_is_accepted_and_one_byte_more_is_not():
    assert loads(b"[1]", max_bytes=3) == [1]
    assert problems(b"[1] ", max_bytes=3) == {"$": "must have at most 3 bytes"}


def test_nesting_of_exactly_the_limit_is_accepted_and_one_level_more_is_not():
    assert loads(b"[[[]]]", max_bytes=100, max_depth=3) == [[[]]]
    assert problems(b'[[{"a":[]}]]', max_depth=3) == {"$[0][0].a": "must nest at most 3 levels"}


def test_an_endlessly_nested_body_is_refused_without_a_recursion_error():
    for opening in (b"[", b'{"a":'):
        assert "levels" in problems(opening * 100_000)["$"]
    # Also when it is well formed, and the caller is near the end of the stack.
    deep = b"[" * 500 + b"]" * 500
    assert "levels" in next(iter(problems(deep).values()))


def test_the_recursion_limit_of_the_process_is_unchanged():
    before = sys.getrecursionlimit()
    problems(b"[" * 100_000)
    assert sys.getrecursionlimit() == before


def test_all_problems_are_reported_at_once_in_order_of_the_body():
    assert list(problems(b'{"a":NaN,"b":{"c":1,"c":2},"d":["\\ud800",1e999]}')) == [
        "$.a",
        "$.b.c",
        "$.d[0]",
        "$.d[1]",
    ]


def test_the_list_of_problems_is_bounded():
    assert len(problems(b"[" + b",".join([b"NaN"] * 1000) + b"]")) == MAX_PROBLEMS


def test_a_key_that_is_not_a_name_is_quoted_in_a_path():
    assert below("$", "a_1") == "$.a_1"
    assert below("$", "a b\n") == "$['a b\\n']"
    assert below("$", "k" * 200).endswith("and 120 more characters]")
    assert below("$", "k" * 80) == "$." + "k" * 80
    assert below("$.a", 3) == "$.a[3]"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a'b\n\u202e", '"a\'b\\n\\u202e"'),
        ("x" * 81, f"'{'x' * 80}' and 1 more characters"),
        ({"a": 1}, "an object with 1 field"),
        ({}, "an object with 0 fields"),
        ([1, 2], "a list of 2"),
        (None, "null"),
        (True, "true"),
        (1.5, "1.5"),
        ((1, 2, 3), "a list of 3"),
        ("x" * 80, f"'{'x' * 80}'"),
        (b"x" * 100, f"b'{'x' * 78}"),
        (10**200, "1" + "0" * 79),
        (b"\x00", "b'\\x00'"),
    ],
)
def test_a_found_value_is_described_short_and_harmless(value, text):
    assert described(value) == text

"""JSON documents of a bucket: accepted values can be written again, and refusals are cheap."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.publishing import documents
from daemon.publishing.documents import Malformed, canonical, parse, serialised
from daemon.publishing.sizes import LEVELS, MARKS

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NUMBERS = st.integers(-(2**63) + 1, 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_every_value_round_trips(value: Any) -> None:
    assert parse(serialised(value)) == value
    assert canonical(serialised(value)) == value


@given(VALUES)
def test_other_spellings_of_a_value_are_equal_but_not_canonical(value: Any) -> None:
    spelled = b" " + json.dumps(value, indent=1).encode()
    assert parse(spelled) == value
    with pytest.raises(Malformed, match=r"it is not in the form in which it is written$"):
        canonical(spelled)


@given(st.binary(max_size=60) | st.text(alphabet='[]{}",:\\u0dDe1.- ', max_size=60).map(str.encode))
def test_any_bytes_are_a_writable_value_or_malformed(body: bytes) -> None:
    try:
        value = parse(body)
    except Malformed:
        return
    assert parse(serialised(value)) == value


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "it is empty$"),
        (b"no JSON", "it is no JSON: Expecting value"),
        (b"\xff", "it is no JSON: it has text that is not UTF-8"),
        (b'"\xed\xa0\x80"', "it is no JSON: it has text that is not UTF-8"),
        ("{}".encode("utf-16"), "it is no JSON: it has text that is not UTF-8"),
        (b"\xef\xbb\xbf{}", "it is no JSON: Expecting value"),
        (b'{"a": 1, "a": 1}', "an object has one key twice"),
        (b'[{"b": {"a": 1, "a": 2}}]', "an object has one key twice"),
        (b"NaN", "NaN is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"1e999", "a number is too large"),
        (b"9223372036854775808", "a number has more than 64 bits"),
        (b"-9223372036854775808", "a number has more than 64 bits"),
        (b"9" * 5000, "a number has more than 64 bits"),
        (b'"\\ud800"', "it is no JSON: it has text that is not UTF-8"),
        (b'{"\\uDFFF": 1}', "it is no JSON: it has text that is not UTF-8"),
        (b"[" * (LEVELS + 1) + b"]" * (LEVELS + 1), f"it nests more than {LEVELS} levels"),
        (b'{"":' * 100_000, "it is no JSON: its brackets do not match$"),
        (b"]" + b"[", "it is no JSON: its brackets do not match$"),
        (b"[0" + b",0" * MARKS + b"]", f"it has more than {MARKS:,} brackets and commas"),
        (b"{} {}", "it is no JSON: Extra data"),
        (b"{", "it is no JSON: its brackets do not match$"),
        (b"[}", "it is no JSON: Expecting value"),
    ],
)
def test_values_that_readers_could_not_hold_or_write_again_are_malformed(
    body: bytes, message: str
) -> None:
    with pytest.raises(Malformed, match=f"^{message}"):
        parse(body)


@pytest.mark.parametrize("body", [b"[0,0,0,0]", b'["\\n,",{"":0}]', b'{",":0,"[":[]}'])
def test_a_document_may_have_brackets_and_commas_up_to_the_limit(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "MARKS", 5)
    assert parse(body) == json.loads(body)
    with pytest.raises(Malformed, match="more than 5 brackets and commas"):
        parse(body[:-1] + b"," + body[-1:])


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"[" * LEVELS + b"]" * LEVELS, None),
        (b'"[[[{{{\\"[[[\\\\"', '[[[{{{"[[[\\'),
        (b'["[", "{", {"]": "[", "": "}"}, "", "\'"]', ["[", "{", {"]": "[", "": "}"}, "", "'"]),
        (b'{"' + b"[" * 100 + b'": "", "": "' + b"{" * 100 + b'"}', {"[" * 100: "", "": "{" * 100}),
        (b'"\\ud83d\\ude00"', "\N{GRINNING FACE}"),
        (b'"\\\\ud800"', "\\ud800"),
        (b"9223372036854775807", 2**63 - 1),
        (b"-9223372036854775807", 1 - 2**63),
    ],
)
def test_harmless_documents_that_look_hostile_are_read(body: bytes, value: object) -> None:
    assert value is None or parse(body) == value
    assert parse(body) is not None


@pytest.mark.parametrize(
    "body", [b'"' + b'\\"' * 1_000_000, b'"' * 1_000_001, b'"' + b"\\" * 1_000_001]
)
def test_text_without_an_end_is_malformed_in_one_pass(body: bytes) -> None:
    with pytest.raises(Malformed):
        parse(body)

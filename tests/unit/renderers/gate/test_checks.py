"""Each assertion names the file, the line and both values of the first difference."""

import pytest

from renderers.errors import GateFailure
from renderers.gate import checks
from renderers.gate.checks import CheckedBundle, Piece
from tests.builders import GOLDEN_DEFAULTS, golden_composition

BUILT_IN = checks.built_in_text("nginx.conf")
FIRST, *_, LAST = BUILT_IN.splitlines(keepends=True)


def failure(check, *arguments, **options):
    with pytest.raises(GateFailure) as failed:
        check(*arguments, **options)
    return str(failed.value)


@pytest.mark.parametrize(
    ("body", "line", "wanted", "actual"),
    [
        (b"x" + BUILT_IN, 1, FIRST, b"x" + FIRST),
        (BUILT_IN + b"more\n", BUILT_IN.count(b"\n") + 1, b"", b"more\n"),
        (BUILT_IN.removesuffix(LAST), BUILT_IN.count(b"\n"), LAST, b""),
        (BUILT_IN.removesuffix(b"\n"), BUILT_IN.count(b"\n"), LAST, LAST.removesuffix(b"\n")),
    ],
)
def test_text_that_is_not_the_built_in_template_is_named_by_its_first_line(
    body, line, wanted, actual
):
    message = failure(checks.check_built_in, Piece("nginx.conf", body), "nginx.conf")
    assert message == str(
        GateFailure("nginx.conf", line, repr(wanted.decode()), repr(actual.decode()))
    )


def test_bytes_that_are_not_utf_8_are_shown_instead_of_a_built_in_line():
    message = failure(checks.check_built_in, Piece("x", b"\xff\n" + BUILT_IN), "nginx.conf")
    assert repr("\ufffd\n") in message


def test_the_built_in_template_passes():
    checks.check_built_in(Piece("x", BUILT_IN), "nginx.conf")


@pytest.mark.parametrize(
    ("body", "line"), [(b"\x00", 1), (b"one\n\x07two\n", 2), (b"\none\r\n", 2), (b"\n\n\x1b", 3)]
)
def test_a_control_character_is_named_by_its_line(body, line):
    message = failure(checks.check_plain, Piece("file", body))
    assert message.startswith(f"file:{line}: expected no control character")


def test_plain_text_passes_and_other_encodings_do_not():
    checks.check_plain(Piece("file", "one\ttwo\näöü\n".encode()))
    message = failure(checks.check_plain, Piece("file", b"one\n\xe4", b"zero\none\n\xe4", 5))
    assert message == str(GateFailure("file", 3, "UTF-8", repr(b"\xe4")))


def test_a_missing_name_is_reported_at_the_first_line():
    piece = Piece("file", b"B=2\n", b"head\nB=2\n", 5)
    message = failure(checks.check_assignments, piece, {"A": "1", "B": "2"}, may_add=False)
    assert message.startswith("file:2: expected A = ")


def test_another_value_is_reported_at_the_line_of_its_name():
    piece = Piece("file", b"A=1\nB=3\n")
    message = failure(checks.check_assignments, piece, {"A": "1", "B": "2"}, may_add=False)
    assert message.startswith("file:2: expected B = ")


def test_an_env_file_may_have_more_assignments_only_if_the_caller_permits_it():
    piece = Piece("file", b"A=1\nC=3\n")
    checks.check_assignments(piece, {"A": "1"}, may_add=True)
    assert "file:2: expected C = " in failure(
        checks.check_assignments, piece, {"A": "1"}, may_add=False
    )


def test_text_that_cannot_be_parsed_is_reported_with_its_file():
    message = failure(
        checks.check_assignments, Piece("file", b"A=1\n?\n"), {"A": "1"}, may_add=True
    )
    assert message.startswith("file:2: ")


def test_another_yaml_value_is_reported_with_its_path_and_a_whole_file_as_the_file():
    checks.check_yaml(Piece("file", b"a: {b: 1}\n"), {"a": {"b": 1}})
    inner = failure(checks.check_yaml, Piece("file", b"a:\n  b: 2\n"), {"a": {"b": 1}})
    assert inner.startswith("file:2: expected a.b = 1")
    whole = failure(checks.check_yaml, Piece("file", b"- 1\n"), {"a": 1})
    assert whole.startswith("file:1: expected the file = ")


@pytest.mark.parametrize(
    ("overridden", "template", "may_add"),
    [
        (set(), "proxy.yaml", False),
        ({"proxy.yaml"}, "proxy.yaml", True),
        ({"router.yaml"}, "proxy.yaml", False),
        ({"labels.yaml"}, "proxy.yaml", True),
        ({"resources.yaml"}, "proxy.yaml", True),
        ({"labels.yaml"}, "models.map", False),
        ({"models.map"}, "models.map", True),
    ],
)
def test_only_the_output_of_a_custom_template_may_hold_more(overridden, template, may_add):
    bundle = CheckedBundle(golden_composition(), GOLDEN_DEFAULTS, frozenset(overridden))
    assert bundle.may_add(template) is may_add


@pytest.mark.parametrize(
    ("option", "quoted"),
    [("- a b", '- "a b"'), ("- --port=1", '- "--port=1"'), ("image: x:1", 'image: "x:1"')],
)
def test_an_option_may_be_written_with_quotes(option, quoted):
    assert checks.spellings(option) == (option, quoted)


def test_the_value_in_a_gap_of_a_pattern_is_compared_and_other_gaps_are_returned():
    piece = Piece("file", b"port 80 on eth0\n", b"head\nport 80 on eth0\n", 5)
    pattern = "port {{ port }} on {{ device }}\n"
    assert failure(checks.check_pattern, piece, pattern, {"port": "81"}).startswith(
        "file:2: expected port '81'"
    )

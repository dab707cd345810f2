"""The gate's parsers, alone: what they read, and that they refuse the rest with its line."""

from itertools import pairwise

import pytest

from renderers import readback
from renderers.readback import Unreadable

DOCUMENT = b"# head\nservices:\n  a:\n    x: 1\n\n  b:\n    y: 2\n\nnetworks:\n  n: {}\n"


def test_a_document_is_cut_at_services_of_its_top_and_bottom():
    text = DOCUMENT.replace(b"  b:\n", b"  x:\n    y: 2\n\n  b:\n")
    document = readback.document(text, ["a"], ["b"])

    assert [text[first:last] for first, last in pairwise(document.cuts)] == [
        b"  a:\n    x: 1\n\n  x:\n    y: 2\n\n",
        b"  b:\n    y: 2\n\n",
    ]
    assert text[: document.cuts[0]] == b"# head\nservices:\n"
    assert text[document.cuts[-1] :] == b"networks:\n  n: {}\n"


@pytest.mark.parametrize(
    "text", [b"", b"services:\n  a:\n", b"\nservices:\n  a:\n    x: 1\n", b"\nnetworks:\n\nservices:\n"]
)
def test_a_document_without_services_and_networks_is_refused(text):
    with pytest.raises(Unreadable):
        readback.document(text, ["a"], [])


@pytest.mark.parametrize(
    ("top", "bottom", "line"),
    [(["b"], [], 3), (["a", "c"], [], 3), (["a"], ["c"], 9), (["a"], ["b", "b"], 6), (["a"], ["b", "a"], 9)],
)
def test_services_that_are_not_at_their_end_are_refused(top, bottom, line):
    with pytest.raises(Unreadable) as refused:
        readback.document(DOCUMENT, top, bottom)

    assert refused.value.line == line


def test_yaml_is_read_with_the_line_of_each_part():
    text = readback.yaml_text("a:\n  b: [1, x]\n  c:\n    - d: true\n")

    assert text.value == {"a": {"b": [1, "x"], "c": [{"d": True}]}}
    assert [
        text.line(path)
        for path in [("a",), ("a", "b", 1), ("a", "c", 0, "d"), ("a", "c", 9), ("a", "none"), ("a", "b", 0, 0)]
    ] == [2, 2, 4, 4, 2, 2]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("# only\n", 1),
        ("a: 1\na: 2\n", 2),
        ("x:\n  - a: 1\n    a: 2\n", 3),
        ("1: a\n", 1),
        ("on: a\n", 1),
        ("<<: {}\n", 1),
        ("---\na: 1\n", 1),
        ("a: 1\n...\n", 2),
        ("a: 1\n---\nb: 1\n", 2),
        ("a: &x 1\n", 1),
        ("a: &x 1\nb: *x\n", 1),
        ("b: *x\n", 1),
        ("a: !!str 1\n", 1),
        ("a: 1\nb: 1 \n", 2),
        ("a: 1\n\tb: 1\n", 2),
        ("a: 1\r\n", 1),
        ("a: [\n", 2),
        ("a: b: c\n", 1),
        ("a: \x00\n", 1),
        ("a: 1\nb: 2026-13-41\n", 2),
        ("a: 1\n? [x]\n: 2\n", 2),
        ("a: 1\nb: [1, &x 2]\n", 2),
    ],
)
def test_yaml_beyond_the_plain_is_refused_with_its_line(text, line):
    with pytest.raises(Unreadable) as refused:
        readback.yaml_text(text)

    assert refused.value.line == line


def test_a_map_line_is_read_as_nginx_reads_it():
    assert readback.map_line("101 s101s:8500;\n") == ("101", "s101s", 8500)
    assert readback.map_line("\\default sdefaults:1;\n") == ("default", "sdefaults", 1)


@pytest.mark.parametrize(
    "line",
    ["101 s101s:8500\n", "101 s101s:8500;", "default sdefaults:1;\n", "~a sas:1;\n", "a sas:x;\n", "a  sas:1;\n"],
)
def test_another_map_line_is_refused(line):
    with pytest.raises(Unreadable):
        readback.map_line(line)


def test_a_list_line_is_read_with_its_uri():
    assert readback.list_line("101/3 gcs:b/a\n") == ("101", 3, "gs://b/a")
    assert readback.list_line("103 s3:b/a\n") == ("103", None, "s3://b/a")


@pytest.mark.parametrize(
    "line", ["101/3 gcs:b/a", "101 az:b/a\n", "101/x gcs:b\n", "101 gcs:b a\n", "101 gcs:b:a\n", "a/b/c gcs:b\n"]
)
def test_another_list_line_is_refused(line):
    with pytest.raises(Unreadable):
        readback.list_line(line)


def test_an_env_file_is_read_without_its_comments():
    assert readback.env("# x\nA=1\n\nB_a=\n") == {"A": "1", "B_a": ""}


@pytest.mark.parametrize(
    ("text", "line"), [("A=1\nA=2\n", 2), ("A\n", 1), ("\nA=$(x)\n", 2), ("export A=1\n", 1), ("A='x'\n", 1)]
)
def test_another_env_file_is_refused(text, line):
    with pytest.raises(Unreadable) as refused:
        readback.env(text)

    assert refused.value.line == line


def test_noted_amounts_are_read_with_their_units():
    assert readback.noted_amounts("# x: CPU_LIMIT 0.5, MEM_LIMIT 4g\nA=1") == {
        "CPU_LIMIT": ("0.5", 1),
        "MEM_LIMIT": ("4", 1 << 30),
    }


def test_batching_parameters_are_read():
    text = "# x\nmax_batch_size { value: 1 }\nallowed_batch_sizes: 1\nallowed_batch_sizes: 2\npad_variable_length_inputs: true\n"

    assert readback.batching(text) == {
        "max_batch_size": 1,
        "allowed_batch_sizes": [1, 2],
        "pad_variable_length_inputs": True,
    }


@pytest.mark.parametrize(
    "text",
    [
        "a { value: x }\n",
        "max_batch_size: 1\n",
        "a { value: 1 }\na { value: 2 }\n",
        "pad_variable_length_inputs: true\npad_variable_length_inputs: true\n",
        "allowed_batch_sizes: true\n",
    ],
)
def test_another_batching_file_is_refused(text):
    with pytest.raises(Unreadable):
        readback.batching(text)


@pytest.mark.parametrize("text", [None, 1, "0", "${A}", "${A:-}", "${A:-1t}", "${A-1}", "x${A:-1}"])
def test_what_is_no_variable_with_an_amount_is_none(text):
    assert readback.amount(text) is None


def test_an_amount_is_read_with_its_variable_and_unit():
    assert readback.amount("${A_b:-1.5m}") == ("A_b", "1.5", 1 << 20)


PATTERN = "# {{ name | markdown }} of {{ place }}\n\nprose\n{{ rest }}```\nend\n"


def test_gaps_are_read_with_their_lines():
    assert readback.gaps("# a of b\n\nprose\nx\ny\n```\nend\n", PATTERN) == [
        (1, "name", "a"),
        (1, "place", "b"),
        (4, "rest", "x\ny\n"),
    ]


def test_a_pattern_without_gaps_is_the_text():
    assert readback.gaps("a\n", "a\n") == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("## a of b\n\nprose\n```\nend\n", 1),
        ("# a from b\n\nprose\n```\nend\n", 1),
        ("# a of b\n\nverse\n```\nend\n", 3),
        ("# a of b\n\nprose\n```\nends\n", 5),
        ("# a of b\n\nprose\n```\nend\nmore\n", 6),
        ("# a of b\n\nprose\n```\n", 5),
    ],
)
def test_another_text_than_the_patterns_is_refused_with_its_line(text, line):
    with pytest.raises(Unreadable) as refused:
        readback.gaps(text, PATTERN)

    assert refused.value.line == line


def test_options_are_read_with_the_key_they_are_below():
    service = "  a:\n    x:\n      - 1\n      #- 2\n    y: 3\n    #z: 4\n"

    assert readback.options(service) == [(4, ("x", 6), "#- 2"), (6, ("y", 4), "#z: 4")]


def test_a_listing_is_switched_on_where_it_is_green():
    assert readback.switched_on("  a:\n    ...\n>     #- 1#\n      #- 2") == "  a:\n      - 1#\n      #- 2"


def test_directives_of_nginx_are_read_at_every_depth():
    found = readback.nginx('# x\nmap $a $b {\n    default "";\n    include f;\n}\nevents { }\nlog "a;{";\n')

    assert [(each.name, each.words, each.line, sorted(each.inside)) for each in found] == [
        ("default", ("",), 3, []),
        ("include", ("f",), 4, []),
        ("map", ("$a", "$b"), 2, [("default", ""), ("include", "f")]),
        ("events", (), 6, []),
        ("log", ("a;{",), 7, []),
    ]


@pytest.mark.parametrize(
    ("text", "line"), [("a", 1), ("a {\n", 1), ("a;\n}\n", 2), (";\n", 1), ("a {\n b }\n", 2), ('a;\n"b\n', 2)]
)
def test_another_configuration_of_nginx_is_refused(text, line):
    with pytest.raises(Unreadable) as refused:
        readback.nginx(text)

    assert refused.value.line == line

"""The gate's parsers alone: what they read, and that they refuse everything else with its line."""

from itertools import pairwise

import pytest

from renderers.gate import parsers
from renderers.gate.parsers import Unreadable

DOCUMENT = (
    b"# head\nservices:\n  a:\n    x: 1\n\n  b:\n    y: 2\n\nnetworks:\n  n:\n    internal: true\n"
)


def test_a_document_is_cut_at_its_first_and_last_services():
    text = DOCUMENT.replace(b"  b:\n", b"  x:\n    y: 2\n\n  b:\n")
    document = parsers.document(text, ["a"], ["b"])

    assert document.text == text
    assert [text[first:last] for first, last in pairwise(document.cuts)] == [
        b"  a:\n    x: 1\n\n  x:\n    y: 2\n\n",
        b"  b:\n    y: 2\n\n",
    ]
    assert text[: document.cuts[0]] == b"# head\nservices:\n"
    assert text[document.cuts[-1] :] == b"networks:\n  n:\n    internal: true\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "line 1: expected a document with services and then networks, found another one"),
        (
            b"services:\n  a:\n",
            "line 1: expected a document with services and then networks, found another one",
        ),
        (
            b"\nservices:\n  a:\n    x: 1\n",
            "line 1: expected a document with services and then networks, found another one",
        ),
        (
            b"\nnetworks:\n\nservices:\n",
            "line 1: expected a document with services and then networks, found another one",
        ),
        (
            b"\nservices:\nnetworks:\n",
            "line 1: expected a document with services and then networks, found another one",
        ),
    ],
)
def test_a_document_without_services_and_networks_is_refused(text, message):
    with pytest.raises(Unreadable) as refused:
        parsers.document(text, ["a"], [])

    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("top", "bottom", "message"),
    [
        (["b"], [], "line 3: expected service b here or below, found none"),
        (["a", "c"], [], "line 3: expected service c here or below, found none"),
        (["a"], ["c"], "line 9: expected service c above, found none"),
        (["a"], ["b", "b"], "line 6: expected service b above, found none"),
        (["a"], ["b", "a"], "line 9: expected service a above, found none"),
        (["a", "b", "c"], [], "line 6: expected service c here or below, found none"),
        (["a", "n"], [], "line 3: expected service n here or below, found none"),
    ],
)
def test_services_that_are_not_at_their_end_are_refused(top, bottom, message):
    with pytest.raises(Unreadable) as refused:
        parsers.document(DOCUMENT, top, bottom)

    assert str(refused.value) == message


def test_with_a_duplicate_name_a_document_is_cut_from_its_end():
    text = b"".join(b"  %b:\n    x: 1\n\n" % name for name in (b"a", b"c", b"b", b"c", b"d"))
    text = b"\nservices:\n" + text + b"networks:\n  n: {}\n"
    first, second, third, fourth, end = parsers.document(text, ["a", "c"], ["c", "d"]).cuts

    assert (text[first:].index(b"\n  c:\n") + 1, text[: end + 1].rindex(b"\n  c:\n") + 1) == (
        second - first,
        third,
    )
    assert [text[cut : cut + 4] for cut in (first, second, third, fourth, end)] == [
        b"  a:",
        b"  c:",
        b"  c:",
        b"  d:",
        b"netw",
    ]


def test_a_document_begins_at_its_first_services_and_ends_at_its_last_networks():
    inside = b"  a:\n    x: 1\nnetworks:\n\nservices:\n  b:\n    y: 2\n\n"
    document = parsers.document(b"\nservices:\n" + inside + b"networks:\n  n: {}\n", ["a"], ["b"])

    assert document.text[document.cuts[0] : document.cuts[-1]] == inside


def test_yaml_is_read_with_the_line_of_each_part():
    text = parsers.yaml_text("a:\n  b: [1, x]\n  c:\n    - d: true\n")

    assert text.value == {"a": {"b": [1, "x"], "c": [{"d": True}]}}
    assert [
        text.line(path)
        for path in [
            ("a",),
            ("a", "b", 1),
            ("a", "c", 0, "d"),
            ("a", "c", 9),
            ("a", "none"),
            ("a", "b", 0, 0),
        ]
    ] == [2, 2, 4, 4, 2, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected a document, found none"),
        ("# only\n", "line 1: expected a document, found none"),
        ("a: 1\na: 2\n", "line 2: expected each key once, and a string, found 'a'"),
        ("x:\n  - a: 1\n    a: 2\n", "line 3: expected each key once, and a string, found 'a'"),
        ("1: a\n", "line 1: expected each key once, and a string, found 1"),
        ("on: a\n", "line 1: expected each key once, and a string, found True"),
        ("<<: {}\n", "line 1: expected a plain value, found '<<'"),
        ("---\na: 1\n", "line 1: expected no document marker, found ---"),
        ("a: 1\n...\n", "line 2: expected no document marker, found ..."),
        ("a: 1\n---\nb: 1\n", "line 2: expected one document, found another one"),
        ("a: &x 1\n", "line 1: expected no anchor and no tag, found x"),
        ("a: &x 1\nb: *x\n", "line 1: expected no anchor and no tag, found x"),
        ("b: *x\n", "line 1: expected no alias, found *x"),
        ("a: !!str 1\n", "line 1: expected no anchor and no tag, found tag:yaml.org,2002:str"),
        (
            "a: 1\nb: 1 \n",
            "line 2: expected no tab, carriage return or blank at the end, found 'b: 1 '",
        ),
        (
            "a: 1\n\tb: 1\n",
            "line 2: expected no tab, carriage return or blank at the end, found '\\tb: 1'",
        ),
        (
            "a: 1\r\n",
            "line 1: expected no tab, carriage return or blank at the end, found 'a: 1\\r'",
        ),
        ("a: [\n", "line 2: expected YAML, found "),
        ("a: b: c\n", "line 1: expected YAML, found "),
        ("a: \x00\n", "line 1: expected YAML, found "),
        ("a: 1\nb: 2026-13-41\n", "line 2: expected a plain value, found '2026-13-41'"),
        ("a: 1\n? [x]\n: 2\n", "line 2: expected each key once, and a string, found ['x']"),
        ("a: 1\nb: [1, &x 2]\n", "line 2: expected no anchor and no tag, found x"),
    ],
)
def test_yaml_with_advanced_features_is_refused_with_its_line(text, message):
    with pytest.raises(Unreadable) as refused:
        parsers.yaml_text(text)

    assert str(refused.value).startswith(message)


def test_an_entry_of_a_sequence_has_its_line():
    text = parsers.yaml_text("a:\n  - b: 1\n  - b: 2\n")

    assert [text.line(("a", index)) for index in (0, 1, 2)] == [2, 3, 2]


def test_quoted_values_are_text_and_plain_ones_follow_yaml():
    text = "a: '1'\nb: \"no\"\nc: 1\nd: no\ne: " + "x" * 200 + "\nf: " + "1" * 200 + "\n"

    assert parsers.yaml_text(text).value == {
        "a": "1",
        "b": "no",
        "c": 1,
        "d": False,
        "e": "x" * 200,
        "f": int("1" * 200),
    }


def test_a_trailing_blank_is_refused():
    with pytest.raises(
        Unreadable,
        match=r"^line 2: expected no tab, carriage return or blank at the end, found 'b: x '$",
    ):
        parsers.yaml_text("a: 1\nb: x ")


@pytest.mark.parametrize("word", ["default", "include", "hostnames", "volatile"])
def test_a_keyword_of_nginx_needs_its_backslash(word):
    assert parsers.map_line(f"\\{word} s:1;\n") == (word, "s", 1)
    with pytest.raises(Unreadable, match="a backslash before a reserved word of nginx"):
        parsers.map_line(f"{word} s:1;\n")


def test_a_map_line_is_read_like_nginx_reads_it():
    assert parsers.map_line("101 s101s:8500;\n") == ("101", "s101s", 8500)
    assert parsers.map_line("\\default sdefaults:1;\n") == ("default", "sdefaults", 1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("101 s101s:8500\n", "line 1: expected <id> <service>:<port>;, found '101 s101s:8500\\n'"),
        ("101 s101s:8500;", "line 1: expected <id> <service>:<port>;, found '101 s101s:8500;'"),
        (
            "default sdefaults:1;\n",
            "line 1: expected a backslash before a reserved word of nginx, found 'default sdefaults:1;\\n'",
        ),
        ("~a sas:1;\n", "line 1: expected <id> <service>:<port>;, found '~a sas:1;\\n'"),
        ("a sas:x;\n", "line 1: expected <id> <service>:<port>;, found 'a sas:x;\\n'"),
        ("a  sas:1;\n", "line 1: expected <id> <service>:<port>;, found 'a  sas:1;\\n'"),
    ],
)
def test_another_map_line_is_refused(line, message):
    with pytest.raises(Unreadable) as refused:
        parsers.map_line(line)

    assert str(refused.value) == message


def test_a_list_line_is_read_with_its_uri():
    fields = ("101/3", "tensorflow", "101", "in_place", "120", "0123456789abcdef", "-")
    before = " ".join(fields)

    assert parsers.list_line(f"{before} gcs:b/a\n") == (fields, "gs://b/a")
    assert parsers.list_line(f"{before} s3:b/a b:c\n") == (fields, "s3://b/a b:c")
    assert parsers.list_line(f"{before} azureblob:b/a\n") == (fields, "az://b/a")
    assert parsers.list_line(f"{before} local:/files/a\n") == (fields, "file:///a")
    assert parsers.list_line(f"{before} https://b/a\n") == (fields, "https://b/a")


@pytest.mark.parametrize(
    "line",
    [
        "1 2 3 4 5 6 7 gcs:b/a",
        "1 2 3 4 5 6 gcs:b/a\n",
        "1 2 3 4 5 6 7 8 gcs:b/a\n",
        "1 2 3 4 5 6  gcs:b/a\n",
        "1 2 3 4 5 6 7\tgcs:b/a\n",
        " 1 2 3 4 5 6 7 gcs:b/a\n",
        "1 2 3 4 5 6 7 az:b/a\n",
        "1 2 3 4 5 6 7 http://b/a\n",
        "1 2 3 4 5 6 7 gcs:b/a \n",
        "1 2 3 4 5 6 7 gcs,x=y:a\n",
        "1 2 3 4 5 6 7 gcs:b$a\n",
        "1 2 3 4 5 6 7 gcs:b/a\n\n",
    ],
)
def test_another_list_line_is_refused(line):
    with pytest.raises(Unreadable) as refused:
        parsers.list_line(line)

    expected = "seven fields and a source"
    assert str(refused.value) == f"line 1: expected {expected}, found {line!r}"


def test_an_env_file_is_read_without_its_comments():
    assert parsers.env("# x\nA=1\n\nB_a=\n") == {"A": "1", "B_a": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\nA=2\n", "line 2: expected NAME=value, each name once, found 'A=2'"),
        ("A\n", "line 1: expected NAME=value, each name once, found 'A'"),
        ("\nA=$(x)\n", "line 2: expected NAME=value, each name once, found 'A=$(x)'"),
        ("export A=1\n", "line 1: expected NAME=value, each name once, found 'export A=1'"),
        ("A='x'\n", "line 1: expected NAME=value, each name once, found \"A='x'\""),
    ],
)
def test_another_env_file_is_refused(text, message):
    with pytest.raises(Unreadable) as refused:
        parsers.env(text)

    assert str(refused.value) == message


def test_commented_amounts_are_read_with_their_units():
    assert parsers.noted_amounts("# x: CPU_LIMIT 0.5, MEM_LIMIT 4g\nA=1") == {
        "CPU_LIMIT": ("0.5", 1),
        "MEM_LIMIT": ("4", 1 << 30),
    }
    assert parsers.noted_amounts("# x: CPU_LIMIT 1\nMEM_LIMIT 2g\n") == {"CPU_LIMIT": ("1", 1)}


def test_batching_parameters_are_read():
    text = "# x\nmax_batch_size { value: 1 }\nallowed_batch_sizes: 1\nallowed_batch_sizes: 2\npad_variable_length_inputs: true\n"
    text += 'thread_pool_name { value: "a-1" }\nenable_large_batch_splitting { value: false }\n'

    assert parsers.batching(text) == {
        "max_batch_size": 1,
        "allowed_batch_sizes": [1, 2],
        "pad_variable_length_inputs": True,
        "thread_pool_name": "a-1",
        "enable_large_batch_splitting": False,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'a { value: "b" } c: "" }\n',
            'line 1: expected a batching parameter, once, found \'a { value: "b" } c: "" }\'',
        ),
        ("a { value: x }\n", "line 1: expected a batching parameter, once, found 'a { value: x }'"),
        (
            "max_batch_size: 1\n",
            "line 1: expected a batching parameter, once, found 'max_batch_size: 1'",
        ),
        (
            "a { value: 1 }\na { value: 2 }\n",
            "line 2: expected a batching parameter, once, found 'a { value: 2 }'",
        ),
        (
            "pad_variable_length_inputs: true\npad_variable_length_inputs: true\n",
            "line 2: expected a batching parameter, once, found 'pad_variable_length_inputs: true'",
        ),
        (
            "allowed_batch_sizes: true\n",
            "line 1: expected a batching parameter, once, found 'allowed_batch_sizes: true'",
        ),
    ],
)
def test_another_batching_file_is_refused(text, message):
    with pytest.raises(Unreadable) as refused:
        parsers.batching(text)

    assert str(refused.value) == message


@pytest.mark.parametrize("text", [None, 1, "0", "${A}", "${A:-}", "${A:-1t}", "${A-1}", "x${A:-1}"])
def test_text_without_a_variable_and_an_amount_is_not_read(text):
    assert parsers.amount(text) is None


def test_an_amount_is_read_with_its_variable_and_unit():
    assert parsers.amount("${A_b:-1.5m}") == ("A_b", "1.5", 1 << 20)


PATTERN = "# {{ name | markdown }} of {{ place }}\n\nprose\n{{ rest }}```\nend\n"


def test_placeholders_are_read_with_their_lines():
    assert parsers.gaps("# a of b\n\nprose\nx\ny\n```\nend\n", PATTERN) == [
        (1, "name", "a"),
        (1, "place", "b"),
        (4, "rest", "x\ny\n"),
    ]


def test_the_last_placeholder_extends_to_the_end_and_others_to_the_next_match():
    inside = "x\n```\nend\ny\n"
    pattern = "-{{ x }}-{{ y }}.\n"

    assert parsers.gaps(f"# a of b\n\nprose\n{inside}```\nend\n", PATTERN)[-1] == (
        4,
        "rest",
        inside,
    )
    assert parsers.gaps("-1-2-3.\n", pattern) == [(1, "x", "1"), (1, "y", "2-3")]
    assert parsers.gaps("--.\n", pattern) == [(1, "x", ""), (1, "y", "")]
    assert parsers.gaps("\na\n", "\n{{ x }}\n") == [(2, "x", "a")]


def test_only_the_start_of_a_long_trailing_text_is_shown():
    with pytest.raises(Unreadable) as refused:
        parsers.gaps("\na" + "m" * 80, "\na")

    assert str(refused.value) == f"line 2: expected the end, found '{'m' * 60}'"


def test_a_pattern_without_placeholders_matches_its_text():
    assert parsers.gaps("a\n", "a\n") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected '# ', found ''"),
        ("## a of b\n\nprose\n```\nend\n", "line 1: expected '# ', found '##'"),
        ("# a from b\n\nprose\n```\nend\n", "line 1: expected ' of ', found 'a fr'"),
        ("# a of b\n\nverse\n```\nend\n", "line 3: expected 'prose', found 'verse'"),
        ("# a of b\n\nprose\n```\nends\n", "line 5: expected 'end', found 'ends'"),
        ("# a of b\n\nprose\n```\nend\nmore\n", "line 6: expected the end, found 'more\\n'"),
        ("# a of b\n\nprose\n```\n", "line 5: expected 'end', found ''"),
    ],
)
def test_a_text_that_does_not_match_the_pattern_is_refused_with_its_line(text, message):
    with pytest.raises(Unreadable) as refused:
        parsers.gaps(text, PATTERN)

    assert str(refused.value) == message


def test_options_are_read_with_the_key_they_are_below():
    service = "  a:\n    x:\n      - 1\n      #- 2\n    y: 3\n    #z: 4\n"

    assert parsers.options(service) == [(4, ("x", 6), "#- 2"), (6, ("y", 4), "#z: 4")]
    assert parsers.options("  a:\n      #b\n    x: y:z\n    - v: 1\n    #c\n") == [
        (2, ("", 6), "#b"),
        (5, ("x", 4), "#c"),
    ]


@pytest.mark.parametrize(
    ("text", "comments"),
    [
        ("  a:\n    b: 1 #c\n", []),
        ("  a:\n    b: 1\n    #c\n    # d\n    #\n", [(3, 4, True), (4, 4, False), (5, 4, False)]),
        ("  a:\n    b: |\n      #c\n      #d\n    #e\n", [(5, 4, True)]),
        ("  a:\n    b:\n      - 'c\n        #d\n        '\n      ##e\n", [(6, 6, True)]),
        ("  a:\n    b: >-\n      #c\n\n  # d\n", [(5, 2, False)]),
    ],
)
def test_comments_are_read_with_their_place_and_kind(text, comments):
    found = [
        (comment.line, comment.column, comment.is_option) for comment in parsers.comments(text)
    ]

    assert found == comments


def test_comments_of_what_is_no_yaml_are_refused_with_the_line():
    with pytest.raises(Unreadable) as refused:
        parsers.comments("  a: 1\n  #b\n  c: d: e\n")

    assert refused.value.line == 3


def test_a_green_listing_is_active():
    assert (
        parsers.switched_on("  a:\n    ...\n>     #- 1#\n      #- 2")
        == "  a:\n      - 1#\n      #- 2"
    )


def test_directives_of_nginx_are_read_at_every_depth():
    found = parsers.nginx(
        '# x\nmap $a $b {\n    default "";\n    include f;\n}\nevents { }\nlog "a;{";\n'
    )

    assert [
        (finding.name, finding.words, finding.line, sorted(finding.inside)) for finding in found
    ] == [
        ("default", ("",), 3, []),
        ("include", ("f",), 4, []),
        ("map", ("$a", "$b"), 2, [("default", ""), ("include", "f")]),
        ("events", (), 6, []),
        ("log", ("a;{",), 7, []),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "line 1: expected ';' or '}' before the end, found the end"),
        ("a {\n", "line 1: expected ';' or '}' before the end, found the end"),
        ("a;\n}\n", "line 2: expected a brace that closes what was opened, behind ';', found '}'"),
        (";\n", "line 1: expected a directive, found ';'"),
        (
            "a {\n b }\n",
            "line 2: expected a brace that closes what was opened, behind ';', found '}'",
        ),
        ('a;\n"b\n', "line 2: expected a word, a quoted word, ';' or a brace, found '\"b\\n'"),
    ],
)
def test_another_configuration_of_nginx_is_refused(text, message):
    with pytest.raises(Unreadable) as refused:
        parsers.nginx(text)

    assert str(refused.value) == message

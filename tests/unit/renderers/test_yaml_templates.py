"""YAML templates (the home of ruamel.yaml): placeholders in values, keys and comments, and
unambiguous values.
"""

import re
from collections.abc import Callable, Iterator
from itertools import product

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from renderers import yaml_templates
from renderers.errors import UnsafeText
from renderers.platforms import PLATFORMS
from renderers.template_set import Templates
from tests.strategies import images, plain_texts, slugs

TEXT = """\
# of <name>
<name>:
  plain: <value>
  quoted: "<value>"
  "<key:0>": x
  list:
    - a<value>b
    #- <value> <int_val>

    - <value>
"""


def read_both(text: str) -> tuple[object, object]:
    return pyyaml.safe_load(text), YAML(typ="safe", pure=True).load(text)


def test_placeholders_are_filled_in_values_keys_and_comments():
    filled = yaml_templates.Template.parse(TEXT).filled(
        {"name": "model", "value": "v w", "key:0": "k"}
    )

    assert filled == TEXT.replace("<name>", "model").replace("<value>", "v w").replace(
        "<key:0>", "k"
    )


def test_a_number_stays_a_number():
    assert yaml_templates.Template.parse("<name>: 3\n").filled({"name": "model"}) == "model: 3\n"


def test_a_placeholder_in_a_key_and_in_its_comment_is_filled():
    text = "<name>: x # of <name>\nother: y\n"

    assert yaml_templates.Template.parse(text).filled({"name": "models"}) == text.replace(
        "<name>", "models"
    )


def test_a_filled_text_is_not_filled_again():
    assert yaml_templates.Template.parse("a: <x>\n").filled({"x": "<y>", "y": "z"}) == "a: <y>\n"


def test_a_placeholder_without_a_value_stays():
    assert yaml_templates.Template.parse(TEXT).filled({}) == TEXT


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [\n", 3),
        ("a: 1\na: 2\n", 2),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 1\nb: \x07", 2),
        ("- a\n", 1),
        ("", 1),
    ],
)
def test_a_text_that_is_not_a_yaml_mapping_is_refused_with_its_line(text, line):
    with pytest.raises(yaml_templates.NotYaml) as refused:
        yaml_templates.Template.parse(text)

    assert refused.value.line == line
    assert str(refused.value)


def test_a_template_can_be_filled_repeatedly():
    template = yaml_templates.Template.parse(TEXT)

    assert template.filled({"name": "a"}) != template.filled({"name": "b"})
    assert template.filled({}) == TEXT


@pytest.mark.parametrize(
    "text",
    [
        "on",
        "Yes",
        "n",
        "NULL",
        "~",
        "1",
        "+1",
        "1_000",
        "1e3",
        "1.5e-3",
        ".5",
        "-.inf",
        ".NaN",
        "0x1F",
        "0o7",
        "012",
        "0b1",
        "12:30",
        "1:2:3",
        "2026-01-01",
        "2026-01-01 10:00:00",
    ],
)
def test_text_that_some_reader_parses_as_another_type_is_quoted(text):
    filled = yaml_templates.Template.parse("a: <x>\n").filled({"x": text})

    assert filled == f'a: "{text}"\n'
    assert yaml_templates.written(text) == f'"{text}"'


@pytest.mark.parametrize(
    "text",
    [
        "visual-anomaly",
        "1-nginx",
        "registry.example.com/a/b:1.0",
        "./x",
        "${A:-0}",
        "--x",
        "10.0.0.1:5000/a",
    ],
)
def test_text_that_every_reader_parses_as_text_is_plain(text):
    assert yaml_templates.Template.parse("a: <x>\n").filled({"x": text}) == f"a: {text}\n"
    assert yaml_templates.written(text) == text


@given(slugs | images)
def test_a_filled_value_reads_the_same_in_both_versions_of_yaml(text):
    filled = yaml_templates.Template.parse('<x>:\n  - <x>\n  - "<x>"\n').filled({"x": text})

    assert read_both(filled) == ({text: [text, text]}, {text: [text, text]})


PLACES = {
    "a value": "a: <x>\n",
    "a key": "<x>: 1\nother: 2\n",
    "an entry": "a:\n  - <x>\n",
    "an entry on one line": "a: [<x>, b]\n",
    "the start of a value": "a: <x>/b\n",
    "the middle of a value": "a: --b=<x>s\n",
    "the end of a value": "a: b <x>\n",
    "behind a colon": "a: b:<x>:c\n",
    "a variable's default": "a: ${B:-<x>}\n",
    "double quotes": 'a: "<x>"\n',
    "double quotes with more": 'a: "b <x> c"\n',
    "single quotes": "a: 'b <x>'\n",
    "a folded text": "a: >-\n  b <x>\n",
    "a literal text": "a: |\n  b <x>\n",
    "a comment": "a: b  # <x>\n",
    "a switched-off entry": "a:\n  - b\n  #- <x>\n",
    "twice": 'a: <x>-<x>\nb: "<x>"\n',
    "behind a digit": "a: 1<x>\n",
    "before a comment": "a: <x>  # c\nb: c\n",
    "between quotes before a comment": 'a: "<x>"  # c\nb: c\n',
    "on one line before a comment": "a: [<x>, b]  # c\nb: c\n",
    "a key before a comment": "<x>: a  # <x>\nb: c\n",
    "one of the keys": "a-<x>: 1\n<x>-b: 2\na-b: 3\n8: 4\n",
    "a key of many parts": f"{'-'.join(['<x>'] * 8)}: 1\n",
}
AWKWARD = (
    *(
        "",
        " ",
        "-",
        "- a",
        "-a",
        "a-",
        "?",
        "? a",
        ":",
        "a:",
        ":a",
        "a: b",
        "a :b",
        "a:b",
        "#",
        "a #b",
        "a#b",
        " a",
        "a ",
    ),
    *(
        "'",
        '"',
        "'a'",
        '"a"',
        "a'b",
        'a"b',
        "\\",
        "a\\b",
        "\\n",
        "{",
        "}",
        "[",
        "]",
        "{}",
        "[]",
        "a,b",
        "a, b",
        ",",
        "&a",
    ),
    *(
        "*a",
        "!a",
        "!!str a",
        "|",
        ">",
        "%a",
        "@a",
        "`a",
        "~",
        "null",
        "Null",
        "true",
        "on",
        "y",
        "N",
        "=",
        "<<",
        "---",
    ),
    *(
        "...",
        "1",
        "1.0",
        "1e3",
        "0x1f",
        "0o7",
        "0b1",
        "1_0",
        "12:30",
        "1:2",
        "2026-01-01",
        ".5",
        ".inf",
        "-1",
        "+1",
        "1.",
    ),
    *(
        "a\tb",
        "a\nb",
        "\n",
        "a\r\nb",
        "\x85",
        "\u2028",
        "\ufeff",
        "\x00",
        "\x7f",
        "é",
        "日本",
        "\U0001f600",
        "\u202e",
    ),
    *(
        "<x>",
        "<y>",
        "mark0x",
        "mark0x0123456789abcdef",
        "a" * 5000,
        "a " * 3000,
        "$",
        "$$",
        "${A}",
        "a=b",
        "a@b",
        "a~b",
        "other",
        "b",
        "e3",
    ),
)


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_directly_inserted_value_equals_what_ruamel_writes(place):
    template = yaml_templates.Template.parse(place)
    values = [
        {"x": value} for value in (*AWKWARD, "abc", "a-b_c", "r.example.com:5000/a/b:1.0@sha256:00")
    ]

    assert [_either(template.filled, item) for item in values] == [
        _either(template._written, item) for item in values
    ]


@given(
    st.sampled_from(sorted(PLACES.values())), slugs | images | plain_texts | st.text(max_size=12)
)
@settings(max_examples=300)
def test_any_directly_inserted_value_equals_what_ruamel_writes(place, value):
    template = yaml_templates.Template.parse(place)

    assert _either(template.filled, {"x": value}) == _either(template._written, {"x": value})


@pytest.mark.parametrize(
    ("loosened", "place", "value"),
    [
        (r".*", "a value", "'"),
        (r"[A-Za-z0-9:]+", "a value", "a:"),
        (r"[A-Za-z0-9:]+", "a value", ":"),
        (r"[A-Za-z0-9-]+", "a value", "-"),
        (r"[A-Za-z0-9@]+", "a value", "@a"),
        (r"[A-Za-z0-9 #]+", "a value", "a #b"),
        (r"[A-Za-z0-9 ]+", "a value", "a "),
        (r"[A-Za-z0-9,]+", "an entry on one line", "a,b"),
        (r"[A-Za-z0-9&]+", "a value", "&a"),
        (r"[A-Za-z0-9!]+", "a value", "!a"),
        (r"[A-Za-z0-9=]+", "a value", "="),
        (r"[A-Za-z0-9\n]+", "a value", "a\nb"),
        (r"[^'\"]+", "a value", "\x85"),
        (r"[A-Za-z0-9é\x7f]+", "a value", "\x7f"),
    ],
)
def test_every_restriction_of_direct_insertion_is_needed(monkeypatch, loosened, place, value):
    template = yaml_templates.Template.parse(PLACES[place])
    monkeypatch.setattr(yaml_templates, "_NEVER_QUOTED", re.compile(loosened, re.DOTALL))

    assert template.filled({"x": value}) != template._written({"x": value})


@pytest.mark.parametrize("value", ['"', "\\", "\x07", "\n", "\x85"], ids=ascii)
def test_every_restriction_of_direct_insertion_in_double_quotes_is_needed(monkeypatch, value):
    template = yaml_templates.Template.parse(PLACES["double quotes"])
    monkeypatch.setattr(yaml_templates, "_NEVER_ESCAPED", re.compile(r".*", re.DOTALL))

    assert template.filled({"x": value}) != template._written({"x": value})


@pytest.mark.parametrize("value", ["1", "on", "null", "1e3", "12:30", "2026-01-01"])
def test_every_entry_of_the_list_of_ambiguous_values_is_needed(monkeypatch, value):
    quoted = yaml_templates.Template.parse("a: <x>\n").filled({"x": value})
    monkeypatch.setattr(yaml_templates, "_AMBIGUOUS", re.compile(r"(?!)"))

    assert yaml_templates.Template.parse("a: <x>\n").filled({"x": value}) != quoted


def _either(fill: Callable[[dict[str, str]], str], values: dict[str, str]) -> str:
    """The text, or the name of the error.

    Some texts ruamel.yaml cannot write; then neither way may.
    """
    try:
        return fill(values)
    except (YAMLError, ValueError, UnsafeText) as error:
        return type(error).__name__


def test_a_duplicate_key_is_refused():
    template = yaml_templates.Template.parse("<x>: 1\n<y>: 2\nother: 3\n")

    assert template.filled({"x": "a", "y": "b"}) == "a: 1\nb: 2\nother: 3\n"
    for values in ({"x": "a", "y": "a"}, {"x": "other", "y": "b"}):
        with pytest.raises(UnsafeText, match="in a mapping that has this key already"):
            template.filled(values)


@pytest.mark.parametrize(
    "value", ["a\nb: c", "a\r", "\x85b", "\u2028", "\ufeff", "\x07"], ids=ascii
)
def test_a_value_that_would_end_a_comment_is_refused(value):
    template = yaml_templates.Template.parse("a: 1\n# <x>\n")

    assert template.filled({"x": """'"#: é\\"""}) == """a: 1\n# '"#: é\\\n"""
    with pytest.raises(UnsafeText, match="in a comment"):
        template.filled({"x": value})


def test_the_limit_of_a_keys_length_is_needed(monkeypatch):
    template = yaml_templates.Template.parse(PLACES["a key"])
    monkeypatch.setattr(yaml_templates, "_MAX_KEY_LENGTH", 10_000)

    assert template.filled({"x": "a" * 200}) != template._written({"x": "a" * 200})


def test_text_before_a_comment_needs_full_emission(monkeypatch):
    monkeypatch.setattr(yaml_templates, "_COMMENT_BEHIND", re.compile(r"(?!)"))
    template = yaml_templates.Template.parse(PLACES["before a comment"])

    assert template.filled({"x": "a"}) != template._written({"x": "a"})


def _variants() -> Iterator[pytest.ParameterSet]:
    """Every shape that a service of the package's own templates can have."""
    built_in = Templates.built_in()
    shapes = {
        "labels": (0, 2),
        "gpu": (None, "all", 2),
        "devices": (0, 2),
        "batching": (False, True),
        "update": ("in_place", "restart"),
        "files": (False, True),
        "require_all": (True, False),
    }
    plain = dict.fromkeys(
        ("environment", "arguments", "loaded_models", "shm_size", "start_period"), 0
    ) | {"driver": None, "memory_fraction": False, "options_set": ()}
    options = {option for platform in PLATFORMS.values() for option in platform.options}
    full = dict.fromkeys(plain, 2) | {"driver": "nvidia", "options_set": options}
    for name in ("model_download", "router", "proxy", "networks", *PLATFORMS):
        for more, shape in product((plain, full), product(*shapes.values())):
            text = built_in.render(f"{name}.yaml", **more, **dict(zip(shapes, shape, strict=True)))
            kind = "-full" if more is full else ""
            yield pytest.param(text, id=f"{name}-{'-'.join(map(str, shape))}{kind}")


VARIANTS = {variant.values[0]: variant for variant in _variants()}.values()
ORDINARY = (
    "101",
    "a-b_c",
    "registry.example.com/a/b:1.0",
    "0.5",
    "4g",
    "unless-stopped",
    "deadbeefdeadbeef",
)


def _placeholders(text: str) -> list[str]:
    return sorted(
        set(yaml_templates._PLACEHOLDER.findall(text)) - {"int_val", "inference_svc_name_format"}
    )


@pytest.mark.parametrize("text", VARIANTS)
@given(data=st.data())
@settings(max_examples=15)
def test_an_assembled_service_equals_what_ruamel_writes(text, data):
    template = yaml_templates.Template.parse(text)
    texts = st.sampled_from(ORDINARY) | st.sampled_from(AWKWARD) | slugs | images | plain_texts
    values = data.draw(st.fixed_dictionaries(dict.fromkeys(_placeholders(text), texts)))

    assert _either(template.filled, values) == _either(template._written, values)


@pytest.mark.parametrize("text", VARIANTS)
def test_a_service_of_ordinary_values_needs_no_ruamel(monkeypatch, text):
    template = yaml_templates.Template.parse(text)
    ordinary = [
        {name: f"{value}{index}" for index, name in enumerate(_placeholders(text))}
        for value in ("a", "r/b:")
    ]
    wanted = [template._written(values) for values in ordinary]
    monkeypatch.delattr(yaml_templates, "dump")

    assert [template.filled(values) for values in ordinary] == wanted

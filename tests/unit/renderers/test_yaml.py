"""ruamel.yaml's home: placeholders filled in values, keys and comments; values that every reader of YAML reads alike."""

import pytest
import yaml as pyyaml
from hypothesis import example, given, settings
from ruamel.yaml import YAML

from renderers import yaml
from tests.strategies import images, json_documents, slugs

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
    filled = yaml.Template.parse(TEXT).filled({"name": "model", "value": "v w", "key:0": "k"})

    assert filled == TEXT.replace("<name>", "model").replace("<value>", "v w").replace("<key:0>", "k")


def test_a_number_stays_a_number():
    assert yaml.Template.parse("<name>: 3\n").filled({"name": "model"}) == "model: 3\n"


def test_a_comment_beside_a_key_goes_with_the_key():
    text = "<name>: x # of <name>\nother: y\n"

    assert yaml.Template.parse(text).filled({"name": "models"}) == text.replace("<name>", "models")


def test_a_filled_text_is_not_filled_again():
    assert yaml.Template.parse("a: <x>\n").filled({"x": "<y>", "y": "z"}) == "a: <y>\n"


def test_a_placeholder_without_a_value_stays():
    assert yaml.Template.parse(TEXT).filled({}) == TEXT


def test_a_template_can_be_filled_again_and_again():
    template = yaml.Template.parse(TEXT)

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
def test_what_some_reader_takes_for_something_else_is_quoted(text):
    filled = yaml.Template.parse("a: <x>\n").filled({"x": text})

    assert filled == f'a: "{text}"\n'
    assert yaml.written(text) == f'"{text}"'


@pytest.mark.parametrize(
    "text", ["visual-anomaly", "1-nginx", "registry.example.com/a/b:1.0", "./x", "${A:-0}", "--x", "10.0.0.1:5000/a"]
)
def test_what_every_reader_takes_for_text_is_plain(text):
    assert yaml.Template.parse("a: <x>\n").filled({"x": text}) == f"a: {text}\n"
    assert yaml.written(text) == text


@given(slugs | images)
@settings(deadline=None)
def test_a_filled_value_reads_the_same_in_both_versions_of_yaml(text):
    filled = yaml.Template.parse('<x>:\n  - <x>\n  - "<x>"\n').filled({"x": text})

    assert read_both(filled) == ({text: [text, text]}, {text: [text, text]})


@given(json_documents)
@example({"a": None, "b": [None, 1.0, 5e-324, 1e22, -0.0, True], "c": {}, "d": [], "e": [[]], "f": [{"x": {}}]})
@example({"\x85\u2028\ufeff": "\x07\t\n\x85 ", "": "", " ": " a ", "<<": "=", "? a": "- b", "k" * 200: "v" * 500})
@settings(deadline=None)
def test_a_document_reads_as_what_it_was_in_both_versions_of_yaml(document):
    text = yaml.document(document, "# heading\n")

    assert text.startswith("# heading\n")
    assert all(line == line.rstrip(" \t\r") for line in text.split("\n"))
    assert [repr(value) for value in read_both(text)] == [repr(document)] * 2

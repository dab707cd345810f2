"""JSON documents as YAML: what ruamel.yaml would write, and what both versions of YAML read as the
same value.
"""

from io import StringIO

import yaml as pyyaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from renderers.yaml_emitter import as_yaml
from renderers.yaml_templates import plain_or_quoted
from tests.strategies import json_documents, json_values


def read_both(text: str) -> tuple[object, object]:
    return pyyaml.safe_load(text), YAML(typ="safe", pure=True).load(text)


@given(json_documents)
@example(
    {
        "a": None,
        "b": [None, 1.0, 5e-324, 1e22, -0.0, True],
        "c": {},
        "d": [],
        "e": [[]],
        "f": [{"x": {}}],
    }
)
@example(
    {
        "\x85\u2028\ufeff": "\x07\t\n\x85 ",
        "": "",
        " ": " a ",
        "<<": "=",
        "? a": "- b",
        "k" * 200: "v" * 500,
    }
)
def test_a_document_round_trips_in_both_versions_of_yaml(document):
    text = as_yaml(document, "# heading\n")

    assert text.startswith("# heading\n")
    assert all(line == line.rstrip(" \t\r") for line in text.split("\n"))
    assert [repr(value) for value in read_both(text)] == [repr(document)] * 2


class _AsJson(RoundTripRepresenter):
    """null and numbers that YAML 1.1 reads like JSON."""

    def represent_null(self, _: None) -> object:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")

    def represent_number(self, number: float) -> object:
        mantissa, e, exponent = repr(number).partition("e")
        text = mantissa if "." in mantissa else f"{mantissa}.0"
        return self.represent_scalar("tag:yaml.org,2002:float", text + e + exponent)


_AsJson.add_representer(type(None), _AsJson.represent_null)
_AsJson.add_representer(float, _AsJson.represent_number)


def _node(value: object) -> object:
    match value:
        case dict():
            return CommentedMap({_node(key): _node(child) for key, child in value.items()})
        case list():
            sequence = CommentedSeq([_node(child) for child in value])
            if not any(isinstance(child, dict | list) for child in value):
                sequence.fa.set_flow_style()
            return sequence
        case str():
            return (
                DoubleQuotedScalarString(value) if plain_or_quoted(value).startswith('"') else value
            )
        case _:
            return value


def _written_by_ruamel(document: object) -> str:
    writer, stream = YAML(), StringIO()
    writer.Representer, writer.width = _AsJson, 1 << 30
    writer.indent(mapping=2, sequence=4, offset=2)
    writer.dump(_node(document), stream)
    return stream.getvalue()


# At the limits of escaping, of line breaks, and of the length beyond which a key is written
# differently.
_edges = st.text(
    "ab -:#'\"\\\t\n\x7f\x80\x85\xa0\u2027\u2028\u2029\u202a\ud7ff\ue000\ufefe\ufeff\uff00\ufffd\U00010000\U0010ffff",
    max_size=8,
)
_keys = _edges | st.integers(119, 126).map("k".__mul__)


@given(
    json_documents
    | st.dictionaries(
        _keys,
        st.recursive(
            _edges | json_values,
            lambda part: st.lists(part, max_size=3) | st.dictionaries(_keys, part),
        ),
        max_size=3,
    )
)
@example(
    {
        "a": [[1, [2, {}]], [], [{"x": [{"y": []}], "z": 1}], {}],
        "k" * 122: 1,
        "k" * 123: [{"x": 1}],
        "a\nb": {"c": [1], "d": 2},
    }
)
@example({})
@settings(max_examples=200)
def test_a_document_equals_what_ruamel_writes(document):
    assert as_yaml(document, "") == _written_by_ruamel(document)

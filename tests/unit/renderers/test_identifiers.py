"""What may reach a rendered file at all: one allow-list for each kind of text."""

import pytest
from pydantic import TypeAdapter, ValidationError

from renderers import identifiers


def accepted(kind: object, value: object) -> object:
    """The value as the rule keeps it, or None when it is refused."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return None


HOSTILE = ("", " a", "a\n", "$(id)", "a;b", "a b", "é", "\x00", "a{b}", "../a", "`id`", "a'b", 'a"b', "\u202ea")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "kind",
    ["ModelId", "BundleName", "TargetName", "ModelVersion", "Digest", "DeviceId", "Image", "ArtifactUri", "LabelKey"],
)
def test_hostile_text_is_refused(kind, text):
    assert accepted(getattr(identifiers, kind), text) is None


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("ModelId", "a" * 61),
        ("ModelId", "default"),
        ("ModelId", "a_b-c"),
        ("BundleName", "a" * 57),
        ("TargetName", "a" * 63),
        ("ModelVersion", "v1.2+b_3"),
        ("Digest", "sha256:" + "0" * 64),
        ("DeviceId", "GPU-1a:0"),
        ("Image", "localhost:5000/a/b_c:1.0@sha256:" + "0" * 64),
        ("Image", "nginx"),
        ("ArtifactUri", "gs://bucket/a/b=1"),
        ("LabelKey", "cost-centre"),
        ("LabelValue", ""),
        ("LabelValue", "é $x"),
        ("DisplayName", "Kratzer 日本"),
    ],
)
def test_a_well_formed_text_is_kept_as_it_is(kind, text):
    assert accepted(getattr(identifiers, kind), text) == text


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("ModelId", "a" * 62),
        ("ModelId", "A"),
        ("ModelId", "-a"),
        ("ModelId", "a_"),
        ("ModelId", 101),
        ("BundleName", "a" * 58),
        ("TargetName", "a" * 64),
        ("ModelVersion", "a" * 129),
        ("Digest", "sha256:" + "A" * 64),
        ("Image", "registry.example.com/UPPER"),
        ("Image", "a" * 513),
        ("ArtifactUri", "http://bucket/a"),
        ("ArtifactUri", "s3://bucket"),
        ("ArtifactUri", "s3://bucket/a//b"),
        ("ArtifactUri", "s3://bucket/a/../b"),
        ("ArtifactUri", "s3://user@bucket/a"),
        ("ArtifactUri", "s3://bucket/a?x=1"),
        ("LabelKey", "com.docker.compose.project"),
        ("LabelKey", "bundle.models"),
        ("LabelValue", "a\nb"),
        ("LabelValue", "a" * 501),
        ("DisplayName", ""),
        ("DisplayName", "a\u202eb"),
        ("DisplayName", "a\u0085b"),
    ],
)
def test_a_text_beyond_its_rule_is_refused(kind, text):
    assert accepted(getattr(identifiers, kind), text) is None


def test_a_slash_at_the_end_of_a_uri_is_dropped():
    assert accepted(identifiers.ArtifactUri, "gs://bucket/a/") == "gs://bucket/a"


@pytest.mark.parametrize(
    ("given", "kept"),
    [(2, "2"), (0.5, "0.5"), ("2.250", "2.25"), ("0", "0"), (0.0, "0"), ("1e1", "10"), (10_000, "10000")],
)
def test_cpus_are_kept_as_normalised_decimal_text(given, kept):
    assert accepted(identifiers.Cpus, given) == kept


@pytest.mark.parametrize("given", [True, None, [], "two", "500m", -1, 10_001, 0.0001, float("nan"), float("inf")])
def test_what_is_no_number_of_cpus_is_refused(given):
    assert accepted(identifiers.Cpus, given) is None


@pytest.mark.parametrize(
    ("given", "kept"), [("4g", 4 << 30), ("512MiB", 512 << 20), ("1.5k", 1536), ("7b", 7), (1000, 1000), (0, 0)]
)
def test_memory_is_kept_in_bytes(given, kept):
    assert accepted(identifiers.Memory, given) == kept


@pytest.mark.parametrize("given", [True, None, "4", "4Gib ", "4t", "-1g", -1, (1 << 50) + 1, 1.5])
def test_what_is_no_amount_of_memory_is_refused(given):
    assert accepted(identifiers.Memory, given) is None


def test_a_variables_name_has_underscores_for_hyphens():
    assert identifiers.variable_name("a-b_c") == "a_b_c"

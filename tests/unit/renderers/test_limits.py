"""Limits of a composition: each excess is reported with its setting."""

import json

import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from renderers import composition as values
from renderers.bundle import Renderer
from renderers.composition import MAX_MODELS, Composition
from renderers.limits import BundleLimits, TooBig, files_of
from tests.builders import GOLDEN_DEFAULTS, STAMP, composition_document, make_composition
from tests.strategies import compositions


def with_signature(document: object) -> Composition:
    given = composition_document(1)
    given["proxy"]["signature"] = {"document": document}
    return Composition.model_validate(given)


def nested(levels: int) -> object:
    document: object = "end"
    for level in range(levels):
        document = {"a": document} if level % 2 == 0 or level == levels - 1 else [document]
    return document


def test_a_composition_within_every_limit_passes():
    BundleLimits().check(make_composition(50))


@pytest.mark.parametrize(
    ("most", "composition", "message"),
    [
        (
            {"models": 2},
            make_composition(3),
            "the bundle has 3 models; the limit is 2 (setting limits.models)",
        ),
        (
            {"files": 18},
            make_composition(1),
            "the bundle has 19 files; the limit is 18 (setting limits.files)",
        ),
        (
            {"signature_depth": 4},
            with_signature(nested(5)),
            "the bundle has 5 levels in its proxy's signature; the limit is 4",
        ),
        (
            {"signature_bytes": 9},
            with_signature({"a": "é"}),
            "the bundle has 10 bytes in its proxy's signature; the limit is 9",
        ),
    ],
    ids=["models", "files", "depth", "signature"],
)
def test_a_value_above_a_limit_is_reported_with_the_setting(most, composition, message):
    with pytest.raises(TooBig) as refused:
        BundleLimits(**most).check(composition)

    assert str(refused.value).startswith(message)


@pytest.mark.parametrize(
    ("name", "composition"),
    [
        ("models", make_composition(3)),
        ("files", make_composition(3)),
        ("composition_bytes", make_composition(3)),
        ("signature_bytes", with_signature({"a": "é" * 50})),
        ("signature_depth", with_signature(nested(7))),
    ],
)
def test_a_value_of_exactly_the_limit_is_accepted(name, composition):
    size = {
        "models": len(composition.models),
        "files": files_of(composition),
        "composition_bytes": len(composition.canonical.encode()),
        "signature_bytes": len(
            json.dumps(
                composition.proxy.signature.document, separators=(",", ":"), ensure_ascii=False
            ).encode()
        ),
        "signature_depth": 7,
    }[name]

    BundleLimits(**{name: size}).check(composition)
    with pytest.raises(TooBig, match=f"limits.{name}"):
        BundleLimits(**{name: size - 1}).check(composition)


def test_a_limit_cannot_exceed_what_readers_accept():
    assert BundleLimits(composition_bytes=32 << 20)
    with pytest.raises(ValidationError, match="composition_bytes"):
        BundleLimits(composition_bytes=(32 << 20) + 1)


def test_everything_too_large_is_reported_at_once():
    with pytest.raises(TooBig) as refused:
        BundleLimits(models=1, files=15, composition_bytes=10).check(make_composition(2))

    assert [excess.part for excess in refused.value.excesses] == [".models", "", ""]
    assert str(refused.value) == "; ".join(excess.message for excess in refused.value.excesses)
    assert (
        "bytes; the limit is 10 (setting limits.composition_bytes)"
        in refused.value.excesses[2].message
    )


@pytest.mark.parametrize("name", ["signature_bytes", "signature_depth"])
def test_a_too_large_signature_is_reported_at_its_place(name):
    with pytest.raises(TooBig) as refused:
        BundleLimits(**{name: 1}).check(with_signature(nested(3)))

    assert [excess.part for excess in refused.value.excesses] == [".proxy.signature"]


def test_a_limit_is_not_a_boolean():
    with pytest.raises(ValidationError, match=r"Value error, must be a number \["):
        BundleLimits(models=True)


@pytest.mark.parametrize(
    ("document", "levels"),
    [(1, 0), ([], 1), ({"a": [[[]]], "b": [], "c": 1}, 4), ([1, [{}], 2, [[[[]]]], 3], 5)],
)
def test_a_document_is_as_deep_as_its_deepest_part(document, levels):
    assert values._depth(document) == levels


def test_a_very_deep_document_is_measured_without_recursion():
    document: object = 0
    for _ in range(100_000):
        document = [document]
    assert values._depth({"a": document}) == 100_001


def test_no_setting_exceeds_the_capacity_of_a_composition():
    with pytest.raises(ValidationError):
        BundleLimits(models=MAX_MODELS + 1)


@given(compositions())
@settings(max_examples=25)
def test_the_files_are_counted_as_they_are_rendered(composition):
    assert files_of(composition) == len(Renderer().render(composition, GOLDEN_DEFAULTS, STAMP))

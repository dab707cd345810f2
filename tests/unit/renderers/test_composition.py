"""The composition: canonical form, identity, and refusals."""

import hashlib
import json

import pytest
from hypothesis import given, settings
from pydantic import ValidationError

from renderers.composition import Composition, ModelChange, RenderDefaults, default_serving_version
from renderers.values import canonical_json, known_fields
from tests.builders import (
    composition_document,
    golden_composition,
    golden_document,
    make_composition,
    make_model,
)
from tests.strategies import compositions, render_defaults


@given(compositions())
@settings(max_examples=60)
def test_the_canonical_form_round_trips_with_the_same_digest(composition):
    again = Composition.model_validate(json.loads(composition.canonical))

    assert again == composition
    assert again.digest == composition.digest


@given(compositions())
@settings(max_examples=60)
def test_the_assembled_canonical_form_equals_that_of_the_whole(composition):
    whole = {
        "bundle": known_fields(composition.bundle),
        "models": [known_fields(model) for model in composition.models],
        "proxy": known_fields(composition.proxy),
    }

    assert composition.canonical == canonical_json(whole)


def test_the_order_of_models_spellings_and_unknown_fields_change_no_digest():
    document = composition_document(4)
    document["models"].reverse()
    document["models"][0] |= {"unknown": 1, "name": None}
    spelled = {
        "limits": {"cpus": "2.0", "memory": 4 << 30},
        "reservations": {"cpus": "0.50", "memory": "1024m"},
    }
    next(model for model in document["models"] if model["id"] == "104")["serving"]["resources"] = (
        spelled
    )

    assert Composition.model_validate(document).digest == make_composition(4).digest


def test_the_digest_of_the_golden_composition_never_changes():
    """Manifests contain it, so a change of it is a change of the protocol."""
    assert (
        golden_composition().digest
        == "8fcbfde0802ed4526b2595aeb7a6e34b16ff1998c356d54f3542ac7946cd1361"
    )


def test_with_model_replaces_by_id_and_keeps_the_order():
    composition = (
        make_composition(3).with_model(make_model("102", version="9")).with_model(make_model("1"))
    )

    assert [(model.id, model.version) for model in composition.models] == [
        ("1", "1"),
        ("101", "1"),
        ("102", "9"),
        ("103", "3"),
    ]
    assert composition == Composition.model_validate(json.loads(composition.canonical))
    assert composition.model("102") == make_model("102", version="9")
    assert composition.model("nobody") is None


def test_ids_that_differ_only_by_hyphen_and_underscore_are_refused():
    document = composition_document(1)
    document["models"] = [make_model("a-b").model_dump(), make_model("a_b").model_dump()]

    with pytest.raises(ValidationError, match="unique ids"):
        Composition.model_validate(document)
    with pytest.raises(
        ValueError, match=r"^ids must be unique, also with '-' read as '_': 'a-b' and 'a_b'$"
    ):
        make_composition(1).with_model(make_model("a-b")).with_model(make_model("a_b"))


def test_a_full_bundle_accepts_no_new_model_but_a_new_version(monkeypatch):
    monkeypatch.setattr("renderers.composition.MAX_MODELS", 3)
    composition = make_composition(3)

    assert len(composition.with_model(make_model("101", version="9")).models) == 3
    with pytest.raises(ValueError, match=r"^a bundle has at most 3 models$"):
        composition.with_model(make_model("new"))


@pytest.mark.parametrize(
    "number",
    ["1", "42", "0042", "2147483647", "2147483648", "20261129101500", "9223372036854775807"],
)
def test_a_version_that_is_a_positive_number_is_the_serving_version(number):
    assert default_serving_version(number, "gs://b/a") == int(number)


@pytest.mark.parametrize("version", ["0", "9223372036854775808", "9" * 128, "v1", "1.0", "٣"])
def test_another_version_gets_a_stable_number(version):
    number = default_serving_version(version, "gs://b/a")

    assert 1 <= number <= 2**31 - 1
    assert number == default_serving_version(version, "gs://b/a")
    assert number != default_serving_version(version, "gs://b/other")


@pytest.mark.parametrize(
    ("version", "former"),
    [
        ("7", None),
        ("v1", None),
        ("2147483647", None),
        ("2147483648", 174364855),
        ("00000000042", 1272589332),
        ("20261129101500", 1357866173),
    ],
)
def test_the_number_that_releases_before_64_bits_derived_is_known(version, former):
    model = make_model("101", version=version)
    chosen = make_model("101", version=version, serving_version=model.serving_version)

    assert model.former_number == former
    assert chosen.former_number is None


def composition_of_versions(**versions):
    document = composition_document(3)
    for model in document["models"]:
        model["version"] = versions[f"m{model['id']}"]
    return Composition.model_validate(document)


def test_numbers_are_kept_of_models_with_the_same_version_and_uri_alone():
    new = composition_of_versions(m101="20261129101500", m102="20261129101501", m103="1")
    old = composition_of_versions(
        m101="20261129101500", m102="20261129101500", m103="1"
    ).with_former_numbers
    kept = new.with_numbers_of(old)

    assert [model.serving_version for model in kept.models] == [
        old.models[0].serving_version,
        20261129101501,
        1,
    ]
    assert kept.digest == Composition.model_validate_json(kept.canonical).digest
    assert kept.digest != new.digest
    for same in (None, new, composition_of_versions(m101="1", m102="1", m103="1")):
        assert new.with_numbers_of(same) is new


@pytest.mark.parametrize("change", ["uri", "number"])
def test_a_model_of_another_uri_or_with_a_chosen_number_does_not_lend_its_number(change):
    new = composition_of_versions(m101="20261129101500", m102="1", m103="1")
    document = json.loads(new.with_former_numbers.canonical)
    if change == "uri":
        document["models"][0]["artifact"]["uri"] = "gs://example-bucket/elsewhere"
    else:
        document["models"][0]["serving_version"] = 5

    assert new.with_numbers_of(Composition.model_validate(document)) is new


def test_a_composition_whose_numbers_no_rule_changed_has_no_former_numbers():
    composition = composition_of_versions(m101="7", m102="v1", m103="2147483647")
    assert composition.with_former_numbers is composition


def test_a_serving_version_has_at_most_63_bits():
    assert make_model("101", serving_version=2**63 - 1).serving_version == 2**63 - 1
    with pytest.raises(ValidationError, match="less than or equal to 9223372036854775807"):
        make_model("101", serving_version=2**63)


def test_a_non_numeric_version_gets_a_serving_version_from_version_and_uri():
    model = make_model("101", version="v1")
    changed = ModelChange(id="101", version="v2").applied_to(model)

    assert model.serving_version == default_serving_version("v1", model.artifact.uri)
    assert changed.serving_version == default_serving_version("v2", model.artifact.uri)


def test_the_serving_version_of_a_non_numeric_version_is_a_hash_of_version_and_uri():
    """It names a folder on every host, so a change of it is a change of the protocol."""
    digest = hashlib.sha256(b'["v1","gs://b/a"]').digest()

    assert (
        default_serving_version("v1", "gs://b/a")
        == int.from_bytes(digest[:8], "big") % (2**31 - 1) + 1
    )
    assert default_serving_version("v1", "gs://b/a") == 1954124853


@pytest.mark.parametrize(
    "gpu",
    [{}, {"count": 1, "device_ids": ["0"]}, {"count": 0}, {"count": "some"}, {"device_ids": []}],
)
def test_a_gpu_is_a_number_all_or_devices(gpu):
    with pytest.raises(ValidationError):
        make_model(serving={"gpu": gpu})


def test_batching_on_triton_is_refused():
    with pytest.raises(ValidationError, match=r"config\.pbtxt"):
        make_model(platform="triton", serving={"batching": {}})


@pytest.mark.parametrize(
    ("asked", "reason"),
    [({"batching": {}}, "no batching parameters"), ({"gpu": {"count": 1}}, "GPUs of Intel")],
)
def test_unsupported_settings_of_openvino_model_server_are_refused_with_the_reason(asked, reason):
    with pytest.raises(ValidationError, match=reason):
        make_model(platform="openvino", serving=asked)


@pytest.mark.parametrize(
    ("artifact", "message"),
    [
        ({"uri": "https://a.example.com/b.tar"}, "must have a digest with an https:// URI"),
        (
            {
                "uri": "https://a.example.com/b.tar",
                "digest": f"sha256:{'a' * 64}",
                "store": "other",
            },
            "must have no store with a https:// URI",
        ),
        ({"uri": "file:///srv/a", "store": "other"}, "must have no store with a file:// URI"),
        ({"uri": "s3://bucket/a", "store": "Other"}, "must be lower-case letters"),
    ],
)
def test_an_artifact_needs_what_its_scheme_needs(artifact, message):
    with pytest.raises(ValidationError, match=message):
        make_model(artifact=artifact)


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
def test_a_store_is_part_of_the_composition(scheme):
    model = make_model(artifact={"uri": f"{scheme}://bucket/a", "store": "team-a"})
    assert json.loads(model.canonical)["artifact"]["store"] == "team-a"


@pytest.mark.parametrize("update", ["rolling", "", True, "Restart"])
def test_an_unknown_way_to_update_is_refused(update):
    with pytest.raises(ValidationError, match="'in_place' or 'restart'"):
        make_model(serving={"update": update})


def test_a_model_without_an_update_has_no_field_for_it():
    """The digests of compositions that were accepted before stay."""
    written = make_model("9", serving={"update": "restart"}).model_dump(exclude_none=True)

    assert written["serving"]["update"] == "restart"
    assert "update" not in make_model("9").model_dump(exclude_none=True)["serving"]


def test_a_signature_by_uri_is_refused_with_a_remedy():
    document = golden_document()
    document["proxy"]["signature"] = {"uri": "gs://b/signature.yaml"}

    with pytest.raises(ValidationError, match="put the signature into document"):
        Composition.model_validate(document)


def test_an_empty_object_in_a_signature_is_kept():
    document = golden_document()
    document["proxy"]["signature"]["document"] = {"a": {}, "b": None}

    assert '"document":{"a":{},"b":null}' in Composition.model_validate(document).canonical


def test_a_change_of_neither_version_nor_uri_keeps_the_serving_version_the_producer_chose():
    current = make_model("101", version="7", serving_version=70)
    serving = current.serving.model_copy(update={"image": "registry.example.com/other:1"})

    assert (
        ModelChange(id="101", version="7", serving=serving).applied_to(current).serving_version
        == 70
    )
    assert ModelChange(id="101", version="8").applied_to(current).serving_version == 8


def test_a_copy_computes_its_own_digest():
    composition = make_composition(2)
    proxy = composition.proxy.model_copy(update={"image": "registry.example.com/other:1"})
    changed = composition.model_copy(update={"proxy": proxy})

    assert composition.digest
    assert changed.digest != composition.digest
    assert composition.model_copy(update={"proxy": proxy}).digest == changed.digest


def test_a_change_keeps_omitted_fields():
    current = make_model("101", version="1", name="scratches")
    changed = ModelChange(id="101", version="2").applied_to(current)

    assert (changed.version, changed.serving_version, changed.name) == ("2", 2, "scratches")
    assert (changed.artifact, changed.serving) == (current.artifact, current.serving)
    renamed = ModelChange(id="101", version="1", name="dents", serving_version=9).applied_to(
        current
    )
    assert (renamed.name, renamed.serving_version) == ("dents", 9)
    moved = make_model("101", version="1", artifact={"uri": "s3://other/a"})
    assert (
        ModelChange(id="101", version="1", artifact=moved.artifact).applied_to(current).artifact
        == moved.artifact
    )
    assert (
        ModelChange(id="101", version="2", artifact=moved.artifact, serving=moved.serving)
        .applied_to(None)
        .name
        is None
    )


def test_a_change_of_a_model_that_is_new_must_be_complete():
    change = ModelChange(id="101", version="2")

    assert change.missing == ("artifact", "serving")
    for part in ("artifact", "serving"):
        with pytest.raises(ValueError, match=f"needs {part}$"):
            change.model_copy(
                update={
                    "artifact": make_model().artifact,
                    "serving": make_model().serving,
                    part: None,
                }
            ).applied_to(None)
    with pytest.raises(
        ValueError, match=r"^model 101 is new to the scope and needs artifact and serving$"
    ):
        change.applied_to(None)
    whole = make_model("101", version="2")
    assert (
        ModelChange(
            id="101", version="2", artifact=whole.artifact, serving=whole.serving
        ).applied_to(None)
        == whole
    )


@given(render_defaults())
@settings(max_examples=30)
def test_render_defaults_parse_back_to_the_same_digest(defaults):
    assert RenderDefaults.model_validate(known_fields(defaults)).digest == defaults.digest


def test_an_unknown_render_default_is_refused():
    with pytest.raises(ValidationError):
        RenderDefaults.model_validate({"download_img": "x"})

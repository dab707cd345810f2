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


def refusal(platform="tensorflow", **serving):
    """The message with which these fields of `serving` are refused."""
    with pytest.raises(ValidationError) as refused:
        make_model("101", platform=platform, serving=serving)
    return refused.value.errors()[0]["msg"]


def test_absent_fields_of_serving_are_in_no_canonical_form():
    plain = make_model("101")

    assert plain.canonical == make_model("101", serving={"environment": {}}).canonical
    assert json.loads(plain.canonical)["serving"].keys() == {"platform", "image"}


def test_fields_of_serving_have_one_spelling_in_the_canonical_form():
    one = {"start_period": "10m", "shm_size": "8g", "gpu": {"count": 1, "memory_fraction": 0.40}}
    other = {
        "start_period": 600,
        "shm_size": 8 << 30,
        "gpu": {"count": 1, "memory_fraction": "0.4"},
    }

    assert make_model("101", serving=one).canonical == make_model("101", serving=other).canonical


@pytest.mark.parametrize("name", ["", "-a", ".", "a/b", "a b", "a" * 129, "$a", "é"])
def test_an_engine_name_is_one_word(name):
    assert "must start with a letter or digit" in refusal(engine_name=name)


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ({"engine_name": "Llama"}, {"engine_name": "lLAMA"}, "llama"),
        ({"engine_name": "B"}, {}, "b"),
        ({}, {"engine_name": "A"}, "a"),
        ({"repository": {"models": ["x", "B"]}}, {}, "b"),
        ({"repository": {"models": ["x", "Y"]}}, {"engine_name": "y"}, "y"),
        ({"repository": {"models": ["x"]}}, {"repository": {"models": ["X"]}}, "x"),
    ],
)
def test_a_name_in_an_engine_is_no_name_and_no_id_of_another_model(one, other, name):
    models = [
        make_model(model_id, platform="triton", serving=serving)
        for model_id, serving in (("a", one), ("b", other))
    ]
    document = composition_document(1) | {
        "models": [json.loads(model.canonical) for model in models]
    }
    message = f"models 'a' and 'b' both have '{name}'"

    with pytest.raises(ValidationError, match=message):
        Composition.model_validate(document)
    with pytest.raises(ValueError, match=message):
        make_composition(1).with_model(models[0]).with_model(models[1])


def test_a_model_may_have_its_own_id_as_a_name_and_keep_its_name_in_a_new_version():
    composition = make_composition(1).with_model(
        make_model("a", platform="triton", serving={"repository": {"models": ["A", "c"]}})
    )
    named = make_model("b", serving={"engine_name": "Llama"})

    assert composition.with_model(named).with_model(named).model("b") == named


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("NVIDIA_VISIBLE_DEVICES", "serving.gpu"),
        ("CUDA_VISIBLE_DEVICES", "serving.gpu"),
        ("LD_PRELOAD", "libraries"),
        ("LD_LIBRARY_PATH", "libraries"),
        ("MODEL_NAME", "serving.engine_name"),
        ("MODEL_BASE_PATH", "folder"),
        ("PATH", "image"),
        ("1A", "variable's name"),
        ("A-B", "variable's name"),
        ("A=B", "variable's name"),
        ("", "variable's name"),
    ],
)
def test_variables_of_the_bundle_and_of_the_image_are_refused_with_the_reason(name, reason):
    assert reason in refusal(environment={name: "x"})


@pytest.mark.parametrize("text", ["a\nb", "a\tb", "a\x00", "\u202ea", "\u2028"])
def test_variables_and_arguments_are_plain_text_of_one_line(text):
    assert "must have no control" in refusal(environment={"A": text})
    assert "must have no control" in refusal(arguments=[f"--a={text}"])


@pytest.mark.parametrize(
    ("platform", "flag", "field"),
    [
        ("tensorflow", "--model_name=x", "serving.engine_name"),
        ("tensorflow", "-model_name", "serving.engine_name"),
        ("tensorflow", "--model-base-path=/x", "folder"),
        ("tensorflow", "--noenable_model_warmup", "the bundle sets it"),
        ("tensorflow", "--PORT=1", "ports"),
        ("tensorflow", "--rest_api_port=1", "ports"),
        ("tensorflow", "--file_system_poll_wait_seconds=9", "serving.update"),
        ("tensorflow", "--per_process_gpu_memory_fraction=1", "serving.gpu.memory_fraction"),
        ("triton", "--load-model=x", "serving.repository.models"),
        ("triton", "--model_store=/x", "folder"),
        ("triton", "--model-repo=/x", "folder"),
        ("triton", "--http-port=1", "ports"),
        ("openvino", "--model_path=/x", "folder"),
        ("openvino", "--no-rest_port", "ports"),
        ("openvino", "--config_path=/x", "one model"),
    ],
)
def test_flags_of_the_bundle_are_refused_with_the_field_to_use(platform, flag, field):
    message = refusal(platform, arguments=["--other", "x", flag])

    assert f"must not set {flag.partition('=')[0]}: " in message
    assert field in message


def test_batching_flags_are_refused_only_beside_batching():
    flags = ["--enable_batching", "--batching_parameters_file=/x"]

    assert make_model("1", serving={"arguments": flags}).serving.arguments == tuple(flags)
    for batching in ({}, {"enabled": False}):
        assert "serving.batching" in refusal(arguments=flags, batching=batching)


@pytest.mark.parametrize("arguments", [["x"], ["--a=b", "x"], ["--a", "b", "x"]])
def test_a_value_without_its_flag_is_refused(arguments):
    assert "must have a flag before each value" in refusal(arguments=arguments)


@pytest.mark.parametrize("argument", ["-", "--", "--=x", "---a", "--a\u00e9", "--a b"])
def test_what_only_resembles_a_flag_is_refused(argument):
    assert "must be a flag such as" in refusal(arguments=[argument])


@pytest.mark.parametrize("period", [0, -1, 86401, "25h", "90", "1.5h", "1m30s", True, None, "0s"])
def test_a_start_period_is_a_time_of_a_day_at_most(period):
    if period is None:
        assert make_model("1", serving={"start_period": None}).serving.start_seconds == 120
        return
    assert "must be " in refusal(start_period=period)


@pytest.mark.parametrize(("given", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), (7, 7)])
def test_a_start_period_has_a_unit_or_is_in_seconds(given, seconds):
    assert make_model("1", serving={"start_period": given}).serving.start_seconds == seconds


def test_no_shared_memory_at_all_is_refused():
    assert "more than 0" in refusal(shm_size=0)


@pytest.mark.parametrize("fraction", [0, 1.001, -0.1, 0.0001, "x", True, "nan", "1e-400"])
def test_a_share_of_the_memory_is_a_number_of_three_decimals_up_to_1(fraction):
    assert "at most 1" in refusal(gpu={"count": 1, "memory_fraction": fraction})


def test_a_share_of_the_memory_is_for_tensorflow_alone():
    message = refusal("triton", gpu={"count": 1, "memory_fraction": 0.5})

    assert "must have no memory_fraction on triton: " in message


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        ({"count": 1, "driver": "cdi"}, "must have device_ids such as nvidia.com/gpu=0"),
        ({"count": "all", "driver": "cdi"}, "must have device_ids such as nvidia.com/gpu=0"),
        ({"device_ids": ["0"], "driver": "cdi"}, "0 is no name of a CDI device"),
        ({"device_ids": ["nvidia.com/gpu=0"]}, "which needs driver: cdi"),
        ({"device_ids": ["nvidia.com/gpu=0"], "driver": "nvidia"}, "which needs driver: cdi"),
        ({"device_ids": ["MIG-GPU-0a1b/1/0"]}, "must name a MIG device by its UUID"),
        ({"count": 1, "driver": "amd"}, "'nvidia' or 'cdi'"),
    ],
)
def test_devices_are_named_as_their_driver_reads_them(gpu, message):
    assert message in refusal(gpu=gpu)


@pytest.mark.parametrize(
    "gpu",
    [
        {"device_ids": ["MIG-c7384736-a75d-5afc-978f-d2f1294409fd"]},
        {"device_ids": ["0:1"], "driver": "nvidia"},
        {"device_ids": ["nvidia.com/gpu=all"], "driver": "cdi"},
        {"device_ids": ["nvidia.com/gpu=mig0:1", "nvidia.com/gpu=GPU-1"], "driver": "cdi"},
        {"count": "all", "driver": "nvidia"},
    ],
)
def test_devices_of_each_driver_are_taken(gpu):
    assert make_model("1", serving={"gpu": gpu}).serving.gpu.driver == gpu.get("driver")


@pytest.mark.parametrize("platform", ["tensorflow", "openvino"])
def test_a_repository_is_for_triton_alone(platform):
    assert "only Triton" in refusal(platform, repository={"models": ["a"]})


@pytest.mark.parametrize("models", [[], ["a", "A"], ["a,b"], ["a/b"], [".v"]])
def test_a_repository_has_models_with_different_names(models):
    assert refusal("triton", repository={"models": models})


def test_a_repository_has_no_name_of_its_own():
    message = refusal("triton", repository={"models": ["a"]}, engine_name="b")

    assert "must have only one of repository and engine_name" in message


@pytest.mark.parametrize(
    ("serving", "update"),
    [
        ({}, "in_place"),
        ({"repository": {"models": ["a"]}}, "restart"),
        ({"repository": {"models": ["a"]}, "update": "in_place"}, "in_place"),
    ],
)
def test_a_repository_gets_a_new_container_unless_it_says_otherwise(serving, update):
    model = make_model("1", platform="triton", serving=serving)

    assert model.serving.update_or_default == update

"""The stamp: which state a rendered tree has, which content, and which model each service has."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.publishing.archive import content_digest, digest_files
from renderers import gate
from renderers.bundle import Renderer
from renderers.composition import Artifact, Stamp
from renderers.errors import GateFailure
from renderers.identifiers import MODEL_ID_LENGTH
from renderers.values import STAMP_PATH, RenderedFile, canonical_json
from tests.builders import GOLDEN_DEFAULTS, STAMP, make_composition, make_model
from tests.strategies import compositions, render_defaults


def rendered(composition, stamp=STAMP, renderer=None):
    return (renderer or Renderer()).render(composition, GOLDEN_DEFAULTS, stamp)


def text_of(files):
    return next(file.body for file in files if file.path == STAMP_PATH).decode()


def services_of(composition, renderer=None):
    return json.loads(text_of(rendered(composition, renderer=renderer)))["services"]


def bundle_of(*models):
    return make_composition(1).model_copy(
        update={"models": tuple(sorted(models, key=lambda model: model.id))}
    )


@given(compositions(), render_defaults(), st.text(min_size=1, max_size=20))
@settings(max_examples=30)
def test_the_stamp_is_canonical_and_has_the_content_digest_of_the_manifest(
    composition, defaults, state
):
    files = Renderer().render(composition, defaults, Stamp(state, "42.1"))
    stamp = json.loads(text_of(files))

    assert text_of(files) == canonical_json(stamp) + "\n"
    assert stamp.pop("services").keys() == {f"s{model.id}s" for model in composition.models}
    assert stamp == {
        "schema": 2,
        "scope": str(composition.scope),
        "state": state,
        "revision": "42.1",
        "composition": composition.digest,
        "content": content_digest(digest_files(files)),
    }


def test_a_service_has_its_model_its_platform_and_its_gpus():
    composition = bundle_of(
        make_model("a"),
        make_model("b", serving={"gpu": {"count": "all"}}, name="Defects"),
        make_model("c", platform="triton", serving={"gpu": {"device_ids": ["0", "GPU-1f"]}}),
    )

    assert services_of(composition) == {
        "sas": {"model": "a", "platform": "tensorflow", "gpu": None},
        "sbs": {
            "model": "b",
            "name": "Defects",
            "platform": "tensorflow",
            "gpu": {"count": "all"},
        },
        "scs": {"model": "c", "platform": "triton", "gpu": {"device_ids": ["0", "GPU-1f"]}},
    }


def test_only_a_name_that_no_other_model_has_is_in_the_stamp():
    named = [make_model("a", name="x"), make_model("b", name="y"), make_model("c", name="x")]
    renderer = Renderer()

    def names(*models):
        entries = services_of(bundle_of(*models), renderer)
        return {entry["model"]: entry.get("name") for entry in entries.values()}

    assert names(*named) == {"a": None, "b": "y", "c": None}
    # Another model has left: the entry of `a` changes, although `a` has not.
    assert names(*named[:2], make_model("d")) == {"a": "x", "b": "y", "d": None}


def test_services_are_sorted_by_their_names_and_not_by_the_ids_of_their_models():
    composition = bundle_of(*(make_model(name) for name in ("a", "a-b", "a_b2", "a0")))

    gate.check(composition, GOLDEN_DEFAULTS, rendered(composition))

    assert list(services_of(composition)) == ["sa-bs", "sa0s", "sa_b2s", "sas"]


@pytest.mark.parametrize(
    "name",
    [
        '"},"state":"x',
        "\\",
        '"services":{}',
        "${HOME} `id` <b>",
        "é 漢 \U0001f600",
        "null",
        "a" * 500,
    ],
)
def test_text_of_a_registry_stays_a_text_of_the_stamp(name):
    composition = bundle_of(make_model("a", name=name), make_model("b"))
    files = rendered(composition)

    gate.check(composition, GOLDEN_DEFAULTS, files)

    assert json.loads(text_of(files))["services"]["sas"]["name"] == name
    assert json.loads(text_of(files))["state"] == STAMP.state


def test_a_name_changes_the_stamp_and_no_content():
    before, after = (
        json.loads(text_of(rendered(bundle_of(make_model("a", name=name))))) for name in ("x", "y")
    )

    assert before["content"] == after["content"]
    assert before["services"] != after["services"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('"x"', '"y"'), "services.sas.name = 'x', found 'y'"),
        (lambda text: text.replace(',"name":"x"', ""), "services.sas.name = 'x', found nothing"),
        (
            lambda text: text.replace('{"count":2}', '{"count":2.0}'),
            "services.sbs.gpu.count = 2, found 2.0",
        ),
        (lambda text: text.replace('{"count":2}', "2"), "services.sbs.gpu = {'count': 2}, found 2"),
        (lambda text: text.replace("{", "{ ", 1), "one line of canonical JSON, found "),
        (
            lambda text: (
                json.dumps(json.loads(text) | {"services": []}, separators=(",", ":")) + "\n"
            ),
            "services = {",
        ),
        (
            lambda text: canonical_json(json.loads(text) | {"services": {}}) + "\n",
            "services.sas = {",
        ),
        (lambda text: "[" * 100_000, "JSON, found "),
        (lambda text: "{}\n", "schema = 2, found nothing"),
    ],
    ids=["name", "no name", "fraction", "kind", "blank", "list", "no services", "depth", "empty"],
)
def test_the_gate_refuses_a_stamp_that_says_something_else(change, message):
    composition = bundle_of(
        make_model("a", name="x"), make_model("b", serving={"gpu": {"count": 2}})
    )
    files = rendered(composition)
    text = change(text_of(files))
    assert text != text_of(files)
    broken = [
        RenderedFile(file.path, text.encode()) if file.path == STAMP_PATH else file
        for file in files
    ]

    with pytest.raises(GateFailure) as failure:
        gate.check(composition, GOLDEN_DEFAULTS, broken)

    assert failure.value.file == STAMP_PATH
    assert f"expected {message}" in str(failure.value)


def test_the_gate_checks_the_names_of_this_bundle_and_not_of_the_one_before():
    models = [make_model("a", name="x"), make_model("b", name="x"), make_model("c")]
    both, one = bundle_of(*models), bundle_of(models[0], models[2])
    for composition in (both, one, both):
        gate.check(composition, GOLDEN_DEFAULTS, rendered(composition))

    stamp = next(file for file in rendered(both) if file.path == STAMP_PATH)
    text = stamp.body.decode().replace('"model":"a"', '"model":"a","name":"x"')
    wrong = [
        RenderedFile(STAMP_PATH, text.encode()) if file.path == STAMP_PATH else file
        for file in rendered(both)
    ]
    with pytest.raises(GateFailure, match=r"services\.sas\.name = nothing, found 'x'"):
        gate.check(both, GOLDEN_DEFAULTS, wrong)


def test_the_gate_accepts_the_files_in_any_order():
    composition = make_composition(3)

    gate.check(composition, GOLDEN_DEFAULTS, rendered(composition)[::-1])


def test_a_service_takes_no_more_of_the_stamp_than_of_the_composition():
    """So the limit of a stamp follows from that of a composition."""
    smallest = make_model("a" * MODEL_ID_LENGTH, serving={"image": "i"}).model_copy(
        update={"artifact": Artifact(uri="gs://bbb/a")}
    )
    largest = make_model("a", name="é" * 500, serving={"gpu": {"device_ids": ["G" * 64] * 64}})
    for model in (smallest, largest):
        one, two = (
            len(text_of(rendered(bundle_of(*models))).encode())
            for models in ([make_model("z")], [make_model("z"), model])
        )
        assert two - one <= len(model.canonical.encode()) + len(",")

"""Hostile text, wherever text comes in, is refused with its place, or rendered so that readers read
it back.
"""

import hashlib
import json
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import Phase, given, settings

from renderers import gate
from renderers.bundle import Renderer
from renderers.composition import Composition, Model, RenderDefaults
from renderers.platforms import PLATFORMS
from renderers.values import RenderedFile
from tests.builders import STAMP, make_composition
from tests.strategies import compositions, render_defaults
from tests.support import hostile_payloads, third_party_readers
from tests.support.hostile_payloads import PLACES, Refused, payloads

ENTRIES = {"s3": "s3:", "gs": "gcs:", "az": "azureblob:", "file": "local:/files"}


def accepted(place: str) -> list[tuple[str, Composition, RenderDefaults]]:
    _, put = PLACES[place]
    taken = []
    for payload in payloads():
        try:
            taken.append((payload, *put(payload)))
        except Refused:
            continue
    return taken


def checked(composition: Composition, defaults: RenderDefaults) -> tuple[RenderedFile, ...]:
    """The bundle, checked by the gate and by independent readers to have the values of the
    composition.
    """
    bundle = Renderer().render(composition, defaults, STAMP)
    gate.check(composition, defaults, bundle)
    says_what_it_was_given(bundle, composition, defaults)
    return bundle


def says_what_it_was_given(
    bundle: tuple[RenderedFile, ...], composition: Composition, defaults: RenderDefaults
) -> None:
    document = third_party_readers.compose(bundle)
    services, name = document["services"], composition.bundle.name
    fixed = ["model_download", f"{name}-nginx", "model_proxy"]
    assert sorted(services) == sorted([*fixed, *(f"s{model.id}s" for model in composition.models)])
    assert document["networks"] == {name: {}}
    assert document["volumes"] == {f"{name}-nginx": {}}
    for service in services.values():
        assert service["networks"] == [name]
        own = {
            key: value
            for key, value in service.get("labels", {}).items()
            if not key.startswith("bundle.")
        }
        assert own == defaults.labels
    assert services["model_download"]["image"] == pulled(defaults.download_image, defaults)
    assert services[f"{name}-nginx"]["image"] == pulled(defaults.router_image, defaults)
    assert services["model_proxy"]["image"] == pulled(composition.proxy.image, defaults)
    assert f"{name}-nginx:8500" in services["model_proxy"]["command"]
    for model in composition.models:
        _service_says(services[f"s{model.id}s"], model, defaults)
    assert third_party_readers.routes(bundle) == {
        model.id: f"s{model.id}s:{PLATFORMS[model.serving.platform].grpc_port}"
        for model in composition.models
    }
    assert third_party_readers.downloads(bundle) == list(map(_download, composition.models))
    assert json.dumps(third_party_readers.signature(bundle), sort_keys=True) == json.dumps(
        composition.proxy.signature.document, sort_keys=True
    )
    names = {
        f"SERVING_{model.id.replace('-', '_')}_{what}"
        for model in composition.models
        for what in AMOUNTS
    }
    assert third_party_readers.variables(bundle) == dict.fromkeys(names, "") | {
        "MODEL_PROXY_HTTP_PORT": "8000",
        "MODEL_PROXY_GRPC_PORT": "8005",
    }
    assert _shown_target(bundle) == composition.bundle.target


AMOUNTS = ("CPU_LIMIT", "MEM_LIMIT", "CPU_RESERVATION", "MEM_RESERVATION")


def _service_says(service: dict[str, Any], model: Model, defaults: RenderDefaults) -> None:
    folder = f"/models/{model.id}"
    assert service["image"] == pulled(model.serving.image, defaults)
    loads_numbers = PLATFORMS[model.serving.platform].loads_numbers
    target = f"/models/{model.engine_name}" if loads_numbers else "/models"
    assert service["volumes"][0] == f"../model-serving/model-download{folder}:{target}:ro"
    repository = model.serving.repository
    loaded = repository.models if repository else (model.engine_name,)
    assert all(
        any(argument.endswith(f"={name}") for argument in service["command"]) for name in loaded
    )
    assert service.get("environment", {}) == model.serving.environment
    assert set(model.serving.arguments or ()) <= set(service["command"])
    assert service["labels"]["bundle.model"] == model.id
    devices = service["deploy"]["resources"]["reservations"].get("devices")
    if model.serving.gpu is not None and model.serving.gpu.device_ids is not None:
        assert [device["device_ids"] for device in devices] == [list(model.serving.gpu.device_ids)]


def _download(model: Model) -> list[str]:
    scheme, _, path = model.artifact.uri.partition("://")
    serving = model.serving
    platform, repository = serving.platform, serving.repository
    engine, name = platform, serving.engine_name or model.id
    if repository is not None:
        engine, name = "triton-repository", ",".join(repository.models)
    update = serving.update or ("restart" if repository else "in_place")
    limit = str(serving.start_period or 120)
    loads_numbers = PLATFORMS[platform].loads_numbers
    folder = f"{model.id}/{model.serving_version}" if loads_numbers else model.id
    source = model.artifact.uri if scheme == "https" else f"{ENTRIES[scheme]}{path}"
    origin = json.dumps([model.version, model.artifact.uri], separators=(",", ":"))
    identity = model.artifact.digest or hashlib.sha256(origin.encode()).hexdigest()[:16]
    store = model.artifact.store or "-"
    return [folder, engine, name, update, limit, identity, store, source]


def _shown_target(bundle: tuple[RenderedFile, ...]) -> str:
    """The value of --target-bundle, once an operator has uncommented it."""
    lines = third_party_readers.text_of(bundle, "base/bundle/docker-compose.yaml").splitlines()
    above = lines.index("      #- --target-bundle")
    value = lines[above + 1].removeprefix("      #- ")
    return third_party_readers.yaml.safe_load(value)


def pulled(image: str, defaults: RenderDefaults) -> str:
    """A mirror replaces the registry. A name without a registry is on Docker Hub."""
    found = re.fullmatch(r"((?:[^/]*[.:][^/]*|localhost)/)?(.*)", image)
    assert found is not None
    registry = found[1][:-1] if found[1] else "docker.io"
    mirrors = {
        key.lower().removesuffix(":443"): mirror for key, mirror in defaults.registries.items()
    }
    mirror = mirrors.get(registry.lower().removesuffix(":443"))
    if mirror is None:
        return image
    path = found[2] if found[1] or "/" in found[2] else f"library/{found[2]}"
    return f"{mirror}/{path}"


def test_the_corpus_is_large_and_without_repetition():
    assert len(payloads()) >= 500
    assert len(payloads()) == len(set(payloads()))


@pytest.mark.parametrize("place", PLACES)
def test_hostile_text_is_refused_with_its_place_and_a_message(place):
    path, put = PLACES[place]
    refusals = {}
    for payload in payloads():
        try:
            put(payload)
        except Refused as refused:
            refusals[payload] = refused.problems
    assert refusals or place.startswith("signature")
    for payload, problems in refusals.items():
        assert problems, payload
        for where, message in problems:
            assert where.startswith(path), payload
            assert message.strip(), payload
            assert not any(
                unicodedata.category(character) in {"Cc", "Cf", "Cs"} for character in message
            ), payload


@pytest.mark.parametrize(
    "place", ["version", "bucket", "key", "serving image", "image tag", "device", "cpus", "name"]
)
def test_accepted_text_about_a_model_round_trips(place):
    models = []
    for number, (_, composition, _) in enumerate(accepted(place)):
        (changed,) = [
            m for m in composition.models if m not in hostile_payloads._COMPOSITION.models
        ]
        models.append(changed.model_copy(update={"id": f"p{number}"}))
    assert models
    basis = make_composition(1)

    checked(
        Composition(bundle=basis.bundle, models=tuple(models), proxy=basis.proxy), RenderDefaults()
    )


def test_accepted_model_ids_round_trip():
    models = {}
    for _, composition, _ in accepted("model id"):
        for model in composition.models:
            models.setdefault(model.id.replace("-", "_"), model)
    assert len(models) > 50
    basis = make_composition(1)

    checked(
        Composition(bundle=basis.bundle, models=tuple(models.values()), proxy=basis.proxy),
        RenderDefaults(),
    )


@pytest.mark.parametrize(
    "place",
    [
        "bundle",
        "target",
        "proxy image",
        "download image",
        "router image",
        "registry",
        "mirror",
        "restart",
    ],
)
def test_accepted_text_about_a_bundle_round_trips(place):
    taken = accepted(place)
    assert taken

    for _, composition, defaults in taken:
        checked(composition, defaults)


@pytest.mark.parametrize("place", ["label key", "label value"])
def test_accepted_labels_round_trip(place):
    labels: dict[str, str] = {}
    for number, (payload, _, _) in enumerate(accepted(place)):
        labels |= {payload: "x"} if place == "label key" else {f"x{number}": payload}
    assert len(labels) > 90

    checked(make_composition(2), RenderDefaults.model_validate({"labels": labels}))


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("engine name", 20),
        ("variable", 20),
        ("value of a variable", 90),
        ("value of an argument", 90),
        ("loaded model", 20),
    ],
)
def test_accepted_text_about_an_engine_is_read_back_by_compose(place, count):
    taken = accepted(place)
    assert len(taken) > count

    for _, composition, defaults in taken:
        bundle = Renderer().render(composition, defaults, STAMP)
        gate.check(composition, defaults, bundle)
        model = composition.models[0]
        serving, service = (
            model.serving,
            third_party_readers.compose(bundle)["services"][f"s{model.id}s"],
        )
        assert service.get("environment", {}) == serving.environment
        assert set(serving.arguments or ()) <= set(service["command"])
        names = serving.repository.models if serving.repository else (model.engine_name,)
        named = {word.rpartition("=")[2] for word in service["command"]}
        assert set(names) <= named


@pytest.mark.parametrize("place", ["signature text", "signature key"])
def test_accepted_signatures_round_trip(place):
    taken = accepted(place)
    assert len(taken) == len(payloads()), "a signature belongs to the proxy; it may have any text"
    document = {"all": [composition.proxy.signature.document for _, composition, _ in taken]}
    basis = make_composition(1)
    proxy = basis.proxy.model_validate(
        {"image": basis.proxy.image, "signature": {"document": document}}
    )

    checked(Composition(bundle=basis.bundle, models=basis.models, proxy=proxy), RenderDefaults())


@given(compositions(), render_defaults())
# Not shrunk: a failing example is small, and reading bundles back is slow.
@settings(max_examples=60, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_all_rendered_text_round_trips(composition, defaults):
    says_what_it_was_given(Renderer().render(composition, defaults, STAMP), composition, defaults)

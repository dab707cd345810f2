"""The containers that an update of a bundle recreates: exactly those of the affected services.

`up` recreates the container of a service whose configuration hash has changed. A mounted file is
not part of that hash, so the rendered labels contain its digest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from renderers.composition import Composition, Model, RenderDefaults
from tests.builders import GOLDEN_DEFAULTS, make_composition, make_model
from tests.services.compose import Compose
from tests.support.target_host import DeployedBundle

REGISTRY = "registry.example.com"
BASIS = (
    make_composition(9)
    .with_model(make_model("201", serving={"update": "restart"}))
    .with_model(make_model("202", platform="triton", serving={"update": "restart"}))
)
ROUTER = f"{BASIS.bundle.name}-nginx"
DOWNLOAD, PROXY = "model_download", "model_proxy"
MODELS = {f"s{model.id}s" for model in BASIS.models}
ARTIFACT = BASIS.models[0].artifact.model_dump(exclude_none=True)
SIGNATURE = BASIS.proxy.signature.document


@dataclass(frozen=True, slots=True)
class Change:
    """The next rendering, and the services whose containers it must recreate; no others may be
    recreated.
    """

    recreated: set[str]
    composition: Composition = BASIS
    defaults: RenderDefaults = GOLDEN_DEFAULTS


def with_fields(model_id: str, **fields: Any) -> Composition:
    """The basis, with other fields in one model."""
    model = BASIS.model(model_id)
    assert model is not None
    return BASIS.with_model(
        Model.model_validate(
            model.model_dump(mode="json", exclude_none=True, exclude={"serving_version"}) | fields
        )
    )


def with_serving(model_id: str, **fields: Any) -> Composition:
    model = BASIS.model(model_id)
    assert model is not None
    return with_fields(
        model_id, serving=model.serving.model_dump(mode="json", exclude_none=True) | fields
    )


def without(*ids: str) -> Composition:
    models = tuple(model for model in BASIS.models if model.id not in ids)
    return Composition(bundle=BASIS.bundle, models=models, proxy=BASIS.proxy)


def with_proxy(**fields: Any) -> Composition:
    proxy = BASIS.proxy.model_dump(mode="json") | fields
    return Composition.model_validate(
        BASIS.model_dump(mode="json", exclude_none=True) | {"proxy": proxy}
    )


def with_defaults(**fields: Any) -> RenderDefaults:
    return RenderDefaults.model_validate(
        GOLDEN_DEFAULTS.model_dump(mode="json", exclude_none=True) | fields
    )


# In the basis 101 is a plain model of TensorFlow, 104 has resources, 105 batching, 102 all GPUs,
# 106 some, 107 two. A new container updates 201 and 202, their engines the others.
CHANGES: Mapping[str, Change] = {
    "the same composition": Change(set()),
    "its models in another order": Change(
        set(),
        Composition(bundle=BASIS.bundle, models=tuple(reversed(BASIS.models)), proxy=BASIS.proxy),
    ),
    "another version": Change(set(), with_fields("101", version="77")),
    "another version on Triton": Change(set(), with_fields("103", version="77")),
    "another version of a model that is restarted": Change(
        {"s201s"}, with_fields("201", version="77")
    ),
    "another version of a model on Triton that is restarted": Change(
        {"s202s"}, with_fields("202", version="77")
    ),
    "other files of the same version": Change(
        set(), with_fields("101", artifact={"uri": "s3://example-bucket/moved"})
    ),
    "other files of the same version of a model that is restarted": Change(
        {"s201s"}, with_fields("201", artifact={"uri": "s3://example-bucket/moved"})
    ),
    "another digest of the files": Change(
        set(), with_fields("101", artifact=ARTIFACT | {"digest": f"sha256:{'a' * 64}"})
    ),
    "another serving version": Change(set(), with_fields("101", serving_version=12)),
    "a restart at each version": Change({"s101s"}, with_serving("101", update="restart")),
    "a restart at each version on Triton": Change({"s103s"}, with_serving("103", update="restart")),
    "no more restarts": Change({"s201s"}, with_serving("201", update="in_place")),
    "the default written out": Change(set(), with_serving("101", update="in_place")),
    "another image of a model": Change(
        {"s101s"}, with_serving("101", image=f"{REGISTRY}/other/engine:3")
    ),
    "another display name": Change(set(), with_fields("101", name="another name")),
    "other limits": Change({"s104s"}, with_serving("104", resources={"limits": {"cpus": 3}})),
    "limits in another unit": Change(
        set(),
        with_serving(
            "104",
            resources={
                "limits": {"cpus": "2.0", "memory": "4096m"},
                "reservations": {"cpus": "0.50", "memory": 1 << 30},
            },
        ),
    ),
    "batching comes on": Change(
        {"s101s"}, with_serving("101", batching={"parameters": {"max_batch_size": 8}})
    ),
    "batching goes off": Change({"s105s"}, with_serving("105", batching={"enabled": False})),
    "other batching parameters, in a file of the same name": Change(
        {"s105s"}, with_serving("105", batching={"parameters": {"max_batch_size": 8}})
    ),
    "all GPUs": Change({"s101s"}, with_serving("101", gpu={"count": "all"})),
    "another number of GPUs": Change({"s107s"}, with_serving("107", gpu={"count": 1})),
    "other GPUs": Change({"s106s"}, with_serving("106", gpu={"device_ids": ["0", "2"]})),
    "another platform": Change({"s101s"}, BASIS.with_model(make_model("101", platform="triton"))),
    "a model joins": Change({"s500s"}, BASIS.with_model(make_model("500"))),
    "a model leaves": Change({"s101s"}, without("101")),
    "a model is replaced by another": Change(
        {"s101s", "s500s"}, without("101").with_model(make_model("500"))
    ),
    "another image of the proxy": Change({PROXY}, with_proxy(image=f"{REGISTRY}/model-proxy:2")),
    "another signature": Change({PROXY}, with_proxy(signature={"document": {"other": True}})),
    "a signature in another order": Change(
        set(),
        with_proxy(signature={"document": {"models": dict(reversed(SIGNATURE["models"].items()))}}),
    ),
    "another image of the router": Change(
        {ROUTER}, defaults=with_defaults(router_image=f"{REGISTRY}/nginx:9")
    ),
    "another image of the download": Change(
        {DOWNLOAD}, defaults=with_defaults(download_image=f"{REGISTRY}/rclone:9")
    ),
    "default limits": Change(
        MODELS - {"s104s"},
        defaults=with_defaults(resources={"limits": {"cpus": 8, "memory": "8g"}}),
    ),
    "a label": Change(
        MODELS | {DOWNLOAD, ROUTER, PROXY}, defaults=with_defaults(labels={"team": "vision"})
    ),
    "another restart policy": Change(
        MODELS | {ROUTER, PROXY}, defaults=with_defaults(restart="always")
    ),
    "a mirror": Change(
        MODELS | {DOWNLOAD, ROUTER, PROXY},
        defaults=with_defaults(registries={REGISTRY: "mirror.example.com"}),
    ),
    "a mirror of a registry that nobody uses": Change(
        set(), defaults=with_defaults(registries={"docker.io": "mirror.example.com"})
    ),
}


@dataclass(frozen=True, slots=True)
class Deployment:
    """The running basis, and the hashes of its containers."""

    compose: Compose
    bundle: DeployedBundle
    hashes: dict[str, str]


@pytest.fixture(scope="module")
def deployment(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    bundle = DeployedBundle.install(BASIS, tmp_path_factory.mktemp("deployment"))
    return Deployment(compose, bundle, compose.hashes(bundle.directory))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_an_update_recreates_exactly_the_services_it_affects(
    deployment: Deployment, change: Change
) -> None:
    before = deployment.hashes

    deployment.bundle.replace_base(change.composition, change.defaults)

    after = deployment.compose.hashes(deployment.bundle.directory)
    assert {
        name for name in before | after if before.get(name) != after.get(name)
    } == change.recreated

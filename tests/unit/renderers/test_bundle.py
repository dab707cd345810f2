"""The whole tree: its files, that it is deterministic, and that an event costs only what it
changes.
"""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml as pyyaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from renderers import compose, gate, yaml_templates
from renderers.bundle import Renderer
from renderers.composition import Composition, ModelChange, RenderDefaults, Stamp
from renderers.gate import parsers
from renderers.platforms import PLATFORMS
from renderers.template_set import Templates
from renderers.values import STAMP_PATH, RenderedFile
from tests.builders import (
    GOLDEN_DEFAULTS,
    STAMP,
    composition_document,
    golden_composition,
    make_composition,
    make_model,
)
from tests.strategies import compositions, models, render_defaults
from tests.support.reference_renderer import whole_compose_file


def files_of(composition: Composition, renderer: Renderer | None = None) -> dict[str, RenderedFile]:
    return {
        file.path: file
        for file in (renderer or Renderer()).render(composition, GOLDEN_DEFAULTS, STAMP)
    }


def body(bundle: tuple[RenderedFile, ...], path: str) -> str:
    return next(file.body.decode() for file in bundle if file.path == path)


def blocks_of(
    composition: Composition, renderer: Renderer, templates: Templates | None = None
) -> list[bytes]:
    """The text of each service, in the order of the file."""
    rendered = renderer.render(composition, GOLDEN_DEFAULTS, STAMP, templates)
    document = body(rendered, compose.PATH).encode()
    services = document.partition(b"\nservices:\n")[2].rpartition(b"networks:\n")[0]
    blocks = re.split(rb"(?m)^(?=  [a-z0-9_-]+:$)", services)[1:]
    assert len(blocks) == len(composition.models) + 3
    return blocks


def counted(monkeypatch: pytest.MonkeyPatch, module: object, name: str) -> list[None]:
    calls, real = [], getattr(module, name)

    def count(*args: object) -> object:
        calls.append(None)
        return real(*args)

    monkeypatch.setattr(module, name, count)
    return calls


def test_the_golden_composition_gives_the_golden_files():
    files = files_of(golden_composition())

    assert list(files) == [
        "README.md",
        "base/.rebundle.json",
        "base/bundle/docker-compose.yaml",
        "base/bundle/monitoring.txt",
        "base/bundle/nginx/models.map",
        "base/bundle/nginx/router.sh",
        "base/bundle/proxy/bundle-signature.yaml",
        "base/model-serving/model-download/download.sh",
        "base/model-serving/model-download/models.txt",
        "base/model-serving/model-download/models/.gitkeep",
        "base/update.sh",
        "example/.env",
        "example/conf/bundle/.env",
        "example/conf/bundle/batching_101.txt",
        "example/conf/bundle/batching_102.txt",
        "example/conf/bundle/nginx.conf",
        "example/creds/bundle/.env",
        "example/creds/bundle/gcs.json",
        "example/docker-compose.yaml",
        "example/update.sh",
    ]
    assert files["base/model-serving/model-download/models/.gitkeep"].body == b""
    assert [path for path, file in files.items() if file.mode == "0755"] == [
        "base/bundle/nginx/router.sh",
        "base/model-serving/model-download/download.sh",
        "base/update.sh",
        "example/update.sh",
    ]


def test_files_are_sorted_by_the_bytes_of_their_path():
    paths = [
        file.path.encode()
        for file in Renderer().render(make_composition(40), GOLDEN_DEFAULTS, STAMP)
    ]

    assert paths == sorted(paths)


def test_a_composition_has_one_text_for_any_order_of_its_signature():
    document = composition_document(2)
    signature = document["proxy"]["signature"]["document"]
    turned = {name: dict(reversed(part.items())) for name, part in signature.items()} | {"a": 1}
    signature["a"] = 1
    first = Composition.model_validate(document)
    other = Composition.model_validate(
        document | {"proxy": document["proxy"] | {"signature": {"document": turned}}}
    )

    assert first.digest == other.digest
    assert (
        files_of(first)
        == files_of(other)
        == files_of(Composition.model_validate_json(first.canonical))
    )


def test_only_the_stamp_contains_the_state():
    first = Renderer().render(golden_composition(), GOLDEN_DEFAULTS, Stamp("a", "1"))
    second = Renderer().render(golden_composition(), GOLDEN_DEFAULTS, Stamp("b", "2"))

    assert [one.path for one, other in zip(first, second, strict=True) if one != other] == [
        STAMP_PATH
    ]


@given(compositions(), compositions(), render_defaults())
@settings(max_examples=30)
def test_earlier_renderings_change_no_byte(before, composition, defaults):
    used, tiny = Renderer(), Renderer(cache_bytes=0)
    used.render(before, defaults, STAMP)
    used.render(composition, GOLDEN_DEFAULTS, STAMP)

    assert used.render(composition, defaults, STAMP) == Renderer().render(
        composition, defaults, STAMP
    )
    assert tiny.render(composition, defaults, STAMP) == Renderer().render(
        composition, defaults, STAMP
    )


@given(st.data())
# Not shrunk: a failing example is small, and the reference is slow.
@settings(max_examples=15, phases=(Phase.explicit, Phase.reuse, Phase.generate))
def test_any_sequence_of_changes_ends_in_what_ruamel_writes_for_the_whole_document(data):
    renderer, composition = (
        Renderer(cache_bytes=data.draw(st.sampled_from([0, 10_000, 1 << 20]))),
        make_composition(5),
    )
    for _ in range(data.draw(st.integers(1, 5))):
        model_id = data.draw(st.sampled_from(["101", "103", "105", "0", "a-b", "zz"]))
        if (
            data.draw(st.booleans())
            or composition.model(model_id) is None
            or len(composition.models) == 1
        ):
            composition = composition.with_model(data.draw(models(model_id)))
        else:
            left = tuple(model for model in composition.models if model.id != model_id)
            composition = composition.model_copy(update={"models": left})
        defaults = data.draw(
            st.sampled_from([GOLDEN_DEFAULTS, RenderDefaults(labels={"team": "ä b"}, restart="no")])
        )
        rendered = renderer.render(composition, defaults, STAMP)

    document = body(rendered, compose.PATH)
    services = pyyaml.safe_load(document)["services"]
    digests = {
        "router": services["visual-anomaly-nginx"]["labels"]["bundle.router"],
        "proxy": services["model_proxy"]["labels"]["bundle.signature"],
    }
    assert rendered == Renderer().render(composition, defaults, STAMP)
    assert document == whole_compose_file(composition, defaults, digests)


def test_threads_that_share_a_renderer_get_the_same_result():
    renderer = Renderer(cache_bytes=20_000)
    wanted = [make_composition(size) for size in (1, 3, 5, 8)] * 4

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda item: renderer.render(item, GOLDEN_DEFAULTS, STAMP), wanted))

    assert results == [Renderer().render(item, GOLDEN_DEFAULTS, STAMP) for item in wanted]


@pytest.mark.parametrize(
    "model",
    [make_model("103", version="99"), make_model("0000"), make_model("zzz", platform="triton")],
    ids=["replace", "first", "last"],
)
def test_a_change_keeps_the_blocks_of_the_other_models(model):
    renderer, before = Renderer(), make_composition(6)
    after = before.with_model(model)
    old, new = blocks_of(before, renderer), blocks_of(after, renderer)

    assert len([block for block in new[1:-2] if block not in old]) == 1


def test_a_removed_model_keeps_the_blocks_of_the_others():
    document = composition_document(6)
    before = Composition.model_validate(document)
    del document["models"][2]
    after = Composition.model_validate(document)
    renderer = Renderer()
    old, new = blocks_of(before, renderer), blocks_of(after, renderer)

    assert new[1:-2] == [block for block in old[1:-2] if b"s103s" not in block]


def changed_services(
    before: Composition, after: Composition, templates: Templates | None = None
) -> list[bytes]:
    """The services of `after`, rendered from `templates`, that an update starts or replaces."""
    renderer = Renderer()
    old, new = blocks_of(before, renderer), blocks_of(after, renderer, templates)
    return [block.split(b":")[0].strip() for block in new if block not in old]


@pytest.mark.parametrize("model_id", ["101", "103"])
def test_a_new_version_replaces_no_service(model_id):
    before = make_composition(6)
    model = before.model(model_id)
    assert model is not None
    after = before.with_model(ModelChange(id=model_id, version="99").applied_to(model))

    assert changed_services(before, after) == []


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_new_version_of_a_model_that_is_restarted_replaces_its_service_and_no_other(platform):
    before, after = (
        make_composition(2).with_model(
            make_model("500", version=version, platform=platform, serving={"update": "restart"})
        )
        for version in ("1", "2")
    )

    assert changed_services(before, after) == [b"s500s"]


def test_a_new_model_starts_its_service_and_replaces_neither_router_nor_another_model():
    before = make_composition(2)

    assert changed_services(before, before.with_model(make_model("999"))) == [b"s999s"]


def test_a_model_that_leaves_changes_no_service():
    before = make_composition(3)
    after = before.model_copy(update={"models": before.models[:-1]})

    assert changed_services(before, after) == []


@pytest.mark.parametrize(
    ("name", "services"), [("download.sh", []), ("router.sh", [b"visual-anomaly-nginx"])]
)
def test_a_new_script_replaces_only_a_service_that_does_not_start_anew_at_every_up(name, services):
    composition = make_composition(2)
    own = Templates.built_in().overridden_by(
        {name: Templates.built_in().text(name) + "# a new release\n"}
    )

    assert changed_services(composition, composition, own) == services


@pytest.mark.parametrize("models", [8, 40])
@pytest.mark.parametrize(
    ("image", "passes"),
    [("registry.example.com/serving:2", 0), ("registry.example.com/serving:2.", 1)],
    ids=["ordinary", "ends in a dot"],
)
def test_a_one_model_event_passes_at_most_one_block_through_ruamel(
    monkeypatch, models, image, passes
):
    renderer, composition = Renderer(), make_composition(models)
    renderer.render(composition, GOLDEN_DEFAULTS, STAMP)
    # The first model of each shape of a block passes through ruamel once.
    Renderer().render(
        composition.with_model(make_model("104", version="98")), GOLDEN_DEFAULTS, STAMP
    )
    dumps = counted(monkeypatch, yaml_templates, "dump")

    changed = composition.with_model(make_model("104", version="99", serving={"image": image}))
    renderer.render(changed, GOLDEN_DEFAULTS, STAMP)
    assert len(dumps) == passes
    renderer.render(composition, GOLDEN_DEFAULTS, STAMP)
    assert len(dumps) == passes


@pytest.mark.parametrize("models", [8, 40])
def test_a_one_model_event_passes_one_models_block_through_the_gate(monkeypatch, models):
    renderer, composition = Renderer(), make_composition(models, bundle=f"only-here-{models}")
    gate.check(composition, GOLDEN_DEFAULTS, renderer.render(composition, GOLDEN_DEFAULTS, STAMP))
    changed = composition.with_model(make_model("104", version="99"))
    rendered = renderer.render(changed, GOLDEN_DEFAULTS, STAMP)
    reads = counted(monkeypatch, parsers, "yaml_text")

    gate.check(changed, GOLDEN_DEFAULTS, rendered)

    # One block for the model, the three services with digests, and the two ends of the document.
    assert len(reads) == 1 + 3 + 2


def test_a_mirror_serves_every_image_and_the_readme_names_it():
    defaults = RenderDefaults.model_validate(
        {
            "registries": {
                "docker.io": "mirror.example.com/hub",
                "registry.example.com": "mirror.example.com/own",
            }
        }
    )
    bundle = Renderer().render(golden_composition(), defaults, STAMP)
    compose = body(bundle, "base/bundle/docker-compose.yaml")

    images = re.findall(r"\n    image: (.*)", compose)
    assert images
    assert all(image.startswith("mirror.example.com/") for image in images)
    assert "mirror.example.com/hub" in body(bundle, "README.md")


def test_every_long_running_service_gets_the_restart_policy():
    bundle = Renderer().render(golden_composition(), RenderDefaults(restart="no"), STAMP)

    compose = body(bundle, "base/bundle/docker-compose.yaml")
    assert compose.count('    restart: "no"\n') == len(golden_composition().models) + 3
    assert "restart: unless-stopped" not in compose


def test_labels_with_capitals_and_slashes_and_a_number_of_restarts_are_for_every_service():
    labels = {
        "traefik.http.services.modelProxy.loadbalancer.server.port": "8000",
        "prometheus.io/scrape": "true",
    }
    defaults = RenderDefaults(labels=labels, restart="on-failure:5")
    bundle = Renderer().render(golden_composition(), defaults, STAMP)
    gate.check(golden_composition(), defaults, bundle)

    services = pyyaml.safe_load(body(bundle, "base/bundle/docker-compose.yaml"))["services"]
    assert all(labels.items() <= service["labels"].items() for service in services.values())
    assert {name: service["restart"] for name, service in services.items()} == {
        name: "no" if name == "model_download" else "on-failure:5" for name in services
    }


def test_a_custom_template_is_used_for_its_bundle_only():
    own = Templates.built_in().overridden_by({"monitoring.txt": "prometheus_config {}\n"})
    renderer = Renderer()
    before, changed, after = (
        renderer.render(golden_composition(), GOLDEN_DEFAULTS, STAMP, templates)
        for templates in (None, own, Templates.built_in())
    )

    assert body(changed, "base/bundle/monitoring.txt") == "prometheus_config {}\n"
    assert before == after
    assert {a.path for a, b in zip(before, changed, strict=True) if a != b} == {
        "base/bundle/monitoring.txt",
        STAMP_PATH,  # it has the digest of the content
    }

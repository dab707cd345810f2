"""The compose file equals what ruamel.yaml writes for the whole document, and the golden one except
its digests.
"""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml as pyyaml
from hypothesis import given, settings

from renderers import compose, gate
from renderers.bundle import Renderer
from renderers.compose import ResourceDefaults
from renderers.composition import Composition, RenderDefaults, Resources
from renderers.template_set import Templates
from tests.builders import GOLDEN_DEFAULTS, STAMP, golden_composition, make_composition, make_model
from tests.strategies import compositions, render_defaults
from tests.support.reference_renderer import whole_compose_file

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "docker-compose.yaml"


def rendered(
    composition: Composition,
    defaults: RenderDefaults = GOLDEN_DEFAULTS,
    renderer: Renderer | None = None,
) -> str:
    bundle = (renderer or Renderer()).render(composition, defaults, STAMP)
    return next(file.body.decode() for file in bundle if file.path == compose.PATH)


def digests_in(document: str, composition: Composition) -> dict[str, str]:
    services = pyyaml.safe_load(document)["services"]
    return {
        "router": services[f"{composition.bundle.name}-nginx"]["labels"]["bundle.router"],
        "proxy": services["model_proxy"]["labels"]["bundle.signature"],
    }


@given(compositions(), render_defaults())
@settings(max_examples=60)
def test_joined_blocks_equal_what_ruamel_writes_for_the_whole_document(composition, defaults):
    document = rendered(composition, defaults)

    assert document == whole_compose_file(composition, defaults, digests_in(document, composition))


@pytest.mark.parametrize("models", [1, 5, 40])
def test_a_mixed_bundle_is_what_ruamel_writes_for_the_whole_document(models):
    composition = make_composition(models)
    document = rendered(composition)

    assert document == whole_compose_file(
        composition, GOLDEN_DEFAULTS, digests_in(document, composition)
    )


def test_a_change_after_a_change_is_what_ruamel_writes_for_the_whole_document():
    renderer, composition = Renderer(), make_composition(6)
    changes = [
        make_model("103", version="9"),
        make_model("0", platform="triton"),
        make_model("zz"),
        make_model("103", version="1"),
    ]
    for model in changes:
        composition = composition.with_model(model)
        document = rendered(composition, renderer=renderer)

        assert document == whole_compose_file(
            composition, GOLDEN_DEFAULTS, digests_in(document, composition)
        )


def test_the_golden_composition_gives_the_golden_document_except_its_digests():
    def without_digests(text: str) -> dict[str, Any]:
        document = pyyaml.safe_load(text)
        for service in document["services"].values():
            for key, value in service.get("labels", {}).items():
                if re.fullmatch("[0-9a-f]{16}", value):
                    service["labels"][key] = "<digest>"
        return document

    assert without_digests(rendered(golden_composition())) == without_digests(GOLDEN.read_text())


def test_the_golden_composition_gives_the_golden_options_at_their_places():
    """Comments and blank lines from the first model on, each with the line above it, are those of
    the golden file.
    """

    def options(text: str) -> list[tuple[str, str]]:
        lines = text[text.index("  s101s:") :].splitlines()
        return [
            (above, line)
            for above, line in pairwise(lines)
            if not line or line.lstrip().startswith("#")
        ]

    assert options(rendered(golden_composition())) == options(GOLDEN.read_text())


def test_a_digest_of_files_is_shortened_to_16_digits():
    composition = make_composition(3)

    assert [len(digest) for digest in digests_in(rendered(composition), composition).values()] == [
        16
    ] * 2
    assert (
        compose.sealed(b'x: "<content_digest>"\n', "a" * 16 + "b" * 48)
        == b'x: "' + b"a" * 16 + b'"\n'
    )


def test_no_line_ends_in_a_blank_or_holds_a_tab():
    document = rendered(make_composition(8))

    assert "\t" not in document
    assert all(line == line.rstrip() for line in document.splitlines())


def test_enabled_batching_mounts_the_file_of_the_bundle_in_one_line():
    model = make_model("101", serving={"batching": {"parameters": {"max_batch_size": 8}}})
    composition = Composition.model_validate(
        make_composition(1).model_dump() | {"models": [model.model_dump()]}
    )
    lines = [line.strip() for line in rendered(composition).splitlines() if "batching" in line]

    assert lines[0].startswith('bundle.batching: "')
    assert lines[1:] == [
        "- ./batching_101.txt:/etc/batching.txt",
        "- --enable_batching",
        "- --batching_parameters_file=/etc/batching.txt",
    ]


@pytest.mark.parametrize(
    ("gpu", "runtime", "lines"),
    [
        pytest.param(None, False, [], id="cpu"),
        pytest.param(
            {"count": "all"}, True, ["#devices:", "#- capabilities: [gpu]", "#count: 1"], id="all"
        ),
        pytest.param(
            {"count": 2}, False, ["devices:", "- capabilities: [gpu]", "count: 2"], id="count"
        ),
        pytest.param(
            {"device_ids": ["0", "1"]},
            False,
            ["devices:", "- capabilities: [gpu]", "device_ids:", '- "0"', '- "1"'],
            id="ids",
        ),
    ],
)
def test_gpus_are_those_of_the_composition(gpu, runtime, lines):
    composition = make_composition(1).with_model(
        make_model("101", serving={"gpu": gpu} if gpu else {})
    )
    document = [line.strip() for line in rendered(composition).splitlines()]
    end_of_amounts = document.index("memory: ${SERVING_101_MEM_RESERVATION:-0}") + 1

    assert document[end_of_amounts : document.index("", end_of_amounts)] == lines
    assert ("runtime: nvidia" in document) is runtime


def test_resources_of_a_model_take_precedence_over_the_defaults():
    defaults = Resources.model_validate(
        {"limits": {"cpus": 1, "memory": "1g"}, "reservations": {"memory": "256m"}}
    )
    model = make_model(serving={"resources": {"limits": {"cpus": 0, "memory": 1000}}})

    assert ResourceDefaults.of(model, defaults) == ResourceDefaults("0", "1000b", "0", "256m")
    assert ResourceDefaults.of(make_model(), defaults) == ResourceDefaults("1", "1g", "0", "256m")
    more = make_model(
        serving={
            "resources": {"limits": {"cpus": 2}, "reservations": {"cpus": 0.5, "memory": "1m"}}
        }
    )
    assert ResourceDefaults.of(more, defaults) == ResourceDefaults("2", "1g", "0.5", "1m")


def test_ids_in_variables_have_underscores():
    composition = make_composition(1).with_model(make_model("a-b"))

    assert "${SERVING_a_b_CPU_LIMIT:-0}" in rendered(composition)


def test_labels_of_the_defaults_are_on_every_service_and_not_interpolated():
    defaults = RenderDefaults.model_validate({"labels": {"on": "${HOME} $$ <image>"}})
    services = pyyaml.safe_load(rendered(golden_composition(), defaults))["services"]

    assert {service["labels"]["on"] for service in services.values()} == {"$${HOME} $$$$ <image>"}


@pytest.mark.parametrize(
    "change",
    [
        {"version": "2"},
        {"artifact": {"uri": "gs://example-bucket/other"}},
        {"artifact": {"uri": "gs://example-bucket/models/101/1", "digest": "sha256:" + "0" * 64}},
        {"serving_version": 5},
    ],
    ids=["version", "uri", "digest", "serving_version"],
)
def test_the_models_label_changes_with_its_content(change):
    before = make_model("101", version="1")

    assert compose.model_digest(make_model("101", **change)) != compose.model_digest(before)


def test_the_models_label_stays_when_only_its_name_changes():
    assert compose.model_digest(make_model(name="a")) == compose.model_digest(make_model(name="b"))


@pytest.mark.parametrize(
    ("target", "option"),
    [("core-versions", "#- core-versions"), ("on", '#- "on"'), ("1", '#- "1"')],
)
def test_the_target_in_an_option_is_text_once_uncommented(target, option):
    lines = [line.strip() for line in rendered(make_composition(1, target=target)).splitlines()]

    assert lines[lines.index("#- --target-bundle") + 1] == option


@pytest.mark.parametrize("gpu", [None, "all"])
def test_a_sample_is_the_service_of_a_model_without_limits_with_its_placeholders(gpu):
    sample = compose.sample("tensorflow", Templates.built_in(), gpu=gpu)
    service = pyyaml.safe_load(sample)["s<model_id>s"]

    assert ("runtime" in service, "#devices:" in sample) == (gpu is not None, gpu is not None)
    assert service["deploy"]["resources"] == {
        group: {
            name: f"${{SERVING_<model_id>_{part}_{suffix}:-0}}"
            for name, part in (("cpus", "CPU"), ("memory", "MEM"))
        }
        for group, suffix in (("limits", "LIMIT"), ("reservations", "RESERVATION"))
    }


def service_of(model):
    """The service of one model as YAML has it, and its lines without indentation."""
    composition = make_composition(1).with_model(model)
    files = Renderer().render(composition, RenderDefaults(), STAMP)
    gate.check(composition, RenderDefaults(), files)
    text = next(file.body.decode() for file in files if file.path == compose.PATH)
    block = text.partition(f"\n  s{model.id}s:\n")[2].partition("\n  s")[0]
    service = pyyaml.safe_load(text)["services"][f"s{model.id}s"]
    return service, [line.strip() for line in block.splitlines()]


@pytest.mark.parametrize(
    ("platform", "flags"),
    [
        ("tensorflow", ["--model_name=Big-1.0", "--model_base_path=/models/Big-1.0"]),
        ("openvino", ["--model_name=Big-1.0", "--model_path=/models/Big-1.0"]),
        ("triton", ["--load-model=Big-1.0"]),
    ],
)
def test_an_engine_has_its_own_name_of_a_model_and_the_host_has_the_id(platform, flags):
    model = make_model("x1", platform=platform, serving={"engine_name": "Big-1.0"})
    service, _ = service_of(model)
    target = "/models" if platform == "triton" else "/models/Big-1.0"

    assert [flag for flag in service["command"] if "Big" in flag] == flags
    assert service["volumes"][0] == f"../model-serving/model-download/models/x1:{target}:ro"
    assert ("GET /v1/models/Big-1.0 " in str(service["healthcheck"])) is (platform != "triton")
    assert service["labels"]["bundle.model"] == "x1"


@pytest.mark.parametrize("platform", ["tensorflow", "openvino", "triton"])
def test_variables_and_arguments_reach_the_process_as_they_were_given(platform):
    arguments = ("--xa=$HOME: # x", "--xb", "a \"b\" \\ 'c'", "--xc")
    environment = {"on": "$x ${y}", "A": "", "B": "1e3"}
    model = make_model(
        "x1", platform=platform, serving={"arguments": arguments, "environment": environment}
    )
    service, _ = service_of(model)
    dollars = [argument.replace("$", "$$") for argument in arguments]
    end = -1 if platform == "tensorflow" else None

    assert service["environment"] == {"on": "$$x $${y}", "A": "", "B": "1e3"}
    assert service["command"][:end][-4:] == dollars
    assert platform != "tensorflow" or service["command"][-1] == "--port=9000"


@pytest.mark.parametrize(
    ("platform", "argument", "left_out"),
    [
        ("tensorflow", "--grpc_max_threads=3", ["#- --grpc_max_threads=<int_val>"]),
        (
            "tensorflow",
            "--tensorflow_inter_op_parallelism=3",
            ["#- --tensorflow_inter_op_parallelism=<int_val>"],
        ),
        (
            "tensorflow",
            "--batching-parameters-file=/x",
            [
                "#- ${REL_DIR}/conf/bundle/batching_x1.txt:/etc/batching.txt",
                "#- --enable_batching",
                "#- --batching_parameters_file=/etc/batching.txt",
            ],
        ),
        (
            "tensorflow",
            "--monitoring_config_file=/x",
            [
                "#- ./monitoring.txt:/etc/monitoring.txt",
                "#- --monitoring_config_file=/etc/monitoring.txt",
            ],
        ),
        ("openvino", "--nometrics_enable", ["#- --metrics_enable"]),
        ("openvino", "--grpc_workers=2", ["#- --grpc_workers=<int_val>"]),
    ],
)
def test_an_option_that_an_argument_sets_is_not_offered(platform, argument, left_out):
    def options(**serving):
        _, lines = service_of(make_model("x1", platform=platform, serving=serving))
        return [line for line in lines if line.startswith("#")]

    offered = options()

    assert [option for option in offered if option in left_out] == left_out
    assert options(arguments=[argument]) == [option for option in offered if option not in left_out]


@pytest.mark.parametrize(
    ("platform", "given", "shown"),
    [
        ("triton", None, "1g"),
        ("triton", "8192m", "8g"),
        ("tensorflow", None, None),
        ("tensorflow", 1000, "1000b"),
        ("openvino", "64m", "64m"),
    ],
)
def test_shared_memory_has_the_largest_unit(platform, given, shown):
    service, _ = service_of(make_model("x1", platform=platform, serving={"shm_size": given}))

    assert service.get("shm_size") == shown


@pytest.mark.parametrize("platform", ["tensorflow", "openvino", "triton"])
def test_a_start_period_is_in_seconds(platform):
    service, _ = service_of(make_model("x1", platform=platform, serving={"start_period": "10m"}))

    assert service["healthcheck"]["start_period"] == "600s"


@pytest.mark.parametrize(
    ("gpu", "request_"),
    [
        ({"count": "all"}, None),
        ({"count": "all", "driver": "nvidia"}, {"count": "all", "driver": "nvidia"}),
        ({"count": 2, "driver": "nvidia"}, {"count": 2, "driver": "nvidia"}),
        (
            {"device_ids": ["nvidia.com/gpu=0"], "driver": "cdi"},
            {"device_ids": ["nvidia.com/gpu=0"], "driver": "cdi"},
        ),
    ],
)
@pytest.mark.parametrize("platform", ["tensorflow", "triton"])
def test_a_driver_is_named_in_a_device_request_and_replaces_the_runtime(platform, gpu, request_):
    service, lines = service_of(make_model("x1", platform=platform, serving={"gpu": gpu}))
    requests = service["deploy"]["resources"]["reservations"].get("devices")

    assert requests == (request_ and [{"capabilities": ["gpu"]} | request_])
    assert service.get("runtime") == (None if request_ else "nvidia")
    assert ("#devices:" in lines) is (request_ is None)


def test_tensorflow_with_a_gpu_takes_its_share_of_the_memory_or_offers_the_option():
    option = "#- --per_process_gpu_memory_fraction=<float>"
    for gpu in ({"count": "all"}, {"count": 1}, {"device_ids": ["0"]}):
        _, lines = service_of(make_model("x1", serving={"gpu": gpu}))
        service, shared = service_of(
            make_model("x1", serving={"gpu": gpu | {"memory_fraction": 0.4}})
        )

        assert lines.count(option) == 1
        assert option not in shared
        assert "--per_process_gpu_memory_fraction=0.4" in service["command"]
    _, without = service_of(make_model("x1"))
    assert option not in without


def test_a_repository_is_mounted_as_one_folder_of_which_the_named_models_are_loaded():
    model = make_model("x1", platform="triton", serving={"repository": {"models": ["b", "A"]}})
    service, _ = service_of(model)

    assert service["command"] == [
        "tritonserver",
        "--model-repository=/models/x1",
        "--model-control-mode=explicit",
        "--load-model=b",
        "--load-model=A",
    ]
    assert service["volumes"] == ["../model-serving/model-download/models/x1:/models:ro"]
    assert "bundle.model-version" in service["labels"]
    assert "/v2/health/ready" in str(service["healthcheck"]["test"])

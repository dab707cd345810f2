"""Every commented option of the rendered project, enabled like an operator does it: by deleting the
`#` of its lines.

One bundle has every kind of service. Each group of options is enabled alone, with the groups that
belong to it, and with all others. Docker Compose must accept each, and read exactly its values. The
green lines of the bundle's README are tested as well, with the effect that the README describes.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import yaml

from renderers.bundle import Customisation, Renderer
from renderers.checked import render_checked
from renderers.composition import Composition
from renderers.platforms import PLATFORMS
from renderers.template_set import Templates
from tests.builders import STAMP, make_composition, model_document
from tests.services.compose import Compose, ConfigRefused
from tests.support.target_host import DeployedBundle

GPUS = {
    "all-gpus": {"count": "all"},
    "two-gpus": {"count": 2},
    "chosen-gpus": {"device_ids": ["0", "GPU-1f"]},
}
BATCHING = {"parameters": {"max_batch_size": 8, "allowed_batch_sizes": [4, 8]}}


def every_kind() -> Iterator[dict[str, Any]]:
    """Models of every platform, on the processor and on GPUs selected in each way, without batching
    and with it.
    """
    for name, platform in PLATFORMS.items():
        for gpu, choice in {"cpu": None, **({} if platform.no_gpu else GPUS)}.items():
            for batching in [None] if platform.no_batching else [None, BATCHING]:
                serving = {
                    key: value for key, value in (("gpu", choice), ("batching", batching)) if value
                }
                model_id = f"{name}-{gpu}{'-batching' if batching else ''}"
                yield model_document(model_id, platform=name, serving=serving)


def bundle_of_every_kind(
    bundle: str = "visual-anomaly", target: str = "core-versions"
) -> Composition:
    document = make_composition(1).model_dump(mode="json", exclude_none=True)
    return Composition.model_validate(
        document | {"bundle": {"name": bundle, "target": target}, "models": list(every_kind())}
    )


# Groups that belong together according to the bundle's README, by words that they contain.
SETS = {
    "batching": ("batching",),
    "monitoring": ("monitoring",),
    "parallelism": ("_op_parallelism",),
    "grpc threads": ("grpc_max_threads",),
    "share of the memory": ("per_process_gpu_memory_fraction",),
    "openvino": ("metrics_enable", "nireq", "grpc_workers", "rest_workers"),
    "gpu devices": ("devices:", "capabilities:", "count:"),
    "service name format": ("service-name-format", "svc_name_format"),
    "target bundle": ("target-bundle", "core-versions"),
}
# What a set consists of: the keys of the service that its groups are below.
PARTS = {
    "batching": ["volumes", "command", "command"],
    "monitoring": ["volumes", "command"],
    "parallelism": ["command", "command"],
    "grpc threads": ["command"],
    "share of the memory": ["command"],
    "openvino": ["command", "command", "command", "command"],
    "gpu devices": ["deploy"],
    "service name format": ["command"],
    "target bundle": ["command"],
}

# A remark has a blank behind its sign.
_OPTION = re.compile(r"^( +)#([^ ].*)$")
_SERVICE = re.compile(r"^  ([a-z0-9_-]+):$")
_SECTION = re.compile(r"^    ([a-z_]+):")


@dataclass(frozen=True, slots=True)
class OptionLine:
    """One commented line: its place, its service, the key above it, and its text."""

    index: int
    service: str
    section: str
    column: int
    text: str
    run: int = 0
    """The number of the run of comment lines that it belongs to."""

    @property
    def set(self) -> str:
        """The one of SETS, else the line itself (an option of a single platform)."""
        return next(
            (name for name, words in SETS.items() if any(word in self.text for word in words)),
            self.text,
        )

    @property
    def value(self) -> str:
        """The item of a list."""
        return str(yaml.safe_load(self.text)[0])


def option_lines(text: str) -> list[OptionLine]:
    found, service, section, run = [], "", "", 0
    for index, line in enumerate(text.splitlines()):
        run += not line.lstrip().startswith("#")
        if header := _SERVICE.match(line):
            service = header[1]
        if key := _SECTION.match(line):
            section = key[1]
        if option := _OPTION.match(line):
            found.append(OptionLine(index, service, section, len(option[1]), option[2], run))
    return found


def switched_on(text: str, options: Iterable[OptionLine]) -> str:
    lines = text.splitlines()
    for option in options:
        lines[option.index] = _OPTION.sub(r"\1\2", lines[option.index])
    return "\n".join(lines) + "\n"


def groups(options: Iterable[OptionLine]) -> list[list[OptionLine]]:
    """Lines further in belong to the one above them, and in a command a value to its flag."""
    found: list[list[OptionLine]] = []
    for option in options:
        group = found[-1] if found else []
        follows = bool(group) and option.run == group[-1].run
        if follows and (option.column > group[0].column or is_value(option, group)):
            group.append(option)
        else:
            found.append([option])
    return found


def is_value(option: OptionLine, group: list[OptionLine]) -> bool:
    (flag, *others) = group
    return (
        option.section == "command"
        and not others
        and flag.value.startswith("-")
        and not option.value.startswith("-")
        and "=" not in flag.value
    )


def choices(options: list[OptionLine]) -> list[list[OptionLine]]:
    """The ways to enable options of one service: each group, each set of groups, all."""
    sets: dict[str, list[OptionLine]] = {}
    for option in options:
        sets.setdefault(option.set, []).append(option)
    alone = groups(options)
    return [*alone, *(lines for lines in sets.values() if lines not in alone), options]


# Compose's view of a service


def words(service: dict[str, Any]) -> list[str]:
    return service.get("command", [])


def mounts(service: dict[str, Any]) -> dict[str, str]:
    return {volume["target"]: volume["source"] for volume in service.get("volumes", [])}


def devices(service: dict[str, Any]) -> list[dict[str, Any]]:
    resources = service.get("deploy", {}).get("resources", {})
    found = resources.get("reservations", {}).get("devices", [])
    return [
        {key: device[key] for key in ("capabilities", "count", "device_ids") if key in device}
        for device in found
    ]


def mounted(volume: str, bundle: DeployedBundle) -> tuple[str, str]:
    """Target and source on the host of a mount in the compose file."""
    source, target = volume.removesuffix(":ro").rsplit(":", 1)
    absolute = source.replace("${REL_DIR}", str(bundle.directory))
    return target, str((bundle.compose_file.parent / absolute).resolve())


@pytest.fixture
def bundle(tmp_path: Path) -> DeployedBundle:
    return DeployedBundle.install(bundle_of_every_kind(), tmp_path)


@pytest.fixture
def generated(bundle: DeployedBundle) -> str:
    return bundle.compose_file.read_text()


def by_service(generated: str) -> dict[str, list[OptionLine]]:
    found: dict[str, list[OptionLine]] = {}
    for option in option_lines(generated):
        found.setdefault(option.service, []).append(option)
    return found


@pytest.mark.parametrize("model", list(every_kind()), ids=lambda model: model["id"])
def test_each_kind_of_service_has_the_options_of_the_bundles_readme(
    model: dict[str, Any], generated: str
) -> None:
    serving = model["serving"]
    expected = {"gpu devices"} if serving.get("gpu") == {"count": "all"} else set()
    if serving["platform"] == "openvino":
        expected |= {"openvino"}
    if serving["platform"] == "tensorflow":
        expected |= {"parallelism", "monitoring", "grpc threads"} | (
            set() if "batching" in serving else {"batching"}
        )
        expected |= {"share of the memory"} if "gpu" in serving else set()

    found = {option.set for option in by_service(generated).get(f"s{model['id']}s", [])}

    assert found & set(SETS) == expected
    assert {option.set for option in by_service(generated)["model_proxy"]} == {
        "service name format",
        "target bundle",
    }


def test_each_set_consists_of_whole_groups(generated: str) -> None:
    for options in by_service(generated).values():
        found: dict[str, list[str]] = {}
        for group in groups(options):
            (name,) = {option.set for option in group}
            found.setdefault(name, []).append(group[0].section)

        # Where the bundle enables batching itself, it is no option.
        assert found == {name: PARTS[name] for name in found}


def test_each_group_alone_in_its_set_and_with_all_others_has_the_effect_of_its_lines(
    compose: Compose, bundle: DeployedBundle, generated: str
) -> None:
    before = compose.config(bundle.directory)["services"]
    rounds = list(
        zip_longest(*(choices(options) for options in by_service(generated).values()), fillvalue=())
    )
    assert len(rounds) > 10

    for chosen in rounds:
        options = [option for lines in chosen for option in lines]
        bundle.compose_file.write_text(switched_on(generated, options))
        after = compose.config(bundle.directory)["services"]

        assert {name for name in after if after[name] != before[name]} == {
            option.service for option in options
        }
        for lines in filter(None, chosen):
            name, case = lines[0].service, [option.text for option in lines]
            flags = {option.value for option in lines if option.section == "command"}
            volumes = dict(
                mounted(option.value, bundle) for option in lines if option.section == "volumes"
            )
            gpu = (
                [{"capabilities": ["gpu"], "count": 1}]
                if any(option.section == "deploy" for option in lines)
                else []
            )
            added = [word for word in words(after[name]) if word not in words(before[name])]
            assert sorted(added) == sorted(flags), (name, case)
            assert mounts(after[name]) == mounts(before[name]) | volumes, (name, case)
            assert devices(after[name]) == devices(before[name]) + gpu, (name, case)
            assert all(Path(source).is_file() for source in volumes.values()), (name, case)


@pytest.mark.parametrize("suffix", ["", "-batching"])
def test_all_options_give_tensorflow_serving_its_flags_in_the_readmes_order(
    compose: Compose, bundle: DeployedBundle, generated: str, suffix: str
) -> None:
    model_id = f"tensorflow-cpu{suffix}"

    service = with_options(compose, bundle, option_lines(generated))[f"s{model_id}s"]

    assert words(service) == [
        "--enable_model_warmup",
        f"--model_name={model_id}",
        f"--model_base_path=/models/{model_id}",
        "--max_num_load_retries=0",
        "--tensorflow_inter_op_parallelism=<int_val>",
        "--tensorflow_intra_op_parallelism=<int_val>",
        "--enable_batching",
        "--batching_parameters_file=/etc/batching.txt",
        "--monitoring_config_file=/etc/monitoring.txt",
        "--grpc_max_threads=<int_val>",
        # The port is the last flag, so that the image's own does not win.
        "--port=9000",
    ]
    batching = bundle.folder / "base/bundle" if suffix else bundle.directory / "conf/bundle"
    assert mounts(service)["/etc/batching.txt"] == f"{batching}/batching_{model_id}.txt"
    assert mounts(service)["/etc/monitoring.txt"] == f"{bundle.folder}/base/bundle/monitoring.txt"


def test_all_options_give_openvino_its_flags_in_the_readmes_order(
    compose: Compose, bundle: DeployedBundle, generated: str
) -> None:
    service = with_options(compose, bundle, option_lines(generated))["sopenvino-cpus"]

    assert words(service) == [
        *(
            "--model_name=openvino-cpu",
            "--model_path=/models/openvino-cpu",
            "--port=9000",
            "--rest_port=8000",
        ),
        *(
            "--metrics_enable",
            "--nireq=<int_val>",
            "--grpc_workers=<int_val>",
            "--rest_workers=<int_val>",
        ),
    ]


# A target is part of an option of the proxy. There, a YAML keyword would no longer be text.
TARGETS = (
    "on",
    "y",
    "no",
    "null",
    "true",
    "0x1f",
    "1e3",
    "007",
    "0o17",
    "1_000",
    "2026-01-01",
    "a",
    "a" * 63,
)


@pytest.mark.parametrize("target", TARGETS)
def test_all_options_give_the_proxy_its_arguments_in_the_readmes_order(
    compose: Compose, tmp_path: Path, target: str
) -> None:
    bundle = DeployedBundle.install(bundle_of_every_kind(target=target), tmp_path)
    options = by_service(bundle.compose_file.read_text())["model_proxy"]

    service = with_options(compose, bundle, options)["model_proxy"]

    assert words(service) == [
        *("mproxy", "server", "--tf-serving-connection-string", "visual-anomaly-nginx:8500"),
        *("--inference-engine-service-name-format", "<inference_svc_name_format>"),
        *("-c", "/etc/bundle-signature.yaml", "--target-bundle", target),
    ]


def with_options(
    compose: Compose, bundle: DeployedBundle, options: list[OptionLine]
) -> dict[str, Any]:
    bundle.compose_file.write_text(switched_on(bundle.compose_file.read_text(), options))
    return compose.config(bundle.directory)["services"]


def test_a_number_that_replaces_a_placeholder_reaches_the_engine(
    compose: Compose, bundle: DeployedBundle, generated: str
) -> None:
    bundle.compose_file.write_text(
        switched_on(generated, option_lines(generated)).replace("<int_val>", "16")
    )

    services = compose.config(bundle.directory)["services"]

    assert "--grpc_max_threads=16" in words(services["stensorflow-cpus"])


def test_incomplete_lines_are_refused_alone(
    compose: Compose, bundle: DeployedBundle, generated: str
) -> None:
    parts = [option for option in option_lines(generated) if option.section == "deploy"]
    assert len(parts) >= 3

    for part in parts:
        bundle.compose_file.write_text(switched_on(generated, [part]))
        with pytest.raises(ConfigRefused):
            compose.config(bundle.directory)


# The examples of the README


def readme_examples(readme: str) -> list[list[str]]:
    """The lines of each listing that shows a service."""
    listings = re.findall(r"^``` diff\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE)
    return [listing.splitlines() for listing in listings if ">" in listing.split("\n", 1)[1]]


def green(listing: list[str]) -> list[str]:
    return [line.removeprefix(">").strip() for line in listing if line.startswith(">")]


def promised(listing: list[str], model_id: str) -> dict[str, Any]:
    """The service of a listing with its green lines enabled, as a YAML parser reads it."""
    lines = [
        _OPTION.sub(r"\1\2", f" {line[1:]}") if line.startswith(">") else line for line in listing
    ]
    text = "\n".join(line for line in lines if line.strip() != "...")
    (service,) = yaml.safe_load(text.replace("<model_id>", model_id)).values()
    return service


def services_for(listing: list[str], generated: str) -> Iterator[tuple[str, list[OptionLine]]]:
    """The services with the lines that the listing shows in green, and their places."""
    for service, options in by_service(generated).items():
        model_id = service.removeprefix("s").removesuffix("s")
        wanted = {line.removeprefix("#").replace("<model_id>", model_id) for line in green(listing)}
        chosen = [option for option in options if option.text in wanted]
        if {option.text for option in chosen} == wanted:
            yield service, chosen


def test_the_readme_shows_every_set_of_options_in_green(bundle: DeployedBundle) -> None:
    examples = readme_examples((bundle.folder / "README.md").read_text())
    shown = {
        OptionLine(0, "", "", 0, line.removeprefix("#")).set
        for listing in examples
        for line in green(listing)
        if line
    }

    # The listing of a service without a GPU has no place for the share of its memory.
    assert shown == set(SETS) - {"share of the memory"}


def test_lines_that_the_readme_shows_in_green_have_the_effect_shown(
    compose: Compose, bundle: DeployedBundle, generated: str
) -> None:
    for listing in readme_examples((bundle.folder / "README.md").read_text()):
        chosen = dict(services_for(listing, generated))
        assert chosen, listing
        bundle.compose_file.write_text(
            switched_on(generated, [line for lines in chosen.values() for line in lines])
        )
        services = compose.config(bundle.directory)["services"]

        for name in chosen:
            # A listing shows a service on the processor without batching by the bundle, or all
            # GPUs.
            if name.endswith("-batchings"):
                continue
            service, values = (
                services[name],
                promised(listing, name.removeprefix("s").removesuffix("s")),
            )
            if "command" in values:
                assert words(service) == values["command"], name
            if "volumes" in values:
                assert mounts(service) == dict(
                    mounted(volume, bundle) for volume in values["volumes"]
                ), name
            if "deploy" in values:
                assert (
                    devices(service) == values["deploy"]["resources"]["reservations"]["devices"]
                ), name


# Custom templates


CUSTOM = {
    "triton.yaml": (
        "    shm_size: 1g\n",
        (
            "    # A Python back end needs more:\n    #ulimits:\n      #memlock: -1\n      # in kilobytes\n"
            "      #stack: 67108864\n    shm_size: 8g\n"
        ),
    ),
    "proxy.yaml": (
        "      - -c\n",
        "      # Logs, by level:\n      #- --log-level\n      #- <level>\n      - -c\n",
    ),
    "router.yaml": (
        "    networks:\n",
        "    #logging:\n      #driver: local\n      #options:\n        #max-size: 10m\n    networks:\n",
    ),
    "model_download.yaml": (
        "    volumes:\n",
        (
            "      #RCLONE_BWLIMIT: 1M\n    volumes:\n      #- type: bind\n        #source: /etc/ssl\n"
            "        #target: /etc/ssl\n        #read_only: true\n"
        ),
    ),
}


def test_options_and_remarks_of_custom_templates_are_read_by_compose_as_by_the_gate(
    compose: Compose, tmp_path: Path
) -> None:
    built_in = Templates.built_in()
    own = built_in.overridden_by(
        {name: built_in.text(name).replace(old, new, 1) for name, (old, new) in CUSTOM.items()}
    )
    render_checked(bundle_of_every_kind(), STAMP, Customisation(templates=own), renderer=Renderer())
    bundle = DeployedBundle.install(bundle_of_every_kind(), tmp_path, templates=own)
    generated = bundle.compose_file.read_text()
    before = compose.config(bundle.directory)["services"]
    custom = ("model_download", "striton-cpus", "visual-anomaly-nginx", "model_proxy")
    options = [option for option in option_lines(generated) if option.service in custom]

    for lines in groups(options):
        bundle.compose_file.write_text(switched_on(generated, lines))
        after = compose.config(bundle.directory)["services"]
        assert [name for name in after if after[name] != before[name]] == [lines[0].service]
    bundle.compose_file.write_text(switched_on(generated, options))
    services = compose.config(bundle.directory)["services"]

    assert [len(group) for group in groups(options)] == [1, 4, 3, 4, 2, 2, 2]
    assert services["striton-cpus"]["ulimits"] == {"memlock": -1, "stack": 67108864}
    assert services["visual-anomaly-nginx"]["logging"]["options"] == {"max-size": "10m"}
    assert services["model_download"]["environment"]["RCLONE_BWLIMIT"] == "1M"
    assert "/etc/ssl" in mounts(services["model_download"])
    assert words(services["model_proxy"])[4:] == [
        *("--inference-engine-service-name-format", "<inference_svc_name_format>"),
        *("--log-level", "<level>", "-c", "/etc/bundle-signature.yaml"),
        *("--target-bundle", "core-versions"),
    ]

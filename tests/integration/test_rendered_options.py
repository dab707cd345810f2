"""Every commented option of the rendered project, switched on as an operator does it: by deleting the `#` of its lines.

Alone where a line stands alone, in its group, and all at once; Docker Compose must accept each, and see its effect.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.builders import make_composition
from tests.deployed import DeployedBundle
from tests.services.compose import Compose, ConfigRefused

# Each kind of service is in it: both platforms, cpu and gpu, batching by the composition and by the operator.
MIXED = make_composition(8)

# By group, what its lines contain, and what it adds to the command of the service (None: nothing).
GROUPS = {
    "inter-op parallelism": (["inter_op_parallelism"], ["--tensorflow_inter_op_parallelism=<int_val>"]),
    "intra-op parallelism": (["intra_op_parallelism"], ["--tensorflow_intra_op_parallelism=<int_val>"]),
    "batching": (["batching"], ["--enable_batching", "--batching_parameters_file=/etc/batching.txt"]),
    "monitoring": (["monitoring"], ["--monitoring_config_file=/etc/monitoring.txt"]),
    "grpc threads": (["grpc_max_threads"], ["--grpc_max_threads=<int_val>"]),
    "gpu devices": (["devices:", "capabilities:", "count:"], []),
    "service name format": (
        ["service-name-format", "svc_name_format"],
        ["--inference-engine-service-name-format", "<inference_svc_name_format>"],
    ),
    "target bundle": (["target-bundle", MIXED.bundle.target], ["--target-bundle", MIXED.bundle.target]),
}
# A list item without its key, or a key without its items, is no valid document: these lines belong together.
INSEPARABLE = {"gpu devices"}

_OPTION = re.compile(r"^( +)#((?:- |[a-z_]+:).*)$")
_SERVICE = re.compile(r"^  ([a-z0-9_-]+):$")


@dataclass(frozen=True, slots=True)
class OptionLine:
    """One commented line: where it is, whose, and what it says."""

    index: int
    service: str
    text: str

    @property
    def group(self) -> str | None:
        return next((name for name, (words, _) in GROUPS.items() if any(word in self.text for word in words)), None)


def option_lines(text: str) -> list[OptionLine]:
    found, service = [], ""
    for index, line in enumerate(text.splitlines()):
        if header := _SERVICE.match(line):
            service = header[1]
        if option := _OPTION.match(line):
            found.append(OptionLine(index, service, option[2]))
    return found


def switched_on(text: str, options: Iterable[OptionLine]) -> str:
    lines = text.splitlines()
    for option in options:
        lines[option.index] = _OPTION.sub(r"\1\2", lines[option.index])
    return "\n".join(lines) + "\n"


@pytest.fixture
def bundle(tmp_path: Path) -> DeployedBundle:
    return DeployedBundle.install(MIXED, tmp_path)


def test_every_commented_line_belongs_to_a_known_option(bundle: DeployedBundle) -> None:
    options = option_lines(bundle.compose_file.read_text())

    assert {option.text for option in options if option.group is None} == set()
    assert {option.group for option in options} == set(GROUPS)


def test_each_option_is_accepted_in_its_group_and_takes_effect(compose: Compose, bundle: DeployedBundle) -> None:
    generated = bundle.compose_file.read_text()
    options = option_lines(generated)
    before = compose.config(bundle.directory)["services"]

    for service, group in sorted({(option.service, option.group) for option in options}):
        chosen = [option for option in options if (option.service, option.group) == (service, group)]
        bundle.compose_file.write_text(switched_on(generated, chosen))
        after = compose.config(bundle.directory)["services"]
        added = [word for word in after[service]["command"] if word not in before[service]["command"]]
        assert added == GROUPS[group][1], f"{service}: {group}"
        assert {name for name in after if after[name] != before[name]} == {service}, f"{service}: {group}"


def test_the_mounts_of_batching_and_monitoring_come_with_their_flags(compose: Compose, bundle: DeployedBundle) -> None:
    generated = bundle.compose_file.read_text()
    bundle.compose_file.write_text(
        switched_on(generated, [option for option in option_lines(generated) if option.service == "s101s"])
    )

    volumes = compose.config(bundle.directory)["services"]["s101s"]["volumes"]

    sources = {volume["target"]: volume["source"] for volume in volumes}
    assert sources["/etc/batching.txt"] == f"{bundle.directory}/conf/bundle/batching_101.txt"
    assert sources["/etc/monitoring.txt"] == f"{bundle.folder}/base/bundle/monitoring.txt"
    assert all(Path(source).is_file() for target, source in sources.items() if target.startswith("/etc/"))


def test_a_gpu_service_asks_for_one_device_once_its_option_is_on(compose: Compose, bundle: DeployedBundle) -> None:
    generated = bundle.compose_file.read_text()
    gpu = [option for option in option_lines(generated) if option.group == "gpu devices"]
    bundle.compose_file.write_text(switched_on(generated, gpu))

    services = compose.config(bundle.directory)["services"]

    for name in {option.service for option in gpu}:
        (device,) = services[name]["deploy"]["resources"]["reservations"]["devices"]
        assert (device["capabilities"], device["count"]) == (["gpu"], 1), name


def test_all_options_at_once_are_accepted(compose: Compose, bundle: DeployedBundle) -> None:
    generated = bundle.compose_file.read_text()
    bundle.compose_file.write_text(switched_on(generated, option_lines(generated)))

    compose.config(bundle.directory)


def test_each_line_is_accepted_alone_unless_it_is_only_a_part(compose: Compose, bundle: DeployedBundle) -> None:
    generated = bundle.compose_file.read_text()

    for option in option_lines(generated):
        bundle.compose_file.write_text(switched_on(generated, [option]))
        if option.group in INSEPARABLE:
            with pytest.raises(ConfigRefused):
                compose.config(bundle.directory)
        else:
            compose.config(bundle.directory)

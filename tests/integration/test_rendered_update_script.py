"""Decisions of the rendered update.sh that need no engine. tests/engine runs it on one."""

import subprocess
from pathlib import Path

import pytest

from renderers.composition import Composition
from tests.builders import make_composition, make_model
from tests.support.target_host import DeployedBundle


@pytest.fixture
def bundle(tmp_path: Path) -> DeployedBundle:
    basis = make_composition(1)
    models = (
        make_model("101", serving={"start_period": "30m"}),
        make_model("10", platform="triton", serving={"start_period": "10s"}),
        make_model("1", platform="triton", serving={"start_period": "3h"}),
    )
    return DeployedBundle.install(
        Composition(bundle=basis.bundle, models=models, proxy=basis.proxy), tmp_path / "a host"
    )


def called(bundle: DeployedBundle, function: str, setting: str) -> str:
    """What a function of the script prints, without the script's last line, which runs it."""
    script = (bundle.folder / "base/update.sh").read_text().rpartition("main ")[0]
    models = bundle.folder / "base/model-serving/model-download/models.txt"
    done = subprocess.run(
        ["sh", "-c", f"{script}\n{setting}\nlist='{models}'\n{function}"],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("service", "seconds"),
    [("s101s", 1800), ("s10s", 600), ("s1s", 10_800), ("model_proxy", 600), ("s0s", 600)],
)
def test_a_container_may_take_the_start_period_of_its_model(
    bundle: DeployedBundle, service: str, seconds: int
) -> None:
    default = "timeout=600 timeout_given=''"
    assert called(bundle, f"patience {service}", default) == str(seconds)


def test_a_timeout_that_is_given_holds_for_every_model(bundle: DeployedBundle) -> None:
    assert called(bundle, "patience s101s", "timeout=20 timeout_given=yes") == "20"

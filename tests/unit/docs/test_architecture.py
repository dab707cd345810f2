"""The pictures in docs/architecture.md agree with the layers that import-linter enforces and with
the files.
"""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "contracts"
]


def picture(package: str) -> str:
    """The block of the page that begins with the package's name."""
    [found] = re.findall(rf"^```\n{re.escape(package)}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


LAYERED = {
    contract["containers"][0]: contract["layers"]
    for contract in CONTRACTS
    if "containers" in contract
}


@pytest.mark.parametrize("package", LAYERED)
def test_the_drawn_layers_of_a_package_equal_the_enforced_ones(package):
    # Two columns: the modules, then their purpose. A line that begins with a bar continues the one
    # above.
    columns = [re.split(r"\s{2,}", line.strip())[0] for line in picture(package).splitlines()]
    drawn = " \n ".join(columns).replace("\n |", "|").split("\n")

    assert [re.findall(r"[a-z_0-9]+", layer) for layer in drawn] == [
        layer.split(" | ") for layer in LAYERED[package]
    ]


@pytest.mark.parametrize(
    "path",
    sorted(
        {
            path
            for page in ("architecture.md", "extending.md", "platforms.md")
            for path in re.findall(
                r"`((?:events|renderers|daemon|tests|docs)/[\w/.-]*)`",
                (ROOT / "docs" / page).read_text(),
            )
        }
    ),
)
def test_every_file_that_the_page_names_is_there(path):
    assert (ROOT / path).exists()

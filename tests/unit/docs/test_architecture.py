"""The pictures of docs/architecture.md against what import-linter enforces, and against the files that there are."""

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


LAYERED = {each["containers"][0]: each["layers"] for each in CONTRACTS if "containers" in each}


@pytest.mark.parametrize("package", LAYERED)
def test_the_layers_of_a_package_are_drawn_from_the_top_as_they_are_enforced(package):
    # Two columns: the modules, then what they are for. A line that begins with a bar continues the one above.
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

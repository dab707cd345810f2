"""The pictures of docs/architecture.md against what import-linter enforces, and against the files that there are."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def picture(package: str) -> str:
    """The block of the page that begins with the package's name."""
    [found] = re.findall(rf"^```\n{package}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(found)


def test_the_layers_of_the_daemon_are_drawn_from_the_top_as_they_are_enforced():
    [enforced] = [each["layers"] for each in CONTRACTS if each.get("containers") == ["daemon"]]
    # Two columns: the modules, then what they are for; a line without a module goes on with the one above.
    modules = [re.split(r"\s{3,}", line.strip())[0].strip("| ") for line in picture("daemon").splitlines()]
    drawn = [name for line in modules for name in re.findall(r"[a-z]+", line)]
    known = [name for layer in enforced for name in layer.split(" | ")]

    assert [name for name in drawn if name in known] == known


def test_the_pure_modules_of_publishing_are_those_that_are_held_to_it():
    [held] = [each["source_modules"] for each in CONTRACTS if each["name"].startswith("pure modules")]
    drawn = re.search(r"publishing +([a-z,\s]+) \(pure\)", picture("daemon"))
    assert drawn is not None

    for name in re.split(r",\s+", drawn[1]):
        assert f"daemon.publishing.{name}" in held


@pytest.mark.parametrize("path", re.findall(r"`((?:events|renderers|daemon|tests)/[\w/.]*)`", PAGE))
def test_every_file_that_the_page_names_is_there(path):
    assert (ROOT / path).exists()

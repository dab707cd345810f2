"""The lock files against pyproject.toml: exactly what it allows is installed."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCKS = sorted((ROOT / "requirements").rglob("*.lock"))


def pins(name: str) -> dict[str, Version]:
    text = (ROOT / "requirements" / name).read_text()
    found = re.findall(r"(?m)^([A-Za-z0-9._-]+)(?:\[[a-z,]+\])?==([^ ;]+)", text)
    return {canonicalize_name(project): Version(version) for project, version in found}


def ranges(*tables: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    known = {
        "runtime": project["project"]["dependencies"],
        "dev": project["dependency-groups"]["dev"],
        "build": project["build-system"]["requires"],
    }
    return [Requirement(line) for table in tables for line in known[table]]


@pytest.mark.parametrize(
    ("lock", "tables"),
    [
        ("runtime.lock", ["runtime"]),
        ("dev.lock", ["runtime", "dev", "build"]),
        ("build.lock", ["build"]),
    ],
)
def test_a_lock_has_every_requirement_of_the_project_within_its_range(
    lock: str, tables: list[str]
) -> None:
    pinned = pins(lock)

    outside = {
        str(wanted): str(pinned.get(canonicalize_name(wanted.name)))
        for wanted in ranges(*tables)
        if (version := pinned.get(canonicalize_name(wanted.name))) is None
        or version not in wanted.specifier
    }

    assert outside == {}, "run make lock"


@pytest.mark.parametrize("smaller", ["runtime.lock", "build.lock"])
def test_the_tested_versions_are_the_shipped_ones(smaller: str) -> None:
    tested = pins("dev.lock")

    assert {name: tested.get(name) for name in pins(smaller)} == pins(smaller)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_a_lock_has_hashes_and_no_address(lock: Path) -> None:
    blocks = re.split(r"(?m)^(?=[A-Za-z0-9])", re.sub(r"(?m)^ *#.*\n", "", lock.read_text()))[1:]

    assert blocks
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []
    assert not re.search(r"://|--index|--extra|--find-links", lock.read_text())

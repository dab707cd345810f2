"""docs/adr/README.md against the status line of each decision."""

import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[3] / "docs/adr"
RECORDS = {int(path.name[:4]): path for path in sorted(FOLDER.glob("0*.md"))}
INDEX = (FOLDER / "README.md").read_text()
LINKS = r"(?:\[(?:ADR )?\d+\]\([^)]*\)(?:,\s+|\s+and\s+)?)+"


def status(number: int) -> str:
    [text] = re.findall(
        r"^Status: (.*?)\n\n", RECORDS[number].read_text(), re.MULTILINE | re.DOTALL
    )
    return str(text)


def linked(number: int, verb: str) -> list[int]:
    """The decisions that the status names after this verb."""
    links = re.findall(rf"\b{verb}\s+({LINKS})", status(number), re.IGNORECASE)
    return [int(found) for group in links for found in re.findall(r"\[(?:ADR )?(\d+)\]", group)]


def test_the_index_has_every_decision_with_its_file() -> None:
    rows = re.findall(r"^\| \[(\d+)\]\(([^)]+)\) \|", INDEX, re.MULTILINE)

    assert [(int(number), name) for number, name in rows] == [
        (number, path.name) for number, path in RECORDS.items()
    ]


@pytest.mark.parametrize("number", RECORDS)
def test_the_index_has_the_status_of_the_decision(number: int) -> None:
    [row] = re.findall(rf"^\| \[{number}\].* \| ([^|]*) \|$", INDEX, re.MULTILINE)
    state = re.split(r"[;.]", status(number))[0]
    amended = " and ".join(map(str, linked(number, "amended by")))

    assert row == (f"{state}, amended by {amended}" if amended else state)


@pytest.mark.parametrize("number", RECORDS)
def test_an_amended_decision_names_the_one_that_amends_it(number: int) -> None:
    for amended in linked(number, "amends"):
        assert number in linked(amended, "amended by")

"""docs/glossary.md: other documents use its terms, and each definition uses only terms above it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
ROWS = re.findall(
    r"^\| \*\*(.+)\*\* \| (.+) \|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE
)
TERMS = [term for term, _ in ROWS]
# cli.md and settings.md are generated from the code.
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(
        page
        for page in (ROOT / "docs").glob("*.md")
        if page.name not in ("glossary.md", "cli.md", "settings.md")
    ),
]


def prose(page: Path) -> str:
    """The text of a page without code blocks and generated tables, each run of white space as one
    space.
    """
    text = re.sub(
        r"^```.*?^```|^<!-- (?:figures|publication|bugs).*?^<!--",
        "",
        page.read_text(),
        flags=re.MULTILINE | re.DOTALL,
    )
    return " ".join(text.split())


def uses(term: str, text: str) -> bool:
    return re.search(rf"\b{re.escape(term)}s?\b", text, re.IGNORECASE) is not None


def test_every_row_of_the_glossary_defines_a_term_once():
    rows = [
        line
        for line in (ROOT / "docs/glossary.md").read_text().splitlines()
        if line.startswith("| **")
    ]

    assert len(rows) == len(set(TERMS)) == len(TERMS)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_of_the_glossary_is_used_by_another_document(term):
    assert [page.name for page in PAGES if uses(term, prose(page))]


@pytest.mark.parametrize(("term", "meaning"), ROWS)
def test_a_definition_uses_only_terms_that_are_defined_above_it(term, meaning):
    below = TERMS[TERMS.index(term) + 1 :]

    assert [later for later in below if uses(later, meaning)] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "docs/architecture.md"])
def test_the_pages_that_readers_start_with_link_the_glossary(name):
    assert re.search(r"\]\((?:docs/)?glossary\.md\)", (ROOT / name).read_text())

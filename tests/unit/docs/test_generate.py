"""Pages that are generated from the code are up to date."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", ["settings.md", "cli.md"])
def test_a_generated_page_is_up_to_date(page, tmp_path):
    # In its own process: the help text has the name of the program that shows it.
    subprocess.run(
        [sys.executable, str(ROOT / "docs/generate.py"), str(tmp_path)], check=True, timeout=60
    )

    assert (ROOT / "docs" / page).read_text() == (tmp_path / page).read_text(), (
        "run: python docs/generate.py"
    )


def test_every_setting_has_a_description():
    assert [name for name, _, _, words in generator().rows() if not words] == []


def test_links_between_pages_have_targets():
    pages = [
        ROOT / "README.md",
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/adr/*.md"),
        ROOT / "CONTRIBUTING.md",
    ]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(
            r"\]\(([^)#:]+)(?:#[^)]*)?\)", re.sub(r"`[^`]*`", "", page.read_text())
        )
    ]

    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []

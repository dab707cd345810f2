"""Pages that are made from the code say what the code says."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def generator():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_settings_page_is_what_the_settings_say():
    assert (ROOT / "docs/settings.md").read_text() == generator().settings_page(), "run: python docs/generate.py"


def test_command_line_page_is_what_help_says():
    assert (ROOT / "docs/cli.md").read_text() == generator().cli_page(), "run: python docs/generate.py"


def test_every_setting_says_what_it_means():
    assert [name for name, _, _, words in generator().rows() if not words] == []


def test_links_between_pages_lead_somewhere():
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("docs/adr/*.md"), ROOT / "CONTRIBUTING.md"]
    links = [
        (page, link)
        for page in pages
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", re.sub(r"`[^`]*`", "", page.read_text()))
    ]

    assert [(page.name, link) for page, link in links if not (page.parent / link).exists()] == []

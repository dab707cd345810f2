"""The transcripts in docs/customising.md: each command runs and prints what the page shows."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.settings import load
from renderers.template_set import Templates

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/customising.md"
# A command, its continuation lines, and its output.
STEP = re.compile(r"^(\$ .*\n(?:>.*\n)*)((?:(?!\$ |```).*\n)*)", re.MULTILINE)


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def said(shown: str, folder: Path) -> str:
    """The output of a command on both streams."""
    command = re.sub(r"^(?:\$|>) ?", "", shown, flags=re.MULTILINE)
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith("REBUNDLE_")
    }
    environ |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LC_ALL": "C"}
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "timeout": 60}
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environ, check=False, **both
    ).stdout


def transcript(text: str, folder: Path) -> str:
    """The text with the real output of its commands, run one after the other in `folder`."""
    return STEP.sub(lambda step: step[1] + said(step[1], folder), text)


def test_the_transcripts_of_the_page_equal_the_real_output(tmp_path):
    shutil.copy(ROOT / "docs/demo/state.json", tmp_path)

    assert blocks("console")
    for block in blocks("console"):
        assert transcript(block, tmp_path) == block


@pytest.mark.parametrize("block", blocks("toml"))
def test_the_settings_of_the_page_are_valid(block, tmp_path):
    (tmp_path / "rebundle.toml").write_text(block)

    assert load({}, {}, tmp_path / "rebundle.toml").origins


def test_every_template_is_on_the_page():
    table = PAGE.read_text().partition("| template | makes |")[2].partition("\n\n")[0]
    named = [
        name
        for row in table.splitlines()[2:]
        for name in re.findall(r"`([^`]+)`", row.split("|")[1])
    ]

    assert sorted(named) == sorted(Templates.built_in().names)

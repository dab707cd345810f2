"""The bundle's README: the sections of the golden one, and only lines that the compose file has."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from renderers import compose, readme
from renderers.bundle import Renderer
from renderers.composition import Composition
from tests.builders import GOLDEN_DEFAULTS, STAMP, golden_composition, golden_document, make_model

GOLDEN = Path(__file__).parents[2] / "data" / "golden" / "README.md"


def files_of(composition: Composition) -> dict[str, str]:
    return {
        file.path: file.body.decode()
        for file in Renderer().render(composition, GOLDEN_DEFAULTS, STAMP)
    }


def diff_blocks(text: str) -> list[list[str]]:
    return [block.splitlines() for block in re.findall(r"``` diff\n(.*?)```", text, re.DOTALL)]


def green(text: str) -> list[list[str]]:
    return [[line for line in block if line.startswith(">")] for block in diff_blocks(text)]


def test_headings_and_anchors_are_those_of_the_golden_readme():
    def headings(text: str) -> list[str]:
        return [line for line in text.splitlines() if re.match(r"#+ |\s*[0-9]+\. \[", line)]

    assert headings(files_of(golden_composition())["README.md"]) == headings(GOLDEN.read_text())


def test_every_link_into_the_page_has_its_anchor():
    text = files_of(golden_composition())["README.md"]

    assert set(re.findall(r"\]\(#([a-z_]+)\)", text)) <= set(
        re.findall(r"<div id='([a-z_]+)'>", text)
    )


def test_the_lines_to_uncomment_are_those_of_the_golden_readme():
    assert green(files_of(golden_composition())["README.md"]) == green(GOLDEN.read_text())


@pytest.mark.parametrize(("model_id", "image"), [("102", "tensorflow-serving:2.19.1-gpu")])
def test_every_line_shown_of_a_service_is_in_the_compose_file_in_that_order(model_id, image):
    files = files_of(golden_composition())
    document = iter(files[compose.PATH].splitlines())
    for block in diff_blocks(files["README.md"])[:1]:
        for line in block:
            if line.strip() != "...":
                filled = line.replace(">", " ", 1) if line.startswith(">") else line
                filled = filled.replace("<model_id>", model_id).replace(
                    "<network>", "visual-anomaly"
                )
                filled = filled.replace("<image>", f"registry.example.com/visual-anomaly/{image}")
                assert filled in document


def test_each_image_source_is_listed_once():
    document = golden_document()
    document["proxy"]["image"] = "nginx:1.28"
    text = files_of(Composition.model_validate(document))["README.md"]

    assert (
        "(permission to pull from docker.io/library, registry.example.com/visual-anomaly)" in text
    )


def test_names_are_text_and_not_markdown():
    document = golden_document()
    document["bundle"] = {"name": "a_b", "target": "c_d"}
    text = files_of(Composition.model_validate(document))["README.md"]

    assert text.startswith("# a\\_b bundle c\\_d target")
    assert "      - a_b-nginx:8500\n" in text


def test_an_excerpt_shows_three_dots_once_for_keys_left_out():
    block = "  a:\n    one: 1\n    two:\n      - x\n    three: 3\n    four: 4\n      #- here\n\n"

    assert (
        readme.excerpt(block, ("one", "four"), ("here",))
        == "  a:\n    one: 1\n    ...\n    four: 4\n>     #- here\n"
    )


def test_an_excerpt_highlights_options_and_no_remarks():
    block = "  a:\n    one:\n      # here, too\n      #- here\n      - here\n\n"

    assert readme.excerpt(block, ("one",), ("here",)) == (
        "  a:\n    one:\n      # here, too\n>     #- here\n      - here\n"
    )


def test_the_page_shows_the_credentials_file_and_the_proxys_volumes_and_command():
    files = files_of(golden_composition())
    proxy = next(block for block in diff_blocks(files["README.md"]) if block[0] == "  model_proxy:")

    assert files["example/creds/bundle/gcs.json"] in files["README.md"]
    assert [line for line in proxy if line.startswith("    ") and line[4] not in " -"] == [
        "    ...",
        "    volumes:",
        "    command:",
    ]


def test_the_page_has_no_unfilled_placeholder():
    text = files_of(golden_composition())["README.md"]

    assert "{{" not in text
    assert "content_digest" not in text


def written(root: Path, composition: Composition) -> None:
    for path, text in files_of(composition).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def test_the_update_steps_bring_the_files_of_a_new_model_to_a_deployment(tmp_path):
    before, after = golden_composition(), golden_composition().with_model(make_model("new-one"))
    written(tmp_path / "old", before)
    shutil.copytree(tmp_path / "old" / "example", tmp_path / "deployed")
    mine = tmp_path / "deployed/conf/bundle/.env"
    mine.write_text("MINE=1\n")
    written(tmp_path, after)

    [command] = re.findall(r"with `(cp [^`]+)`", (tmp_path / "README.md").read_text())
    command = command.replace("<deployment_dir>", "deployed")
    # Not checked: some releases of cp fail for files that they skip.
    subprocess.run(shlex.split(command), cwd=tmp_path, check=False, capture_output=True)

    joined = "conf/bundle/batching_new-one.txt"
    assert (tmp_path / "deployed" / joined).read_text() == files_of(after)[f"example/{joined}"]
    assert mine.read_text() == "MINE=1\n"

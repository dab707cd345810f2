"""docs/platforms.md: its table equals that of the code, and each file that its example names has
the example in it.
"""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from renderers.platforms import PLATFORMS
from tests.builders import make_model

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/platforms.md").read_text()


def test_the_table_names_every_platform_with_its_grpc_port():
    said = re.findall(r"^\| `([a-z]+)` \| [^|]+ \| ([0-9]+), [0-9]+ \|", PAGE, re.MULTILINE)

    assert said == [(name, str(platform.grpc_port)) for name, platform in PLATFORMS.items()]


@pytest.mark.parametrize(
    "path", re.findall(r"^\| `([^`]+\.(?:py|yaml|md))` \|", PAGE, re.MULTILINE)
)
def test_the_example_directory_has_every_named_file(path):
    # A template names no platform, but has its port.
    assert re.search("openvino|--port=9000", (ROOT / path).read_text(), re.IGNORECASE)


def test_the_refusal_equals_the_one_on_the_page():
    with pytest.raises(ValidationError) as raised:
        make_model(platform="openvino", serving={"gpu": {"count": 1}})

    (problem,) = (error for error in raised.value.errors() if error["loc"] == ("serving", "gpu"))
    assert f"$.data.models[0].serving.gpu: {problem['msg'].removeprefix('Value error, ')} (" in PAGE

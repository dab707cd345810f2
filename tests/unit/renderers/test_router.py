"""The nginx map of models and the router's tunables."""

from pathlib import Path

import pytest

from renderers import router
from renderers.template_set import Templates
from tests.builders import golden_composition, make_model

BUILT_IN = Templates.built_in()

GOLDEN = Path(__file__).parents[2] / "data" / "golden"


def test_the_golden_models_give_the_golden_map():
    lines = "".join(router.map_line(model, BUILT_IN) for model in golden_composition().models)

    assert lines == (GOLDEN / "models.map").read_text()


@pytest.mark.parametrize(
    ("platform", "port"), [("tensorflow", 9000), ("triton", 8001), ("openvino", 9000)]
)
def test_requests_go_to_the_grpc_port_of_the_platform(platform, port):
    assert router.map_line(make_model("a", platform=platform), BUILT_IN) == f"a sas:{port};\n"


def test_an_id_that_is_a_keyword_of_nginx_keeps_its_service():
    assert router.map_line(make_model("default"), BUILT_IN) == "\\default sdefaults:9000;\n"


def test_the_tunables_are_the_golden_ones_except_wording():
    def directives(text: str) -> list[str]:
        lines = (line.strip() for line in text.splitlines())
        return [
            line for line in lines if line and not line.startswith(("#", "add_header grpc-message"))
        ]

    assert directives(router.tunables(BUILT_IN)) == directives((GOLDEN / "nginx.conf").read_text())

"""The table of serving platforms."""

from typing import get_args

from renderers import platforms
from renderers.template_set import Templates


def test_every_platform_is_known_and_has_a_template():
    assert set(platforms.PLATFORMS) == set(get_args(platforms.Name))
    for name in platforms.PLATFORMS:
        assert Templates.built_in().text(f"{name}.yaml").startswith("services:\n")

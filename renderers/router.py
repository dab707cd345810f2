"""Renders the router's files: the map from model ids to services, its program, and nginx.conf.

The map is in base/ and is generated from the composition. model_download copies it into the volume
of the router when the files of the models are there. The program reloads nginx then. nginx.conf is
in example/ and belongs to operators. It includes the map, so a new model needs no change in it.
"""

from typing import Final

from renderers.composition import Model
from renderers.platforms import PLATFORMS
from renderers.template_set import Templates

MAP_PATH: Final = "base/bundle/nginx/models.map"
SCRIPT_PATH: Final = "base/bundle/nginx/router.sh"
CONF_PATH: Final = "example/conf/bundle/nginx.conf"


def map_line(model: Model, templates: Templates) -> str:
    """The line of the map for one model: its id, and its service and port."""
    return templates.render(
        "models.map", id=model.id, port=PLATFORMS[model.serving.platform].grpc_port
    )


def script(templates: Templates) -> str:
    """router.sh, which starts nginx and reloads it; it runs in dash and busybox."""
    return templates.text("router.sh")


def tunables(templates: Templates) -> str:
    """nginx.conf."""
    return templates.text("nginx.conf")

"""The router's files: the map from model ids to services, and nginx's tunables.

The map is in base/ and follows the composition. nginx.conf is an operator's file in example/: it includes the map,
so a new model needs no change of it.
"""

from typing import Final

from renderers.model import Model
from renderers.platforms import PLATFORMS
from renderers.template_set import Templates

MAP_PATH: Final = "base/bundle/nginx/models.map"
CONF_PATH: Final = "example/conf/bundle/nginx.conf"


def map_line(model: Model, templates: Templates) -> str:
    """Where requests for the model go."""
    return templates.render("models.map", id=model.id, port=PLATFORMS[model.serving.platform].grpc_port)


def tunables(templates: Templates) -> str:
    """nginx.conf."""
    return templates.text("nginx.conf")

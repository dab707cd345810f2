"""The router's files: the map from model ids to services, and nginx's tunables.

The map is in base/ and follows the composition. nginx.conf is an operator's file in example/: it includes the map,
so a new model needs no change of it.
"""

from typing import Final

from renderers import templates
from renderers.model import Model

MAP_PATH: Final = "base/bundle/nginx/models.map"
CONF_PATH: Final = "example/conf/bundle/nginx.conf"
_GRPC_PORTS: Final = {"tensorflow": 8500, "triton": 8001}


def map_line(model: Model) -> str:
    """Where requests for the model go."""
    return templates.render("models.map", id=model.id, port=_GRPC_PORTS[model.serving.platform])


def tunables() -> str:
    """nginx.conf."""
    return templates.text("nginx.conf")

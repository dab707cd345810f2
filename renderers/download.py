"""model_download's files: the list of what to bring, and the script that brings it.

TensorFlow Serving and OpenVINO Model Server want `<id>/<number>/` with the model's files, so a line names the number
(`serving_version`). A Triton artifact is the model's folder of a repository, with config.pbtxt and its own version
folders: there the line names the id alone, and the number is of no use.
"""

from typing import Final

from renderers.model import Model
from renderers.platforms import PLATFORMS
from renderers.template_set import Templates

LIST_PATH: Final = "base/model-serving/model-download/models.txt"
SCRIPT_PATH: Final = "base/model-serving/model-download/download.sh"
MODELS_PATH: Final = "base/model-serving/model-download/models/.gitkeep"
_REMOTES: Final = {"gs": "gcs", "s3": "s3"}


def list_line(model: Model, templates: Templates) -> str:
    """What to bring, and where to."""
    scheme, _, path = model.artifact.uri.partition("://")
    is_version = PLATFORMS[model.serving.platform].loads_numbers
    folder = f"{model.id}/{model.serving_version}" if is_version else model.id
    return templates.render("models.txt", folder=folder, source=f"{_REMOTES[scheme]}:{path}")


def script(templates: Templates) -> str:
    """download.sh, for dash and busybox alike."""
    return templates.text("download.sh")

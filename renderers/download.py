"""Renders the files of model_download: the list of models to download, and the script.

TensorFlow Serving and OpenVINO Model Server load `<id>/<number>/`, so a line has the number
(`serving_version`). A Triton artifact is a model's folder of a repository, with config.pbtxt and
its version folders, or a whole repository. So its line has only the id.
"""

from typing import Final

from renderers.composition import Composition, Model
from renderers.platforms import PLATFORMS
from renderers.template_set import Templates

LIST_PATH: Final = "base/model-serving/model-download/models.txt"
SCRIPT_PATH: Final = "base/model-serving/model-download/download.sh"
MODELS_PATH: Final = "base/model-serving/model-download/models/.gitkeep"
_REMOTES: Final = {"gs": "gcs:", "s3": "s3:", "az": "azureblob:", "file": "local:/files"}
"""rclone's backend for each scheme; the rest of the URI is the path in it."""


def list_line(model: Model, templates: Templates) -> str:
    """The line of the list for one model; download.sh explains the fields."""
    repository = model.serving.repository
    is_version = PLATFORMS[model.serving.platform].loads_numbers
    folder = f"{model.id}/{model.serving_version}" if is_version else model.id
    return templates.render(
        "models.txt",
        folder=folder,
        engine="triton-repository" if repository else model.serving.platform,
        name=",".join(repository.models) if repository else model.engine_name,
        update=model.serving.update_or_default,
        limit=model.serving.start_seconds,
        identity=model.identity,
        store=model.artifact.store or "-",
        source=source_of(model.artifact.uri),
    )


def reads_files(composition: Composition) -> bool:
    """Whether a model is in a folder of the host."""
    return any(model.artifact.uri.startswith("file:") for model in composition.models)


def source_of(uri: str) -> str:
    """An artifact as rclone's connection string without the leading colon; a URL is unchanged.

    Up to the first colon rclone reads a backend and its options, and takes the rest literally,
    whatever colons, commas and blanks it has.
    """
    scheme, _, path = uri.partition("://")
    return uri if scheme == "https" else f"{_REMOTES[scheme]}{path}"


def script(templates: Templates) -> str:
    """download.sh, which runs in dash and busybox."""
    return templates.text("download.sh")

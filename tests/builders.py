"""Builds compositions for tests: the golden one, and mixed ones of any size.

`tests.strategies` makes random ones.
"""

import json
from pathlib import Path
from typing import Any

from renderers.composition import Composition, Model, RenderDefaults, Stamp

_DATA = Path(__file__).parent / "data"
_REGISTRY = "registry.example.com/visual-anomaly"

GOLDEN_DEFAULTS = RenderDefaults(
    download_image=f"{_REGISTRY}/rclone:1.71.0",
    router_image=f"{_REGISTRY}/nginx:1.28.0-alpine",
)
STAMP = Stamp(state="state-1", revision="1")


def golden_document() -> dict[str, Any]:
    """The golden composition as in the `data` of an event (a fresh copy)."""
    return json.loads((_DATA / "golden_composition.json").read_text())


def golden_composition() -> Composition:
    """Models 101 (TensorFlow, cpu, GCS), 102 (TensorFlow, gpu, GCS), 103 (Triton, gpu, S3)."""
    return Composition.model_validate(golden_document())


def model_document(
    model_id: str = "101", *, version: str = "1", platform: str = "tensorflow", **fields: Any
) -> dict[str, Any]:
    """A model as in an event.

    `fields` are those of the model; `serving` is merged into the default one.
    """
    scheme = "s3" if platform == "triton" else "gs"
    image = "tritonserver:25.08-py3" if platform == "triton" else "tensorflow-serving:2.19.1"
    serving = {"platform": platform, "image": f"{_REGISTRY}/{image}"} | fields.pop("serving", {})
    artifact = {"uri": f"{scheme}://example-bucket/models/{model_id}/{version}"}
    return {"id": model_id, "version": version, "artifact": artifact, "serving": serving} | fields


def make_model(
    model_id: str = "101", *, version: str = "1", platform: str = "tensorflow", **fields: Any
) -> Model:
    """A complete model; see `model_document`."""
    return Model.model_validate(
        model_document(model_id, version=version, platform=platform, **fields)
    )


_VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("tensorflow", {}),
    ("tensorflow", {"gpu": {"count": "all"}}),
    ("triton", {"gpu": {"count": "all"}}),
    (
        "tensorflow",
        {
            "resources": {
                "limits": {"cpus": 2, "memory": "4g"},
                "reservations": {"cpus": 0.5, "memory": "1g"},
            }
        },
    ),
    (
        "tensorflow",
        {"batching": {"parameters": {"max_batch_size": 64, "batch_timeout_micros": 500}}},
    ),
    ("triton", {"gpu": {"device_ids": ["0", "1"]}}),
    ("tensorflow", {"gpu": {"count": 2}, "batching": {"enabled": False}}),
    ("triton", {}),
)


def composition_document(
    models: int,
    *,
    bundle: str = "visual-anomaly",
    target: str = "core-versions",
    first_id: int = 101,
) -> dict[str, Any]:
    """As many models, mixed: both platforms, cpu and gpu, both clouds, resources, batching."""
    members = []
    for index in range(models):
        platform, serving = _VARIANTS[index % len(_VARIANTS)]
        members.append(
            model_document(
                str(first_id + index),
                version=str(1 + index % 5),
                platform=platform,
                serving=dict(serving),
            )
        )
    signature = {
        "models": {
            member["id"]: {"inputs": {"image": {"dtype": "uint8", "shape": [-1, -1, 3]}}}
            for member in members
        }
    }
    return {
        "bundle": {"name": bundle, "target": target},
        "models": members,
        "proxy": {"image": f"{_REGISTRY}/model-proxy:1.0.0", "signature": {"document": signature}},
    }


def make_composition(
    models: int = 3,
    *,
    bundle: str = "visual-anomaly",
    target: str = "core-versions",
    first_id: int = 101,
) -> Composition:
    """See `composition_document`."""
    return Composition.model_validate(
        composition_document(models, bundle=bundle, target=target, first_id=first_id)
    )

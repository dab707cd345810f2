"""Every accepted hostile text, many to a bundle: the real tools read each as the text that it is."""

import hashlib
import json
import subprocess
from functools import cache
from pathlib import Path

from renderers.composition import Composition, Model, RenderDefaults
from tests.builders import GOLDEN_DEFAULTS, make_composition
from tests.integration.test_rendered_router import lay_out
from tests.services.compose import Compose
from tests.services.nginx import Nginx
from tests.services.processes import free_port
from tests.support import hostile_payloads
from tests.support.hostile_payloads import PLACES, Refused, payloads
from tests.support.target_host import DeployedBundle

_LIMIT_SECONDS = 30
# As download.sh reads it.
_READ = """\
while read -r folder engine name update limit identity store source || [ -n "$folder" ]; do
    printf "%s|" "$folder" "$engine" "$name" "$update" "$limit" "$identity" "$store" "$source"
    echo
done
"""


@cache
def changed_models(place: str) -> list[Model]:
    """The models with the payloads that are accepted at a place."""
    _, put = PLACES[place]
    models = []
    for payload in payloads():
        try:
            composition, _ = put(payload)
        except Refused:
            continue
        models += [
            model
            for model in composition.models
            if model not in hostile_payloads._COMPOSITION.models
        ]
    return models


@cache
def crowd() -> Composition:
    """A bundle that has every accepted id, image, tag, device, bucket and key."""
    ids = {model.id.replace("-", "_"): model.id for model in changed_models("model id")}
    names = iter(ids.values())
    models = [
        model.model_copy(update={"id": next(names, f"p{place.replace(' ', '')}{number}")})
        for place in (
            *("bucket", "key", "container", "path on the host", "server", "archive"),
            *("serving image", "image tag", "device"),
        )
        for number, model in enumerate(changed_models(place))
    ]
    assert next(names, None) is None, "an id was left out"
    basis = make_composition(1)
    return Composition(bundle=basis.bundle, models=tuple(models), proxy=basis.proxy)


def labelled() -> RenderDefaults:
    """Defaults with every accepted value of a label."""
    _, put = PLACES["label value"]
    values = []
    for payload in payloads():
        try:
            put(payload)
        except Refused:
            continue
        values.append(payload)
    assert len(values) > 500
    labels = {f"x{number}": value for number, value in enumerate(values)}
    return GOLDEN_DEFAULTS.model_copy(update={"labels": labels})


def test_compose_reads_every_id_image_and_device_unchanged(
    compose: Compose, tmp_path: Path
) -> None:
    bundle = DeployedBundle.install(crowd(), tmp_path)

    services = compose.config(bundle.directory)["services"]

    assert len(services) == len(crowd().models) + 3
    for model in crowd().models:
        service = services[f"s{model.id}s"]
        assert service["image"] == model.serving.image
        assert any(argument.endswith(f"={model.id}") for argument in service["command"])
        reservations = service["deploy"]["resources"].get("reservations", {})
        devices = [
            device for group in reservations.get("devices", []) for device in group["device_ids"]
        ]
        wanted = model.serving.gpu.device_ids if model.serving.gpu else None
        assert devices == list(wanted or ())


def test_compose_reads_every_label_unchanged(compose: Compose, tmp_path: Path) -> None:
    defaults = labelled()
    bundle = DeployedBundle.install(make_composition(1), tmp_path, defaults)

    services = compose.config(bundle.directory)["services"]

    for service in services.values():
        shown = {key: value for key, value in service["labels"].items() if key.startswith("x")}
        # `config` prints output for Compose to read again, so a dollar is doubled.
        assert shown == {key: value.replace("$", "$$") for key, value in defaults.labels.items()}


def test_nginx_reads_every_id_as_a_key_of_its_map(nginx: Nginx, tmp_path: Path) -> None:
    bundle = DeployedBundle.install(crowd(), tmp_path)

    assert nginx.check(lay_out(bundle, free_port(), free_port(), 53)) == ""


def test_a_shell_reads_every_line_of_the_list_as_eight_words(
    shell: tuple[str, ...], tmp_path: Path
) -> None:
    bundle = DeployedBundle.install(crowd(), tmp_path)
    listing = bundle.folder / "base/model-serving/model-download/models.txt"

    done = subprocess.run(
        [*shell, "-c", _READ],
        input=listing.read_text(),
        capture_output=True,
        text=True,
        timeout=_LIMIT_SECONDS,
        check=True,
    )

    remotes = {"gs": "gcs:", "s3": "s3:", "az": "azureblob:", "file": "local:/files"}
    expected = set()
    for model in crowd().models:
        scheme, _, path = model.artifact.uri.partition("://")
        folder = (
            model.id
            if model.serving.platform == "triton"
            else f"{model.id}/{model.serving_version}"
        )
        source = model.artifact.uri if scheme == "https" else f"{remotes[scheme]}{path}"
        origin = json.dumps([model.version, model.artifact.uri], separators=(",", ":"))
        fields = (
            *(folder, model.serving.platform, model.id, model.serving.update or "in_place", "120"),
            model.artifact.digest or hashlib.sha256(origin.encode()).hexdigest()[:16],
            *(model.artifact.store or "-", source),
        )
        expected.add("".join(f"{field}|" for field in fields))
    assert set(done.stdout.splitlines()) == expected
    assert done.stderr == ""

"""The two ways to update a host, and what a load has seen of an update.

REBUNDLE_UPDATES=FILE appends a line of JSON for each recorded change: how it was made, how many
calls there were, how many of them failed, and the longest outage of a model.
"""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from renderers.composition import Composition, Model
from tests.services.compose import Output
from tests.support.engine_host import Host, Load, Models

FACTORS = {"101": 3.0, "102": 7.0, "103": 2.0}
"""The factors of the bundle that the tests start from."""
ROUTER = "visual-anomaly-nginx"
_LIMIT_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Way:
    """One way to bring a host to the state of base/."""

    name: str
    command: Callable[[Host], Output]

    def update(self, host: Host, composition: Composition) -> Output:
        """Replaces base/, and updates the host. Asserts that it succeeds."""
        output = self.try_update(host, composition)
        assert output.code == 0, f"{output.stdout}\n{output.text}\n{host.report()}"
        return output

    def try_update(self, host: Host, composition: Composition) -> Output:
        """The same, whether it succeeds or not."""
        host.replace_base(composition)
        return self.command(host)


def update_sh(host: Host, *options: str) -> Output:
    """Calls update.sh as the bundle's README says."""
    done = subprocess.run(
        ["sh", "update.sh", *options],
        cwd=host.directory,
        env=host.script_environment,
        capture_output=True,
        text=True,
        timeout=_LIMIT_SECONDS,
        check=False,
    )
    return Output(done.returncode, done.stdout + done.stderr, done.stdout)


UP = Way("up -d", lambda host: host.run("up", "--detach", "--remove-orphans"))
UPDATE_SH = Way("update.sh", update_sh)


def record(change: str, way: Way, load: Load) -> None:
    """Notes what the load has seen."""
    results = load.results.values()
    note(
        change=change,
        way=way.name,
        calls=sum(result.calls for result in results),
        failed={name: load.failed(name) for name in load.results},
        outage=max(result.longest_outage_seconds for result in results),
    )


def note(**row: object) -> None:
    """Appends a line to the file of REBUNDLE_UPDATES, if it is set."""
    if path := os.environ.get("REBUNDLE_UPDATES"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def failures(load: Load) -> dict[str, dict[str, int]]:
    """The failed calls of each model that has any."""
    return {name: result.failures for name, result in load.results.items() if result.failures}


def with_models(basis: Composition, models: Models, *changed: Model) -> Composition:
    """The basis with these models instead of those with the same ids."""
    ids = {model.id for model in changed}
    return models.bundle(*(model for model in basis.models if model.id not in ids), *changed)


def models_on_disk(host: Host) -> set[str]:
    """The versions that engines can see, as MODEL/NAME. A model that left keeps its files."""
    ids = {model.id for model in host.composition.models}
    folder = host.folder / "base/model-serving/model-download/models"
    return {
        f"{model.name}/{version.name}"
        for model in folder.iterdir()
        if model.name in ids
        for version in model.iterdir()
        if not version.name.startswith(".")
    }

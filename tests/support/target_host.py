"""A bundle on a target host: `base/` as rendered, and a deployment directory copied from
`example/`.

`replace_base` acts like an update: it replaces the generated part and keeps the deployment
directory.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from renderers.bundle import Renderer
from renderers.composition import Composition, RenderDefaults
from renderers.template_set import Templates
from tests.builders import GOLDEN_DEFAULTS, STAMP


@dataclass(frozen=True, slots=True)
class DeployedBundle:
    """The folder of one bundle on a target host."""

    folder: Path

    @classmethod
    def install(
        cls,
        composition: Composition,
        folder: Path,
        defaults: RenderDefaults = GOLDEN_DEFAULTS,
        templates: Templates | None = None,
    ) -> "DeployedBundle":
        """As the bundle's README says: copy `example/`, set its full path in `.env`."""
        bundle = cls(folder)
        bundle.replace_base(composition, defaults, templates)
        shutil.copytree(folder / "example", bundle.directory)
        bundle.set(".env", "REL_DIR", str(bundle.directory))
        return bundle

    @property
    def directory(self) -> Path:
        """The deployment directory: where `docker compose` is called."""
        return self.folder / "site"

    @property
    def compose_file(self) -> Path:
        """The generated project file."""
        return self.folder / "base/bundle/docker-compose.yaml"

    def replace_base(
        self,
        composition: Composition,
        defaults: RenderDefaults = GOLDEN_DEFAULTS,
        templates: Templates | None = None,
    ) -> None:
        """Replace base/ by the rendering of another composition. The deployment directory stays."""
        for generated in ("base", "example"):
            shutil.rmtree(self.folder / generated, ignore_errors=True)
        for file in Renderer().render(composition, defaults, STAMP, templates):
            path = self.folder / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.body)
            path.chmod(0o755 if file.executable else 0o644)

    def set(self, file: str, variable: str, value: str) -> None:
        """Set a variable in an env file of the deployment directory, as an operator does."""
        path = self.directory / file
        before = path.read_text().splitlines()
        after = [
            f"{variable}={value}" if line.startswith(f"{variable}=") else line for line in before
        ]
        assert after != before, f"{file} has no line {variable}="
        path.write_text("\n".join(after) + "\n")

"""Other tools for the same job. Each must produce the same bytes, or its rounds do not count; yq
the same document, because it drops blank lines.

Each is the tool itself: a Go program from its module at the pinned version, or a wheel in a
separate environment. Raises Unavailable with the reason if a tool cannot be installed.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment

from renderers import yaml_templates
from renderers.composition import Composition
from tests.benchmarks import job
from tests.benchmarks.measure import Timing, process
from tests.services.environments import environment
from tests.services.goprograms import go_module

Values = dict[str, list[dict[str, str]]]

YQ = "github.com/mikefarah/yq/v4@v4.53.6"
CONSUL_TEMPLATE = "github.com/hashicorp/consul-template@v0.41.1"


def service_of(composition: Composition) -> str:
    """The service whose image changes."""
    return f"s{composition.models[len(composition.models) // 2].id}s"


def whole_document(text: str, service: str, image: str) -> str:
    """A script with ruamel.yaml: load the whole file, set one image, write the whole file."""
    tree = yaml_templates.load(text)
    tree["services"][service]["image"] = image
    return yaml_templates.dump(tree)


SCRIPT = """
import sys
from pathlib import Path
from ruamel.yaml import YAML

path, service, image = sys.argv[1:]
yaml = YAML()
yaml.preserve_quotes = True
yaml.width = 1 << 30
yaml.indent(mapping=2, sequence=4, offset=2)
tree = yaml.load(Path(path))
tree["services"][service]["image"] = image
yaml.dump(tree, Path(path))
"""


def script(path: Path, service: str, image: str) -> None:
    """The same as a separate program, which imports ruamel.yaml and nothing of this project."""
    process(sys.executable, "-c", SCRIPT, path, service, image)


def yq(path: Path, service: str, image: str) -> None:
    """`yq -i` on the compose file."""
    process(go_module(YQ), "-i", f'.services["{service}"].image = "{image}"', path)


@dataclass(frozen=True, slots=True)
class Jinja:
    """A plain jinja2 template of the whole file, compiled and warm."""

    template: object

    @classmethod
    def of(cls, composition: Composition) -> "Jinja":
        environment = Environment(keep_trailing_newline=True)  # YAML, as such scripts do
        return cls(environment.from_string(job.whole_file_template(composition, job.JINJA)))

    def render(self, values: Values) -> bytes:
        """The compose file."""
        return self.template.render(values).encode()


class ConsulTemplate:
    """`consul-template -once` over a JSON file."""

    def __init__(self, composition: Composition, folder: Path) -> None:
        self._binary = go_module(CONSUL_TEMPLATE)
        self._folder = folder
        (folder / "compose.ctmpl").write_text(job.whole_file_template(composition, job.CONSUL))

    def render(self, composition: Composition) -> bytes:
        """The compose file."""
        (self._folder / "values.json").write_text(json.dumps(job.template_values(composition)))
        process(self._binary, "-once", "-template", "compose.ctmpl:out.yaml", cwd=self._folder)
        return (self._folder / "out.yaml").read_bytes()


class Helm:
    """Helm's own engine, loaded once and warm, in a process that handles many requests."""

    def __init__(self, worker: "subprocess.Popen[str]") -> None:
        self._worker = worker

    @classmethod
    @contextmanager
    def of(cls, composition: Composition, folder: Path) -> Iterator["Helm"]:
        chart = folder / "chart"
        (chart / "templates").mkdir(parents=True)
        (chart / "Chart.yaml").write_text("apiVersion: v2\nname: bundle\nversion: 0.1.0\n")
        (chart / "templates" / "compose.yaml").write_text(
            job.whole_file_template(composition, job.HELM)
        )
        script = Path(__file__).with_name("helm_worker.py")
        command = [str(environment("helm") / "bin" / "python"), str(script), str(chart)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as worker:
            yield cls(worker)
            assert worker.stdin is not None
            worker.stdin.close()

    def render(self, values: Values) -> tuple[Timing, str]:
        """The time that Helm took, and the digest of its output."""
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._worker.stdin.write(json.dumps(values) + "\n")
        self._worker.stdin.flush()
        measured = json.loads(self._worker.stdout.readline())
        return Timing(measured["cpu"], measured["wall"]), measured["sha256"]


class Copier:
    """`copier update` of a project in git, in which an operator has edited a line that must stay."""

    def __init__(self, composition: Composition, folder: Path) -> None:
        self._binary = environment("copier") / "bin" / "copier"
        self._template, self._project = folder / "template", folder / "project"
        self._values = folder / "values.yaml"
        self._template.mkdir()
        (self._template / "copier.yml").write_text(
            '_envops:\n  block_start_string: "[%"\n  block_end_string: "%]"\n  variable_start_string: "[["\n'
            '  variable_end_string: "]]"\n  keep_trailing_newline: true\n'
            "_templates_suffix: .jinja\nmodels:\n  type: json\n  default: []\n"
        )
        (self._template / "compose.yaml.jinja").write_text(
            job.whole_file_template(composition, job.COPIER)
        )
        (self._template / "[[ _copier_conf.answers_file ]].jinja").write_text(
            "[[ _copier_answers|to_nice_yaml ]]\n"
        )
        self._git(self._template, "init", "-q")
        self._commit(self._template)
        self._git(self._template, "tag", "1.0.0")
        process(
            self._binary,
            "copy",
            "--defaults",
            "--trust",
            "--quiet",
            *self._data(composition),
            self._template,
            self._project,
        )
        compose = self._project / "compose.yaml"
        edited = compose.read_text().replace("#- --enable_batching", "- --enable_batching", 1)
        compose.write_text(edited)
        self._git(self._project, "init", "-q")
        self._commit(self._project)

    def update(self, composition: Composition) -> bytes:
        """The compose file after the update, with the operator's edit in it."""
        process(
            self._binary,
            "update",
            "--defaults",
            "--trust",
            "--quiet",
            *self._data(composition),
            cwd=self._project,
        )
        self._commit(self._project)
        return (self._project / "compose.yaml").read_bytes()

    def _data(self, composition: Composition) -> list[str]:
        # A list of 2,000 models does not fit into one argument.
        self._values.write_text(json.dumps(job.template_values(composition)))
        return ["--data-file", str(self._values)]

    def _commit(self, folder: Path) -> None:
        self._git(folder, "add", "--all")
        self._git(
            folder, "-c", "user.name=b", "-c", "user.email=b@example.com", "commit", "-qm", "x"
        )

    @staticmethod
    def _git(folder: Path, *arguments: str) -> None:
        process("git", *arguments, cwd=folder)

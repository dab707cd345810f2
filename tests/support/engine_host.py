"""A bundle that runs on a Docker Engine, and what its deployment engineer does with it.

    models = Models(images, store)
    first = models.bundle(models.tensorflow("101", "3", factor=3))
    host = Host.deploy(engine, compose, first, folder, store, images)
    host.up()
    with host.load() as load:
        host.update(models.bundle(models.tensorflow("101", "4", factor=4)))
    assert load.failed("101") == 0

A model multiplies its input by its factor, so an answer shows which model and version gave it.
"""

import contextlib
import http.client
import json
import secrets
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from renderers.bundle import Renderer
from renderers.composition import Composition, Model, RenderDefaults, Stamp
from tests.builders import STAMP
from tests.services.compose import Compose, Output
from tests.services.engine import Engine
from tests.services.images import Images
from tests.services.processes import free_port
from tests.services.rclone import rclone

_LIMIT_SECONDS = 180
_KEPT = "base/model-serving/model-download/models"


def eventually(is_true: Callable[[], object], seconds: float = 60) -> None:
    """Waits until a condition holds. Raises AssertionError with what it was after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (last := is_true()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {last!r}"
        time.sleep(0.1)


# Where models come from


@dataclass(frozen=True, slots=True)
class Store:
    """A real S3 server in a container. This machine and containers reach it at the same address."""

    engine: Engine
    container: str
    endpoint: str
    access_key: str
    secret_key: str
    bucket: str = "models"

    @classmethod
    @contextlib.contextmanager
    def running(cls, engine: Engine, images: Images) -> Iterator["Store"]:
        """The server as long as the block runs, with its bucket."""
        access, secret = "test", secrets.token_hex(16)
        container = engine.run(
            *("run", "--detach", "--publish", f"{engine.address}::7070"),
            *("--env", f"ROOT_ACCESS_KEY={access}", "--env", f"ROOT_SECRET_KEY={secret}"),
            images.store,
        ).strip()
        try:
            address = engine.run("port", container, "7070/tcp").split()[0]
            store = cls(engine, container, f"http://{address}", access, secret)
            eventually(store._answers)
            store.client().create_bucket(Bucket=store.bucket)
            yield store
        finally:
            engine.run("rm", "--force", "--volumes", container)

    def client(self) -> Any:
        """A boto3 client."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
        )

    def copy(self, source: str, folder: Path) -> None:
        """Copies `BUCKET/PREFIX` to a folder, as a deployment engineer does with rclone."""
        subprocess.run(
            [rclone("newest"), "copy", f":s3:{source}", folder],
            env={
                "PATH": "/usr/bin:/bin",
                "RCLONE_CONFIG": "/dev/null",
                "RCLONE_S3_PROVIDER": "Other",
                "RCLONE_S3_ENDPOINT": self.endpoint,
                "RCLONE_S3_REGION": "us-east-1",
                "RCLONE_S3_ACCESS_KEY_ID": self.access_key,
                "RCLONE_S3_SECRET_ACCESS_KEY": self.secret_key,
            },
            check=True,
            timeout=_LIMIT_SECONDS,
        )

    def put(self, prefix: str, files: Mapping[str, bytes]) -> str:
        """Uploads files below a prefix of the bucket, and returns its URI."""
        client = self.client()
        for name, body in files.items():
            client.put_object(Bucket=self.bucket, Key=f"{prefix}/{name}", Body=body)
        return f"s3://{self.bucket}/{prefix}"

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Nothing answers at the address as long as the block runs."""
        self.engine.run("pause", self.container)
        try:
            yield
        finally:
            self.engine.run("unpause", self.container)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.endpoint, timeout=5):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False


_TRITON_CONFIG = """\
name: "{name}"
backend: "python"
max_batch_size: 0
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 1 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""
_TRITON_MODEL = """\
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        time.sleep({load_seconds})

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(
                        "y", pb_utils.get_input_tensor_by_name(request, "x").as_numpy() * {factor}
                    )
                ]
            )
            for request in requests
        ]
"""


_ENSEMBLE_CONFIG = """\
name: "both"
platform: "ensemble"
max_batch_size: 0
input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
ensemble_scheduling {
  step [
    {
      model_name: "Step1"
      model_version: -1
      input_map { key: "x" value: "x" }
      output_map { key: "y" value: "between" }
    },
    {
      model_name: "Step2"
      model_version: -1
      input_map { key: "x" value: "between" }
      output_map { key: "y" value: "y" }
    }
  ]
}
"""


@dataclass(frozen=True, slots=True)
class Models:
    """Makes models, with their files on a store.

    `load_seconds`: how long an engine needs to load one. `megabytes`: the size of its files beside
    the model itself. `broken`: no engine can load it. `serving`: more fields of `serving`.
    """

    images: Images
    store: Store

    def tensorflow(
        self,
        model_id: str,
        version: str,
        factor: float,
        *,
        load_seconds: float = 0,
        megabytes: int = 0,
        broken: bool = False,
        **serving: Any,
    ) -> Model:
        """For the stand-in for TensorFlow Serving."""
        document = _document(factor, load_seconds, broken=broken)
        files = {"saved_model.pb": document, "variables/variables.index": b"index"}
        serving = {"platform": "tensorflow", "image": self.images.tensorflow_serving} | serving
        return self._model(model_id, version, files | _ballast(megabytes), serving)

    def openvino(
        self,
        model_id: str,
        version: str,
        factor: float,
        *,
        load_seconds: float = 0,
        megabytes: int = 0,
        broken: bool = False,
        **serving: Any,
    ) -> Model:
        """For the stand-in for OpenVINO Model Server."""
        document = _document(factor, load_seconds, broken=broken)
        files = {"model.xml": document, "model.bin": b"weights"}
        serving = {"platform": "openvino", "image": self.images.openvino} | serving
        return self._model(model_id, version, files | _ballast(megabytes), serving)

    def triton(
        self,
        model_id: str,
        version: str,
        factor: float,
        *,
        load_seconds: float = 0,
        megabytes: int = 0,
        broken: bool = False,
        name: str | None = None,
        **serving: Any,
    ) -> Model:
        """For the real Triton: a model of its Python back end. `name`: in its configuration."""
        code = "broken(" if broken else _TRITON_MODEL
        files = {
            "config.pbtxt": _TRITON_CONFIG.format(name=name or model_id).encode(),
            "1/model.py": code.format(factor=float(factor), load_seconds=load_seconds).encode(),
        }
        serving = {"platform": "triton", "image": self.images.triton} | serving
        return self._model(model_id, version, files | _ballast(megabytes), serving)

    def bundle(
        self, *models: Model, name: str = "visual-anomaly", target: str = "core-versions"
    ) -> Composition:
        """A composition of these models, whose signature lists them for the proxy."""
        signature = {
            "models": {
                model.id: {"engine": model.serving.platform, "name": called_by(model)}
                for model in models
            }
        }
        return Composition.model_validate(
            {
                "bundle": {"name": name, "target": target},
                "models": [_as_document(model) for model in models],
                "proxy": {
                    "image": self.images.model_proxy,
                    "signature": {"document": signature},
                },
            }
        )

    def ensemble(
        self, model_id: str, version: str, factors: tuple[float, float], **serving: Any
    ) -> Model:
        """For the real Triton: a repository with the ensemble `both` of two steps of its Python
        back end, `Step1` and `Step2`, each of which multiplies by its factor.
        """
        files = {"both/config.pbtxt": _ENSEMBLE_CONFIG.encode(), "both/1/.keep": b""}
        for number, factor in enumerate(factors, 1):
            step = f"Step{number}"
            code = _TRITON_MODEL.format(factor=float(factor), load_seconds=0)
            files[f"{step}/config.pbtxt"] = _TRITON_CONFIG.format(name=step).encode()
            files[f"{step}/1/model.py"] = code.encode()
        serving = {
            "platform": "triton",
            "image": self.images.triton,
            "repository": {"models": ["both"]},
        } | serving
        return self._model(model_id, version, files, serving)

    def _model(
        self, model_id: str, version: str, files: Mapping[str, bytes], serving: Mapping[str, Any]
    ) -> Model:
        uri = self.store.put(f"{model_id}/{version}-{secrets.token_hex(4)}", files)
        return Model.model_validate(
            {
                "id": model_id,
                "version": version,
                "artifact": {"uri": uri},
                "serving": dict(serving),
            }
        )


def called_by(model: Model) -> str:
    """The name by which clients call a model in its engine; of a repository, its first model."""
    repository = model.serving.repository
    return repository.models[0] if repository else model.engine_name


def _as_document(model: Model) -> dict[str, Any]:
    return model.model_dump(mode="json", exclude_none=True)


def _document(factor: float, load_seconds: float, *, broken: bool) -> bytes:
    if broken:
        return b"no model"
    return json.dumps({"factor": factor, "load_seconds": load_seconds}).encode()


def _ballast(megabytes: int) -> dict[str, bytes]:
    return {"variables/ballast": bytes(megabytes << 20)} if megabytes else {}


# The load


@dataclass(frozen=True, slots=True)
class ModelLoad:
    """The calls of one model: by status, the answers by `MODEL VERSION FACTOR`, and the longest
    time from a failed call to the next answer.
    """

    statuses: Mapping[str, int]
    answers: Mapping[str, int]
    slowest_seconds: float
    longest_outage_seconds: float

    @property
    def calls(self) -> int:
        """All of them."""
        return sum(self.statuses.values())

    @property
    def failures(self) -> dict[str, int]:
        """The failed ones, by status."""
        return {status: count for status, count in self.statuses.items() if status != "OK"}


@dataclass(slots=True)
class Load:
    """A steady load on the router; the results are known after the `with` block."""

    results: dict[str, ModelLoad] = field(default_factory=dict)

    def failed(self, model: str) -> int:
        """How many calls of a model failed."""
        return sum(self.results[model].failures.values())

    def factors(self, model: str) -> list[float]:
        """The factors that answered, each once, in rising order."""
        return sorted({float(answer.split()[-1]) for answer in self.results[model].answers})


# The host


@dataclass(frozen=True, slots=True)
class Service:
    """The container of a service, as `ps` shows it."""

    container: str
    state: str
    health: str
    exit_code: int


@dataclass(slots=True)
class Host:
    """One deployment directory beside the copy of one bundle's live tree.

    `composition` is that of the copy. `environment` has the variables for Compose and for scripts
    of the bundle.
    """

    engine: Engine
    compose: Compose
    images: Images
    folder: Path
    http_port: int
    grpc_port: int
    project: str
    composition: Composition

    @classmethod
    def deploy(
        cls,
        engine: Engine,
        compose: Compose,
        composition: Composition,
        folder: Path,
        store: Store,
        images: Images,
    ) -> "Host":
        """A host with the rendered tree, filled in."""
        host = cls.beside(engine, compose, composition, folder, images)
        host.replace_base(composition)
        host.fill_in(store)
        return host

    @classmethod
    def beside(
        cls,
        engine: Engine,
        compose: Compose,
        composition: Composition,
        folder: Path,
        images: Images,
    ) -> "Host":
        """A host whose `folder` has, or will have, the tree of `composition`."""
        project = f"site-{secrets.token_hex(4)}"
        ports = free_port(), free_port()
        return cls(engine, compose, images, folder, *ports, project, composition)

    def fill_in(self, store: Store) -> None:
        """Copies `example/`, then fills in what the bundle's README asks for."""
        shutil.copytree(self.folder / "example", self.directory)
        self.set(".env", REL_DIR=str(self.directory))
        self.set(
            "conf/bundle/.env",
            MODEL_PROXY_HTTP_PORT=str(self.http_port),
            MODEL_PROXY_GRPC_PORT=str(self.grpc_port),
        )
        self.set(
            "creds/bundle/.env",
            RCLONE_S3_PROVIDER="Minio",
            RCLONE_S3_ACCESS_KEY_ID=store.access_key,
            RCLONE_S3_SECRET_ACCESS_KEY=store.secret_key,
            RCLONE_S3_ENDPOINT=store.endpoint,
            RCLONE_S3_REGION="us-east-1",
        )

    @property
    def directory(self) -> Path:
        """The deployment directory: where `docker compose` is called."""
        return self.folder / "prod"

    @property
    def environment(self) -> dict[str, str]:
        """Variables for Compose."""
        return self.engine.environment | {"COMPOSE_PROJECT_NAME": self.project}

    @property
    def script_environment(self) -> dict[str, str]:
        """Variables for scripts of the bundle that call Compose, by a path with a blank."""
        folder = self.folder / "the programs"
        program = folder / "docker-compose"
        if not program.exists():
            folder.mkdir(exist_ok=True)
            program.symlink_to(self.compose.binary)
        return self.environment | {"DOCKER_COMPOSE": str(program)}

    @property
    def defaults(self) -> RenderDefaults:
        """With the images that are in the engine."""
        return RenderDefaults(download_image=self.images.rclone, router_image=self.images.nginx)

    def set(self, file: str, **values: str) -> None:
        """Sets variables in a file of the deployment directory, which has a line for each."""
        path = self.directory / file
        lines = path.read_text().splitlines()
        for name, value in values.items():
            at = [number for number, line in enumerate(lines) if line.startswith(f"{name}=")]
            assert len(at) == 1, f"{file} has {len(at)} lines {name}="
            lines[at[0]] = f"{name}={value}"
        path.write_text("\n".join(lines) + "\n")

    # Steps of an update

    def replace_base(self, composition: Composition, stamp: Stamp = STAMP) -> None:
        """Makes base/ and example/ what the bundle renders to, as rsync does: a changed file is
        replaced by a rename, other files stay, and so do the models that are on disk.
        """
        self.composition = composition
        files = {file.path: file for file in Renderer().render(composition, self.defaults, stamp)}
        for path in (*self.folder.glob("base/**/*"), *self.folder.glob("example/**/*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and name not in files and not name.startswith(f"{_KEPT}/"):
                path.unlink()
        for name, file in files.items():
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists() or path.read_bytes() != file.body:
                new = path.with_name(f".{path.name}.new")
                new.write_bytes(file.body)
                new.replace(path)
            path.chmod(0o755 if file.executable else 0o644)

    def update(self, composition: Composition) -> Output:
        """Replaces base/ and starts what changed, by plain `up -d --remove-orphans`."""
        self.replace_base(composition)
        return self.up()

    def up(self, *words: str) -> Output:
        """`docker compose up -d --remove-orphans`; asserts that it succeeds."""
        return self.succeed("up", "--detach", "--remove-orphans", *words)

    def succeed(self, *words: str) -> Output:
        """A Compose command; asserts that it succeeds."""
        output = self.run(*words)
        assert output.code == 0, f"docker compose {' '.join(words)}: {output.text}"
        return output

    def run(self, *words: str, limit: float = _LIMIT_SECONDS) -> Output:
        """A Compose command."""
        return self.compose.command(self.directory, *words, env=self.environment, limit=limit)

    def remove(self) -> None:
        """Removes containers, networks and volumes, whatever state they are in."""
        label = f"label=com.docker.compose.project={self.project}"
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.succeed("down", "--remove-orphans", "--volumes", "--timeout", "1")
            return
        if left := self.engine.run("ps", "--all", "--quiet", "--filter", label).split():
            self.engine.run("rm", "--force", "--volumes", *left)
        for kind in ("network", "volume"):
            if left := self.engine.run(kind, "ls", "--quiet", "--filter", label).split():
                self.engine.run(kind, "rm", *left)

    # What is seen

    def services(self) -> dict[str, Service]:
        """The containers by service, finished ones too."""
        lines = self.succeed("ps", "--all", "--format", "json").stdout.splitlines()
        rows = [json.loads(line) for line in lines if line]
        return {
            row["Service"]: Service(row["ID"], row["State"], row["Health"], row["ExitCode"])
            for row in rows
        }

    def containers(self) -> dict[str, str]:
        """The id of each service's container: compare before and after."""
        return {name: service.container for name, service in self.services().items()}

    def restarts(self, service: str) -> int:
        """How often the restart policy has started a service's container again."""
        return int(self.engine.inspect(self.containers()[service])["RestartCount"])

    def logs(self, service: str) -> str:
        """Everything that a service has printed."""
        return self.succeed("logs", "--no-color", "--no-log-prefix", service).text

    def report(self) -> str:
        """States and last lines of all services, for messages."""
        states = self.run("ps", "--all").text
        return states + self.run("logs", "--no-color", "--tail", "8").text

    def kill(self, service: str) -> None:
        """SIGKILL to the first process of a service's container. Its restart policy acts."""
        self.engine.kill(self.containers()[service], self.images.busybox)

    def predict(self, model: str) -> dict[str, Any]:
        """What model_proxy answers over HTTP: `factor`, `model`, `version`, or `error`."""
        address = f"http://{self.engine.address}:{self.http_port}"
        request = urllib.request.Request(f"{address}/api/v1/models/{model}/predict", data=b"{}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return json.load(error)
        except (OSError, http.client.HTTPException) as error:
            return {"error": str(error)}

    def factors(self) -> dict[str, float | str]:
        """What each model multiplies by, asked through model_proxy, or why it does not."""
        answers = {model.id: self.predict(model.id) for model in self.composition.models}
        return {
            model: answer.get("factor", answer.get("error")) for model, answer in answers.items()
        }

    def wait_for_factors(self, expected: Mapping[str, float], seconds: float = 60) -> None:
        """Waits until each model answers with its factor. Raises AssertionError with the last
        answers.
        """
        deadline = time.monotonic() + seconds
        while (last := self.factors()) != expected:
            assert time.monotonic() < deadline, (
                f"{last} after {seconds} s, not {expected}\n{self.report()}"
            )
            time.sleep(0.2)

    @contextlib.contextmanager
    def load(self, *models: str, seconds: float = 0, pause: float = 0.02) -> Iterator[Load]:
        """Calls models (default: all) through the router, one after another in a thread for each.

        It lasts as long as the block and `seconds` more; `pause` is the time between two calls.
        """
        called = [model for model in self.composition.models if not models or model.id in models]
        targets = [f"{model.serving.platform}:{called_by(model)}:{model.id}" for model in called]
        router = f"{self.composition.bundle.name}-nginx:8500"
        words = ("run", "--rm", "--interactive", "--network", self._network(), self.images.python)
        program = ("python3", "/opt/standins/load.py", router, str(pause), *targets)
        load = Load()
        with subprocess.Popen(
            [self.engine.client, *words, *program],
            env=self.engine.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "started\n", "the load has not started"
                yield load
                time.sleep(seconds)
            finally:
                # Closes its input, which ends it.
                lines, _ = process.communicate(timeout=_LIMIT_SECONDS)
        for line in lines.splitlines():
            document = json.loads(line)
            model_id = document.pop("model_id")
            load.results[model_id] = ModelLoad(**document)

    def _network(self) -> str:
        label = f"label=com.docker.compose.project={self.project}"
        (network,) = self.engine.run(
            "network", "ls", "--filter", label, "--format", "{{.Name}}"
        ).split()
        return network

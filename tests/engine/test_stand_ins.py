"""The stand-ins do what the sources of the engines say, as far as an update of a bundle needs it.

`tests/services/engine_images` names those sources beside each rule.
"""

import contextlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.services.engine import Engine
from tests.services.images import Images
from tests.support.engine_host import eventually

REPORT = """\
{
 "model_version_status": [
  {
   "version": "3",
   "state": "AVAILABLE",
   "status": {
    "error_code": "OK",
    "error_message": ""
   }
  }
 ]
}
"""
FAST_RETRIES = ("--max_num_load_retries=2", "--load_retry_interval_micros=200000")


@dataclass(frozen=True, slots=True)
class Server:
    """A model server for the model `m` in `folder`, with its REST port published."""

    engine: Engine
    container: str
    folder: Path

    def put(self, version: int, file: str = "saved_model.pb", **document: Any) -> None:
        """A version, which appears at once. Without a factor it cannot be loaded."""
        new = self.folder.parent / f"{self.folder.name}-{version}"
        new.mkdir(mode=0o755)
        (new / file).write_text(json.dumps(document))
        new.rename(self.folder / str(version))

    def remove(self, version: int) -> None:
        (self.folder / str(version)).rename(self.folder.parent / f"gone-{version}")

    def request(self, path: str, body: bytes | None = None) -> tuple[int, str]:
        """Status and body; 0 when nothing listens."""
        port = self.engine.run("port", self.container, "8501/tcp").split()[0].rpartition(":")[2]
        url = f"http://{self.engine.address}:{port}{path}"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data=body)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def states(self) -> dict[str, tuple[str, str]]:
        """State and error code by version."""
        status, body = self.request("/v1/models/m")
        if status != 200:
            return {}
        return {
            each["version"]: (each["state"], each["status"]["error_code"])
            for each in json.loads(body)["model_version_status"]
        }

    def answer(self) -> float | None:
        """What 1 is multiplied by, if a version is loaded."""
        status, body = self.request("/v1/models/m:predict", b'{"instances": [1]}')
        return json.loads(body)["predictions"][0] if status == 200 else None

    def output(self) -> str:
        return self.engine.run("logs", self.container)

    def exit_code(self) -> int | None:
        state = self.engine.inspect(self.container)["State"]
        return None if state["Running"] else state["ExitCode"]


@contextlib.contextmanager
def serving(engine: Engine, image: str, folder: Path, *words: str) -> Iterator[Server]:
    folder.mkdir(mode=0o755, exist_ok=True)
    container = engine.run(
        *("run", "--detach", "--init", "--publish", f"{engine.address}::8501"),
        *("--volume", f"{folder}:/models/m", image, *words),
    ).strip()
    try:
        yield Server(engine, container, folder)
    finally:
        engine.run("rm", "--force", container)


@pytest.fixture
def tensorflow(engine: Engine, images: Images, tmp_path: Path) -> Any:
    def start(*words: str) -> contextlib.AbstractContextManager[Server]:
        flags = ("--model_name=m", "--model_base_path=/models/m", *words)
        return serving(engine, images.tensorflow_serving, tmp_path / "m", *flags)

    return start


AVAILABLE, ENDED = ("AVAILABLE", "OK"), ("END", "OK")


def test_no_port_is_open_before_a_version_is_loaded(tensorflow: Any) -> None:
    with tensorflow() as server:
        eventually(lambda: "No versions of servable" in server.output())
        assert server.request("/v1/models/m")[0] == 0

        server.put(3, factor=3)
        eventually(lambda: server.states() == {"3": AVAILABLE})
        assert server.answer() == 3


def test_the_report_has_the_layout_of_the_real_one(tensorflow: Any) -> None:
    with tensorflow() as server:
        server.put(3, factor=3)
        eventually(server.states)

        assert server.request("/v1/models/m") == (200, REPORT)
        assert server.request("/v1/models/other")[0] == 404


def test_a_higher_version_is_loaded_before_the_lower_one_is_unloaded(tensorflow: Any) -> None:
    with tensorflow() as server:
        server.put(3, factor=3)
        eventually(server.answer)
        server.put(4, factor=4, load_seconds=2)
        eventually(lambda: server.states() == {"4": ("LOADING", "OK"), "3": AVAILABLE})
        assert server.answer() == 3

        eventually(lambda: server.states() == {"4": AVAILABLE, "3": ENDED})
        assert server.answer() == 4


def test_a_version_that_cannot_be_loaded_leaves_the_loaded_one_and_ends_with_an_error(
    tensorflow: Any,
) -> None:
    with tensorflow(*FAST_RETRIES) as server:
        server.put(3, factor=3)
        eventually(server.answer)
        server.put(4)
        eventually(lambda: server.states().get("4") == ("END", "DATA_LOSS"))

        assert server.states()["3"] == AVAILABLE
        assert server.answer() == 3
        assert server.output().count("Loading servable version 4 failed") == 3


def test_no_other_change_takes_effect_while_a_load_is_tried_again(tensorflow: Any) -> None:
    with tensorflow("--load_retry_interval_micros=1500000", "--max_num_load_retries=2") as server:
        server.put(3, factor=3)
        eventually(server.answer)
        server.put(4)
        eventually(lambda: "version 4 failed" in server.output())
        server.put(5, factor=5)
        eventually(lambda: server.states().get("4") == ("END", "DATA_LOSS"))
        assert server.output().count("version 4 failed") == 3

        eventually(lambda: server.answer() == 5)
        assert server.output().index("retry: 2") < server.output().index("version: 5")


def test_a_start_with_a_version_that_cannot_be_loaded_ends_the_program(tensorflow: Any) -> None:
    with tensorflow(*FAST_RETRIES) as server:
        server.put(3)
        eventually(lambda: server.exit_code() is not None)

        assert server.exit_code() != 0


def test_a_lower_version_is_taken_when_the_higher_one_leaves(tensorflow: Any) -> None:
    with tensorflow() as server:
        server.put(4, factor=4)
        eventually(server.answer)
        server.put(3, factor=3)
        server.remove(4)

        eventually(lambda: server.states() == {"4": ENDED, "3": AVAILABLE})
        assert server.answer() == 3


def test_an_empty_folder_unloads_the_model(tensorflow: Any) -> None:
    with tensorflow() as server:
        server.put(3, factor=3)
        eventually(server.answer)
        server.remove(3)

        eventually(lambda: server.states() == {"3": ENDED})
        assert server.answer() is None


def test_a_wait_of_zero_reads_the_folder_once(tensorflow: Any, tmp_path: Path) -> None:
    (tmp_path / "m/3").mkdir(parents=True)
    (tmp_path / "m/3/saved_model.pb").write_text('{"factor": 3}')
    with (
        tensorflow("--file_system_poll_wait_seconds=0") as once,
        tensorflow("--file_system_poll_wait_seconds=1") as again,
    ):
        eventually(once.answer)
        eventually(again.answer)
        again.put(4, factor=4)
        eventually(lambda: again.answer() == 4)

        assert once.answer() == 3


def test_the_last_of_several_flags_counts(tensorflow: Any) -> None:
    with tensorflow("--port=8500", "--rest_api_port=9999", "--rest_api_port=8501") as server:
        server.put(3, factor=3)
        eventually(server.answer)

    # The entrypoint says 8500 before.
    with tensorflow("--port=9000") as server:
        eventually(lambda: "Running gRPC ModelServer at 0.0.0.0:9000" in server.output())


@pytest.mark.parametrize(
    "flag", ["--no_such_flag=1", "--port=many", "--port", "model_name=m", "--enable_batching=2"]
)
def test_a_flag_that_the_server_does_not_have_ends_the_program(tensorflow: Any, flag: str) -> None:
    with tensorflow(flag) as server:
        eventually(lambda: server.exit_code() is not None)

        assert server.exit_code() != 0


def test_parameters_of_batching_are_read_and_need_the_switch(
    tensorflow: Any, tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/batching.txt").write_text("max_batch_size { value: 32 }\n")
    flag = "--batching_parameters_file=/models/m/batching.txt"
    with tensorflow("--enable_batching", flag) as server:
        eventually(lambda: "max_batch_size { value: 32 }" in server.output())
    with tensorflow(flag) as server:
        eventually(lambda: server.exit_code() is not None)
    (tmp_path / "m/batching.txt").write_text("no_such_field: 1\n")
    with tensorflow("--enable_batching", flag) as server:
        eventually(lambda: server.exit_code() is not None)


def test_metrics_are_where_the_monitoring_file_says(tensorflow: Any, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/monitoring.txt").write_text('prometheus_config { enable: true path: "/p" }')
    with tensorflow("--monitoring_config_file=/models/m/monitoring.txt") as server:
        server.put(3, factor=3)
        eventually(server.answer)

        assert server.request("/p")[0] == 200


def test_the_entrypoint_ignores_sigterm_as_the_first_process(
    engine: Engine, images: Images, tmp_path: Path
) -> None:
    (tmp_path / "m").mkdir()
    flags = ("--model_name=m", "--model_base_path=/models/m")
    container = engine.run(
        *("run", "--detach", "--volume", f"{tmp_path}/m:/models/m", images.tensorflow_serving),
        *flags,
    ).strip()
    try:
        eventually(lambda: "No versions" in engine.run("logs", container))
        engine.run("stop", "--time", "1", container)

        # 128 + 9: it took the second signal.
        assert engine.inspect(container)["State"]["ExitCode"] == 137
    finally:
        engine.run("rm", "--force", container)


# OpenVINO Model Server


@pytest.fixture
def openvino(engine: Engine, images: Images, tmp_path: Path) -> Any:
    def start(*words: str) -> contextlib.AbstractContextManager[Server]:
        flags = ("--model_name=m", "--model_path=/models/m", "--port=9000", "--rest_port=8501")
        return serving(engine, images.openvino, tmp_path / "m", *flags, *words)

    return start


def test_openvino_opens_its_ports_before_it_has_a_model(openvino: Any) -> None:
    with openvino() as server:
        eventually(lambda: server.request("/v1/models/m")[0] == 404)


def test_openvino_loads_a_higher_version_before_it_unloads_the_lower_one(openvino: Any) -> None:
    with openvino() as server:
        server.put(3, "model.xml", factor=3)
        eventually(server.answer)
        server.put(4, "model.xml", factor=4, load_seconds=2)
        eventually(lambda: server.states() == {"4": ("LOADING", "OK"), "3": AVAILABLE})
        assert server.answer() == 3

        eventually(lambda: server.states() == {"4": AVAILABLE, "3": ENDED})
        assert server.answer() == 4


def test_openvino_keeps_the_lower_version_when_the_higher_one_cannot_be_loaded(
    openvino: Any,
) -> None:
    with openvino() as server:
        server.put(3, "model.xml", factor=3)
        eventually(server.answer)
        server.put(4, "model.xml")

        eventually(lambda: server.states() == {"4": ("LOADING", "UNKNOWN"), "3": AVAILABLE})
        assert server.answer() == 3


def test_openvino_refuses_a_flag_that_it_does_not_have(openvino: Any) -> None:
    with openvino("--no_such_flag") as server:
        eventually(lambda: server.exit_code() is not None)

        assert server.exit_code() != 0

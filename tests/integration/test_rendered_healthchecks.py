"""The rendered health checks, run like Docker runs them, against a server with the answers of the
engines.
"""

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.builders import golden_composition, make_model
from tests.services.availability import available
from tests.services.compose import Compose
from tests.services.processes import LOOPBACK, free_port
from tests.services.tools import tool
from tests.support.target_host import DeployedBundle

_LIMIT_SECONDS = 30


def broken_into_lines(state: str, code: str) -> str:
    """The status of a model as OpenVINO Model Server writes it."""
    status = {"version": "1", "state": state, "status": {"error_code": code, "error_message": code}}
    return json.dumps({"model_version_status": [status]}, indent=1) + "\n"


# The answers of the engines while a model is served, and while it is not.
AVAILABLE = {
    "/v1/models/101": (200, '{"model_version_status": [{"version": "3", "state": "AVAILABLE"}]}'),
    "/v1/models/ov": (200, broken_into_lines("AVAILABLE", "OK")),
    "/v2/health/ready": (200, ""),
}
LOADING = {
    "/v1/models/ov": (200, broken_into_lines("LOADING", "UNKNOWN")),
    "/v1/models/101": (
        200,
        '{"model_version_status": [{"version": "3", "state": "LOADING", "status": {"error_code": "UNAVAILABLE"}}]}',
    ),
    "/v2/health/ready": (400, ""),
}


@contextmanager
def engine(answers: dict[str, tuple[int, str]]) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, body = answers.get(self.path, (404, "{}"))
            self.send_response(code)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            """Keep the output of the tests clean."""

    with ThreadingHTTPServer((LOOPBACK, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


COMPOSITION = golden_composition().with_model(make_model("ov", platform="openvino"))
CHECKS = {
    "TensorFlow Serving": ("s101s", "8501"),
    "Triton": ("s103s", "8000"),
    "OpenVINO Model Server": ("sovs", "8000"),
}


@pytest.fixture(params=CHECKS.values(), ids=CHECKS)
def check(
    request: pytest.FixtureRequest, compose: Compose, tmp_path: Path
) -> tuple[list[str], str]:
    """The command of a service's health check, and the port of the engine in it."""
    service, port = request.param
    bundle = DeployedBundle.install(COMPOSITION, tmp_path)
    kind, *command = compose.config(bundle.directory)["services"][service]["healthcheck"]["test"]
    assert kind == "CMD"
    available(lambda: tool(command[0]))
    return command, port


def is_healthy(check: tuple[list[str], str], port: int) -> bool:
    command, engine_port = check
    local = [part.replace(f"127.0.0.1:{engine_port}", f"127.0.0.1:{port}") for part in command]
    local = [part.replace(f"127.0.0.1/{engine_port}", f"127.0.0.1/{port}") for part in local]
    assert local != command
    return (
        subprocess.run(local, capture_output=True, timeout=_LIMIT_SECONDS, check=False).returncode
        == 0
    )


def test_an_engine_that_serves_its_model_is_healthy(check: tuple[list[str], str]) -> None:
    with engine(AVAILABLE) as port:
        assert is_healthy(check, port)


def test_an_engine_that_still_loads_is_not_healthy(check: tuple[list[str], str]) -> None:
    with engine(LOADING) as port:
        assert not is_healthy(check, port)


def test_an_engine_that_is_down_is_not_healthy(check: tuple[list[str], str]) -> None:
    assert not is_healthy(check, free_port())

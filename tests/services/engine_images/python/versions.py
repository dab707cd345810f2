"""Versions of one model, their states, and the two ports on which both stand-ins report them.

A model's version is a folder whose `saved_model.pb` (OpenVINO: `model.xml`) holds JSON: `factor`,
and what to play, `load_seconds` and `megabytes`. Any other content cannot be loaded.
"""

import json
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import wire_pb2 as wire

START, LOADING, AVAILABLE, UNLOADING, END = 10, 20, 30, 40, 50
_STATES = {
    START: "START",
    LOADING: "LOADING",
    AVAILABLE: "AVAILABLE",
    UNLOADING: "UNLOADING",
    END: "END",
}
# google/protobuf/… error_codes.proto of TensorFlow
OK, UNKNOWN, NOT_FOUND, DATA_LOSS = 0, 2, 5, 15
_CODES = {OK: "OK", UNKNOWN: "UNKNOWN", NOT_FOUND: "NOT_FOUND", DATA_LOSS: "DATA_LOSS"}


class CannotLoad(Exception):
    """A version that the engine refuses: its error code, and its message."""


class Versions:
    """What a model server knows of one model's versions. Threads read it while one changes it."""

    def __init__(self, name, base, file):
        self.name, self._base, self._file = name, base, file
        self._lock = threading.Lock()
        self._states, self._loaded = {}, {}

    def on_disk(self):
        """The versions' numbers with the folder of each; None if the model's folder is absent."""
        try:
            entries = [path.name for path in self._base.iterdir()]
        except OSError:
            return None
        return {int(name): name for name in sorted(entries) if name.isascii() and name.isdigit()}

    def state(self, version):
        return self._states.get(version, (None, OK, ""))[0]

    def set(self, version, state, code=OK, message=""):
        with self._lock:
            self._states[version] = (state, code, message)

    def loaded(self):
        """The versions that answer, in rising order."""
        with self._lock:
            return sorted(self._loaded)

    def load(self, version, folder):
        """Makes a version answer. Raises CannotLoad."""
        path = self._base / folder / self._file
        try:
            document = json.loads(path.read_text())
            float(document["factor"])
        except OSError as error:
            raise CannotLoad(NOT_FOUND, f"Could not find {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise CannotLoad(DATA_LOSS, f"Can't parse {path} as binary proto") from error
        document["ballast"] = bytearray(b"x") * (document.get("megabytes", 0) << 20)
        time.sleep(document.get("load_seconds", 0))
        with self._lock:
            self._loaded[version] = document
        self.set(version, AVAILABLE)
        log(f"Successfully loaded servable version {{name: {self.name} version: {version}}}")

    def unload(self, version):
        self.set(version, UNLOADING)
        with self._lock:
            del self._loaded[version]
        self.set(version, END)
        log(f"Done unloading servable version {{name: {self.name} version: {version}}}")

    def factor(self, name, version=None):
        """The factor and the number of the version that answers, or (None, None)."""
        with self._lock:
            if name != self.name or not self._loaded:
                return None, None
            number = max(self._loaded) if version is None else version
            document = self._loaded.get(number)
            return (float(document["factor"]), number) if document else (None, None)

    def statuses(self):
        """(version, state, code, message), the highest version first as in the real answers."""
        with self._lock:
            return [(version, *state) for version, state in sorted(self._states.items())[::-1]]


def log(text):
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')}: I {text}", flush=True)


def serve_grpc(versions, port, threads):
    """PredictionService.Predict and ModelService.GetModelStatus."""

    def predict(request, context):
        spec = request.model_spec
        wanted = spec.version.value if spec.HasField("version") else None
        factor, version = versions.factor(spec.name, wanted)
        if factor is None:
            asked = f"Latest({spec.name})" if wanted is None else f"Specific({spec.name}, {wanted})"
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}")
        answer = wire.PredictResponse()
        answer.model_spec.name, answer.model_spec.version.value = spec.name, version
        output = answer.outputs["y"]
        output.dtype = request.inputs["x"].dtype
        output.tensor_shape.CopyFrom(request.inputs["x"].tensor_shape)
        output.float_val.extend(value * factor for value in request.inputs["x"].float_val)
        return answer

    def status(request, context):
        known = versions.statuses() if request.model_spec.name == versions.name else []
        if request.model_spec.HasField("version"):
            known = [each for each in known if each[0] == request.model_spec.version.value]
        if not known:
            context.abort(
                grpc.StatusCode.NOT_FOUND,
                f"Could not find any versions of model {request.model_spec.name}",
            )
        answer = wire.GetModelStatusResponse()
        for version, state, code, message in known:
            each = answer.model_version_status.add(version=version, state=state)
            each.status.error_code, each.status.error_message = code, message
        return answer

    server = grpc.server(futures.ThreadPoolExecutor(threads), options=[("grpc.so_reuseport", 0)])
    for service, name, method, request, response in (
        ("PredictionService", "Predict", predict, wire.PredictRequest, wire.PredictResponse),
        (
            *("ModelService", "GetModelStatus", status),
            *(wire.GetModelStatusRequest, wire.GetModelStatusResponse),
        ),
    ):
        handler = grpc.unary_unary_rpc_method_handler(
            method, request.FromString, response.SerializeToString
        )
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(
                    f"tensorflow.serving.{service}", {name: handler}
                ),
            )
        )
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    log(f"Running gRPC ModelServer at 0.0.0.0:{port} ...")
    return server


def serve_rest(versions, port, metrics_path=None):
    """GET /v1/models/<name>[/versions/<n>], POST …:predict, and metrics where they are on."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            parts = self.path.strip("/").split("/")
            if metrics_path and self.path == metrics_path:
                self.answer(200, "# TYPE :tensorflow:serving:request_count counter\n", "text/plain")
            elif parts[:2] != ["v1", "models"] or len(parts) not in {3, 5}:
                self.answer(400, error(f"Malformed request: GET {self.path}"))
            else:
                self.report(parts[2], int(parts[4]) if len(parts) == 5 else None)

        def report(self, name, only):
            known = versions.statuses() if name == versions.name else []
            known = [each for each in known if only in {None, each[0]}]
            if not known:
                self.answer(404, error(f"Could not find any versions of model {name}"))
                return
            statuses = [
                {
                    "version": str(version),
                    "state": _STATES[state],
                    "status": {"error_code": _CODES[code], "error_message": message},
                }
                for version, state, code, message in known
            ]
            self.answer(200, json.dumps({"model_version_status": statuses}, indent=1) + "\n")

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            name = self.path.removeprefix("/v1/models/").removesuffix(":predict")
            factor, _ = versions.factor(name)
            if factor is None:
                self.answer(404, error(f"Servable not found for request: Latest({name})"))
                return
            try:
                predictions = [value * factor for value in json.loads(body)["instances"]]
            except (ValueError, KeyError, TypeError):
                self.answer(400, error("JSON Parse error"))
            else:
                self.answer(200, json.dumps({"predictions": predictions}, indent=1) + "\n")

        def answer(self, status, text, kind="application/json"):
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    log(f"Exporting HTTP/REST API at:localhost:{port} ...")


def error(text):
    return json.dumps({"error": text}) + "\n"

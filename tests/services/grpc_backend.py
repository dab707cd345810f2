"""A serving engine as the router sees it: a real gRPC server that reports its name and calls."""

import contextlib
import json
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc

SERVICE = "/tensorflow.serving.PredictionService/"
_UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
]


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, name: str) -> None:
        self._name = name

    def service(self, call: Any) -> grpc.RpcMethodHandler | None:
        match call.method.removeprefix(SERVICE):
            case "Predict":
                return grpc.unary_unary_rpc_method_handler(self._predict)
            case "Echo":
                return grpc.unary_unary_rpc_method_handler(lambda request, _: request)
            case "Refuse":
                return grpc.unary_unary_rpc_method_handler(self._refuse)
            case "Count":
                return grpc.stream_unary_rpc_method_handler(
                    lambda parts, _: str(sum(map(len, parts))).encode()
                )
            case "Repeat":
                return grpc.unary_stream_rpc_method_handler(lambda request, _: iter([request] * 5))
            case "Converse":
                return grpc.stream_stream_rpc_method_handler(lambda parts, _: parts)
            case _:
                return None

    def _predict(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        ids = [value for key, value in context.invocation_metadata() if key == "model-id"]
        return json.dumps({"backend": self._name, "model_id": ids, "size": len(request)}).encode()

    def _refuse(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "backend says exhausted")


@contextlib.contextmanager
def grpc_backend(name: str, address: str) -> Iterator[None]:
    """A server called `name` on `address` (`host:port`)."""
    server = grpc.server(futures.ThreadPoolExecutor(16), options=_UNLIMITED)
    server.add_generic_rpc_handlers((_Methods(name),))
    server.add_insecure_port(address)
    server.start()
    try:
        yield
    finally:
        server.stop(grace=None).wait()


@contextlib.contextmanager
def grpc_channel(port: int) -> Iterator[grpc.Channel]:
    """A channel to a server on this loopback port, with a separate connection."""
    options = [*_UNLIMITED[:2], ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
        yield channel

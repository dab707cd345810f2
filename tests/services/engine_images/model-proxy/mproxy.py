#!/usr/bin/python3
"""Stands in for model_proxy, whose image is not public: what a bundle passes to it and expects.

It has one gRPC channel to the router, with grpcio's own settings, for as long as it runs. A channel
like that stays with an address that still answers, whoever answers there: the reason why no engine
may listen on the router's port.

    mproxy server --tf-serving-connection-string HOST:PORT -c SIGNATURE
        [--inference-engine-service-name-format FORMAT] [--target-bundle NAME]

HTTP 8000: `GET /api/v1/config`, `POST /api/v1/models/<id>/predict`. gRPC 8005: every unary call is
passed on with its `model-id`. `engine` of a model in the signature is its platform, and `name` the
name that the engine knows it by.
"""

import argparse
import json
import re
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import engines
import grpc
import yaml


def parsed():
    parser = argparse.ArgumentParser(prog="mproxy", allow_abbrev=False)
    server = parser.add_subparsers(required=True).add_parser("server", allow_abbrev=False)
    server.add_argument("--tf-serving-connection-string", required=True)
    server.add_argument("--inference-engine-service-name-format")
    server.add_argument("--target-bundle")
    server.add_argument("-c", dest="signature", required=True, type=Path)
    return parser.parse_args()


def main():
    arguments = parsed()
    models = (yaml.safe_load(arguments.signature.read_text()) or {}).get("models", {})
    channel = grpc.insecure_channel(arguments.tf_serving_connection_string)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            if self.path == "/api/v1/config":
                self.answer(200, {"models": models, "target_bundle": arguments.target_bundle})
            else:
                self.answer(404, {"error": "no such page"})

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = re.fullmatch(r"/api/v1/models/([^/]+)/predict", self.path)
            model = models.get(found[1]) if found else None
            if model is None:
                self.answer(404, {"error": "the signature has no such model"})
                return
            name = model.get("name", found[1])
            try:
                told = engines.ask(channel, model["engine"], name, model_id=found[1])
            except grpc.RpcError as error:
                self.answer(502, {"error": f"{error.code().name}: {error.details()}"})
            else:
                self.answer(200, vars(told))

        def answer(self, status, document):
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    class PassOn(grpc.GenericRpcHandler):
        def service(self, call):
            def pass_on(request, context):
                metadata = [
                    (key, value)
                    for key, value in context.invocation_metadata()
                    if key == "model-id"
                ]
                try:
                    return channel.unary_unary(call.method)(request, metadata=metadata, timeout=5)
                except grpc.RpcError as error:
                    context.abort(error.code(), error.details())

            return grpc.unary_unary_rpc_method_handler(pass_on)

    server = grpc.server(futures.ThreadPoolExecutor(16), handlers=(PassOn(),))
    server.add_insecure_port("0.0.0.0:8005")
    server.start()
    print("model_proxy (stand-in) at 8000 and 8005", flush=True)
    ThreadingHTTPServer(("", 8000), Handler).serve_forever()


main()

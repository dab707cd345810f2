"""The gate accepts everything that the renderer makes, and reports every planted fault with file
and line.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings

from renderers import gate
from renderers.bundle import Renderer
from renderers.composition import Composition, RenderDefaults
from renderers.errors import GateFailure
from renderers.template_set import Templates
from renderers.values import RenderedFile
from tests.builders import (
    GOLDEN_DEFAULTS,
    STAMP,
    composition_document,
    golden_composition,
    golden_document,
    make_composition,
    make_model,
)
from tests.strategies import compositions, render_defaults

COMPOSE = "base/bundle/docker-compose.yaml"
MAP = "base/bundle/nginx/models.map"
LIST = "base/model-serving/model-download/models.txt"
SIGNATURE = "base/bundle/proxy/bundle-signature.yaml"
ENV = "example/conf/bundle/.env"
BATCHING = "base/bundle/batching_105.txt"
STAMP_FILE = "base/.rebundle.json"

RESTARTED = make_model("109", serving={"update": "restart"})
MIXED = make_composition(8).with_model(RESTARTED)
DEFAULTS = RenderDefaults.model_validate(
    {**GOLDEN_DEFAULTS.model_dump(), "labels": {"team": "vision $1"}}
)


def render(
    composition: Composition = MIXED, defaults: RenderDefaults = DEFAULTS
) -> tuple[RenderedFile, ...]:
    return Renderer().render(composition, defaults, STAMP)


def with_file(bundle: tuple[RenderedFile, ...], path: str, body: bytes) -> tuple[RenderedFile, ...]:
    files = [
        RenderedFile(file.path, body, file.executable) if file.path == path else file
        for file in bundle
    ]
    return tuple(files)


def body_of(bundle: tuple[RenderedFile, ...], path: str) -> bytes:
    return next(file.body for file in bundle if file.path == path)


@given(compositions(), render_defaults())
@settings(max_examples=60)
def test_all_output_of_the_renderer_passes(composition, defaults):
    gate.check(composition, defaults, render(composition, defaults))


@pytest.mark.parametrize("models", [1, 5, 40, 200])
def test_mixed_bundles_pass(models):
    composition = make_composition(models)

    gate.check(composition, GOLDEN_DEFAULTS, render(composition, GOLDEN_DEFAULTS))


def test_the_golden_bundle_passes():
    gate.check(golden_composition(), GOLDEN_DEFAULTS, render(golden_composition(), GOLDEN_DEFAULTS))


@dataclass(frozen=True)
class Fault:
    path: str
    old: str
    new: str
    line_of: str | None = None
    """The failure names the first line with this text in the broken file; None: any line."""


FAULTS = {
    "image of a model": Fault(
        COMPOSE,
        "tensorflow-serving:2.19.1\n",
        "tensorflow-serving:2.19.2\n",
        "tensorflow-serving:2.19.2",
    ),
    "image of the router": Fault(COMPOSE, "nginx:1.28.0-alpine", "nginx:1.29.0", "nginx:1.29.0"),
    "image of model_proxy": Fault(COMPOSE, "model-proxy:1.0.0", "model-proxy:1", "model-proxy:1"),
    "mount of another model": Fault(
        COMPOSE,
        "/models/101:/models/101:ro",
        "/models/102:/models/101:ro",
        "/models/102:/models/101:ro",
    ),
    "mount that may be written": Fault(COMPOSE, "/models/101:ro", "/models/101", "/models/101\n"),
    "command": Fault(COMPOSE, "--model_name=101", "--model_name=102", "--model_name=102"),
    "an option switched on": Fault(
        COMPOSE, "      #- --enable_batching", "      - --enable_batching"
    ),
    "an option switched off": Fault(
        COMPOSE, "      - --enable_batching", "      #- --enable_batching"
    ),
    "environment": Fault(
        COMPOSE, "RCLONE_CONFIG: /dev/null", "RCLONE_CONFIG: /etc/x", "RCLONE_CONFIG"
    ),
    "a model's label": Fault(
        COMPOSE, 'bundle.model: "101"', 'bundle.model: "102"', 'bundle.model: "102"'
    ),
    "the digest of a model that a new container updates": Fault(
        COMPOSE, 'bundle.model-version: "', 'bundle.model-version: "0', "bundle.model-version"
    ),
    "polling of a model that a new container updates": Fault(
        COMPOSE, "      - --file_system_poll_wait_seconds=0\n", ""
    ),
    "no polling of a model that its engine updates": Fault(
        COMPOSE,
        "      - --model_base_path=/models/101\n",
        "      - --model_base_path=/models/101\n      - --file_system_poll_wait_seconds=0\n",
    ),
    "port of an engine": Fault(COMPOSE, "--port=9000", "--port=8500", "--port=8500"),
    "a first process that does not end its children": Fault(COMPOSE, "    init: true\n", ""),
    "a label of the defaults": Fault(COMPOSE, "vision $$1", "vision $1", "vision $1"),
    "a number for a text": Fault(
        COMPOSE, 'net.ipv4.tcp_tw_reuse: "1"', "net.ipv4.tcp_tw_reuse: 1", "net.ipv4"
    ),
    "a word of YAML for a text": Fault(COMPOSE, 'restart: "no"', "restart: no", "restart: no"),
    "a limit": Fault(COMPOSE, "_MEM_LIMIT:-4g}", "_MEM_LIMIT:-4m}", "_MEM_LIMIT:-4m}"),
    "a variable of another model": Fault(
        COMPOSE, "${SERVING_101_CPU_LIMIT", "${SERVING_102_CPU_LIMIT", "${SERVING_102_CPU_LIMIT"
    ),
    "no default for a variable": Fault(
        COMPOSE,
        "${SERVING_101_CPU_LIMIT:-0}",
        "${SERVING_101_CPU_LIMIT}",
        "${SERVING_101_CPU_LIMIT}",
    ),
    "gpu count": Fault(
        COMPOSE, "              count: 2\n", "              count: 3\n", "              count: 3"
    ),
    "gpu devices": Fault(
        COMPOSE, '                - "1"', '                - "2"', '                - "2"'
    ),
    "runtime": Fault(COMPOSE, "    runtime: nvidia\n", ""),
    "port": Fault(COMPOSE, ":-8000}:8000", ":-8000}:8001", ":-8000}:8001"),
    "a port of a model": Fault(
        COMPOSE, "    shm_size: 1g\n", "    shm_size: 1g\n    ports: ['1:1']\n", "ports: ['1:1']"
    ),
    "network": Fault(COMPOSE, "      - visual-anomaly\n", "      - host\n", "- host"),
    "networks": Fault(
        COMPOSE, "  visual-anomaly: {}", "  visual-anomaly: {external: true}", "external"
    ),
    "a shared volume": Fault(
        COMPOSE,
        "  visual-anomaly-nginx: {}",
        "  visual-anomaly-nginx: {external: true}",
        "external",
    ),
    "the router's folder": Fault(
        COMPOSE, "visual-anomaly-nginx:/router", "visual-anomaly-nginx:/routes", ":/routes"
    ),
    "a second top-level key": Fault(COMPOSE, "networks:\n", "volumes: {}\nnetworks:\n"),
    "a top-level key above the services": Fault(
        COMPOSE, "services:\n", "name: other\nservices:\n", "name: other"
    ),
    "a key of another kind": Fault("example/creds/bundle/gcs.json", "service_account", "string"),
    "healthcheck": Fault(COMPOSE, "/v1/models/101 ", "/v1/models/102 ", "/v1/models/102 "),
    "dependency": Fault(
        COMPOSE,
        "condition: service_completed_successfully",
        "condition: service_started",
        "condition: service_started",
    ),
    "a service between": Fault(
        COMPOSE, "\n  s102s:\n", "\n  extra:\n    image: x\n\n  s102s:\n", "  extra:"
    ),
    "a service missing": Fault(COMPOSE, "\n  s102s:\n", "\n  s102x:\n"),
    "a key twice": Fault(
        COMPOSE,
        "    restart: unless-stopped\n",
        "    restart: unless-stopped\n    restart: unless-stopped\n",
    ),
    "a document marker": Fault(
        COMPOSE, "    restart: unless-stopped\n", "    restart: unless-stopped\n---\n", "---"
    ),
    "an anchor": Fault(
        COMPOSE, "    restart: unless-stopped\n", "    restart: &a unless-stopped\n", "&a"
    ),
    "a tag": Fault(
        COMPOSE, "    restart: unless-stopped\n", "    restart: !!str unless-stopped\n", "!!str"
    ),
    "a tab": Fault(
        COMPOSE, "    restart: unless-stopped\n", "    restart:\tunless-stopped\n", "\t"
    ),
    "a blank at the end of a line": Fault(
        COMPOSE,
        "    restart: unless-stopped\n",
        "    restart: unless-stopped \n",
        "unless-stopped ",
    ),
    "an unclosed quote": Fault(
        COMPOSE, "    restart: unless-stopped\n", '    restart: "unless-stopped\n'
    ),
    "two empty lines between services": Fault(COMPOSE, "\n\n  s102s:\n", "\n\n\n  s102s:\n"),
    "no empty line between services": Fault(COMPOSE, "\n\n  s102s:\n", "\n  s102s:\n"),
    "a comment between services": Fault(
        COMPOSE, "\n  s102s:\n", "\n  # s102s\n  s102s:\n", "  # s102s"
    ),
    "service in the map": Fault(MAP, "101 s101s", "101 s102s", "101 s102s"),
    "port in the map": Fault(MAP, "s103s:8001", "s103s:9000", "s103s:9000"),
    "a model missing in the map": Fault(MAP, "102 s102s:9000;\n", ""),
    "a directive in the map": Fault(
        MAP, "102 s102s:9000;", "102 s102s:9000; include x;", "include x;"
    ),
    "version in the list": Fault(LIST, "102/2 ", "102/3 ", "102/3 "),
    "engine in the list": Fault(LIST, "tensorflow 102", "openvino 102", "openvino 102"),
    "name in the list": Fault(LIST, "tensorflow 102", "tensorflow 101", "102/2 tensorflow 101"),
    "update in the list": Fault(LIST, "102 in_place", "102 restart", "102 restart"),
    "time limit in the list": Fault(LIST, "102 in_place 120", "102 in_place 0", "in_place 0 "),
    "identity in the list": Fault(
        LIST, "102 in_place 120 ", "102 in_place 120 0", "102 in_place 120 0"
    ),
    "store in the list": Fault(
        LIST, "- gcs:example-bucket/models/102", "x gcs:example-bucket/models/102", " x gcs:"
    ),
    "no version in the list": Fault(LIST, "102/2 ", "102 ", "102 "),
    "source in the list": Fault(
        LIST, "gcs:example-bucket/models/102", "gcs:example-bucket/models/101/../102"
    ),
    "storage in the list": Fault(
        LIST, "s3:example-bucket", "gcs:example-bucket", "gcs:example-bucket/models/103"
    ),
    "an option in the list": Fault(
        LIST, "gcs:example-bucket/models/102/2", "gcs:example-bucket/models/102/2 --x", "--x"
    ),
    "a value in the env file": Fault(
        ENV, "SERVING_101_CPU_LIMIT=\n", "SERVING_101_CPU_LIMIT=2\n", "SERVING_101_CPU_LIMIT=2"
    ),
    "a variable missing in the env file": Fault(ENV, "SERVING_102_MEM_LIMIT=\n", ""),
    "a noted default": Fault(
        ENV, "CPU_LIMIT 2, MEM_LIMIT 4g", "CPU_LIMIT 2, MEM_LIMIT 5g", "MEM_LIMIT 5g"
    ),
    "a command in the env file": Fault(
        ENV, "SERVING_101_CPU_LIMIT=\n", "SERVING_101_CPU_LIMIT=\nREL_DIR=$(pwd)\n"
    ),
    "a port in the env file": Fault(ENV, "HTTP_PORT=8000", "HTTP_PORT=80", "HTTP_PORT=80"),
    "a batching parameter": Fault(BATCHING, "value: 64", "value: 65", "value: 65"),
    "a batching parameter more": Fault(
        BATCHING, "max_batch_size", "num_batch_threads { value: 1 }\nmax_batch_size"
    ),
    "what is no batching parameter": Fault(
        BATCHING, "max_batch_size { value: 64 }", "max_batch_size: 64", "max_batch_size: 64"
    ),
    "signature": Fault(SIGNATURE, "dtype: uint8", "dtype: uint9", "dtype: uint9"),
    "a text in the signature that is a number": Fault(SIGNATURE, '"101":', "101:", "  101:"),
    "composition digest": Fault(STAMP_FILE, '"composition":"', '"composition":"0'),
    "stamp with blanks": Fault(STAMP_FILE, ",", ", "),
    "stamp of another scope": Fault(STAMP_FILE, "visual-anomaly/", "other/"),
    "stamp without a state": Fault(STAMP_FILE, '"state":"state-1"', '"state":""'),
    "stamp that is no JSON": Fault(STAMP_FILE, "{", "["),
    "stamp of an older schema": Fault(STAMP_FILE, '"schema":2', '"schema":1'),
    "stamp with a fraction": Fault(STAMP_FILE, '"schema":2', '"schema":2.0'),
    "stamp with another digest of the content": Fault(STAMP_FILE, '"content":"', '"content":"0'),
    "stamp with another model": Fault(STAMP_FILE, '"model":"101"', '"model":"102"'),
    "stamp with another platform": Fault(
        STAMP_FILE,
        '"model":"101","platform":"tensorflow"',
        '"model":"101","platform":"triton"',
    ),
    "stamp with another number of GPUs": Fault(STAMP_FILE, '"count":2', '"count":3'),
    "stamp with a name of its own": Fault(STAMP_FILE, '"model":"101"', '"model":"101","name":"x"'),
    "stamp without a service": Fault(
        STAMP_FILE,
        ',"s102s":{"gpu":{"count":"all"},"model":"102","platform":"tensorflow"}',
        "",
    ),
    "stamp with a service more": Fault(STAMP_FILE, '},"state"', ',"s1s":{}},"state"'),
    "stamp with another key": Fault(STAMP_FILE, '"state-1"', '"state-1","x":1'),
    "include": Fault(
        "example/docker-compose.yaml", "../base/bundle", "./base/bundle", "./base/bundle"
    ),
    "guard of REL_DIR": Fault("example/docker-compose.yaml", "${REL_DIR:?set", "${REL_DIR:-set"),
    "REL_DIR": Fault("example/.env", "REL_DIR=", "REL_DIR=."),
    "a secret among the defaults": Fault(
        "example/creds/bundle/.env", "SECRET_ACCESS_KEY=", "SECRET_ACCESS_KEY=x"
    ),
    "nginx.conf without the map": Fault(
        "example/conf/bundle/nginx.conf", "include /etc/nginx/bundle/models.map;", ""
    ),
    "the script's shell": Fault(
        "base/model-serving/model-download/download.sh", "#!/bin/sh", "#!/bin/bash"
    ),
    "the script": Fault(
        "base/model-serving/model-download/download.sh", "set -u", "set -eu", "set -eu"
    ),
    "the router's script": Fault("base/bundle/nginx/router.sh", "set -u", "set -eu", "set -eu"),
    "the script that updates": Fault("base/update.sh", "set -u", "set -eu", "set -eu"),
    "the script that calls the one that updates": Fault(
        "example/update.sh", "../base/update.sh", "./update.sh", "./update.sh"
    ),
    "a directive in nginx.conf": Fault(
        "example/conf/bundle/nginx.conf",
        "client_max_body_size 0;",
        "client_max_body_size 1m;",
        "client_max_body_size",
    ),
    "monitoring": Fault(
        "base/bundle/monitoring.txt", "enable: true", "enable: false", "enable: false"
    ),
    "a placeholder of batching that no engine reads": Fault(
        "example/conf/bundle/batching_101.txt", "{ value: 32 }", "{ value: <int_val> }", "<int_val>"
    ),
    "a comment in the env file's head": Fault(
        ENV, "# Where model_proxy", "# Who model_proxy", "# Who"
    ),
    "a comment in the compose file's head": Fault(
        COMPOSE, "# Generated", "# Degenerated", "# Degenerated"
    ),
    "an option of another model": Fault(
        COMPOSE, "conf/bundle/batching_101.txt", "conf/bundle/batching_102.txt", "batching_102.txt"
    ),
    "an option without its hash": Fault(
        COMPOSE, "      #- --grpc_max_threads=<int_val>\n", "      - --grpc_max_threads=16\n"
    ),
    "an option missing": Fault(COMPOSE, "      #- --grpc_max_threads=<int_val>\n", ""),
    "an option more": Fault(
        COMPOSE,
        "      #- --grpc_max_threads",
        "      #- --rm\n      #- --grpc_max_threads",
        "      #- --rm",
    ),
    "a target of another bundle among the options": Fault(
        COMPOSE, "      #- core-versions", "      #- other", "      #- other"
    ),
    "title of the README": Fault(
        "README.md", "# visual-anomaly bundle", "# visual bundle", "# visual"
    ),
    "registries in the README": Fault("README.md", "registry.example.com", "registry.example.org"),
    "an option that the README does not have": Fault(
        "README.md", ">     #- --grpc_max_threads=<int_val>\n", ""
    ),
    "an option that only the README has": Fault(
        "README.md", "#- --grpc_max_threads", "#- --grpc_min_threads"
    ),
    "a word of the README": Fault("README.md", "three services", "four services", "four services"),
    "a heading of the README": Fault(
        "README.md", "### model_proxy <div", "### model_proxy2 <div", "model_proxy2"
    ),
    "the bundle's name in the README": Fault(
        "README.md", "### visual-anomaly-nginx", "### other-nginx", "### other-nginx"
    ),
    "the end of the README": Fault(
        "README.md", "restart s<model_id>s`.\n", "restart s<model_id>s`.\nand more\n", "and more"
    ),
    "credentials in the README": Fault("README.md", '"project_id": "string"', '"project_id": "x"'),
    "a key of a listing in the README": Fault(
        "README.md", "      - --model_name=<model_id>", "      - --model_name=1"
    ),
    "an option in green that is another": Fault(
        "README.md",
        ">     #- ./monitoring.txt:/etc/monitoring.txt",
        ">     #- ./monitoring.txt:/etc/m.txt",
        "m.txt",
    ),
    "an option of the proxy for another target in the README": Fault(
        "README.md", ">     #- core-versions", ">     #- other-versions", "other-versions"
    ),
    "an option further in": Fault(
        COMPOSE,
        "      #- --grpc_max_threads",
        "        #- --grpc_max_threads",
        "#- --grpc_max_threads",
    ),
    "an option below another key": Fault(
        COMPOSE,
        "      #- ./monitoring.txt:/etc/monitoring.txt\n    command:\n",
        "    command:\n      #- ./monitoring.txt:/etc/monitoring.txt\n",
        "#- ./monitoring.txt",
    ),
    "an option of another target": Fault(
        COMPOSE, "      #- core-versions", "      #- others", "#- others"
    ),
    "a comment between the options": Fault(
        COMPOSE, "      #- --target-bundle\n", "      #- --target-bundle\n      # x\n", "# x"
    ),
    "a line of the header": Fault(
        COMPOSE, "edits made here", "edits are made here", "edits are made here"
    ),
    "a comment in the env file": Fault(
        ENV, "# s102s in the bundle", "# s101s in the bundle", "# s101s in the bundle"
    ),
    "a line more in the env file": Fault(
        ENV,
        "SERVING_102_CPU_LIMIT=\n",
        "SERVING_102_CPU_LIMIT=\nSERVING_102_X=\n",
        "SERVING_102_X=",
    ),
    "no empty line in the env file": Fault(ENV, "\n\n# s102s in", "\n# s102s in"),
    "something behind the map": Fault(
        MAP, "109 s109s:9000;\n", "109 s109s:9000;\n110 s110s:8001;\n", "110"
    ),
    "the service in a batching file's comment": Fault(BATCHING, "s105s", "s104s", "s104s"),
    "a placeholder of a batching file": Fault(
        "example/conf/bundle/batching_101.txt", "{ value: 32 }", "{ value: 33 }", "{ value: 33 }"
    ),
    "a status of the router": Fault(
        "example/conf/bundle/nginx.conf",
        "add_header grpc-status 5",
        "add_header grpc-status 0",
        "grpc-status 0",
    ),
    "a control character in the README": Fault(
        "README.md", "## Introduction", "## Intro\x07duction", "\x07"
    ),
    "a file among the models": Fault("base/model-serving/model-download/models/.gitkeep", "", "x"),
}


MESSAGES = json.loads((Path(__file__).parents[3] / "data" / "gate_messages.json").read_text())
"""The message for each fault and contradiction: file and line, expected and found value."""


@pytest.mark.parametrize(("name", "fault"), FAULTS.items(), ids=FAULTS)
def test_a_planted_fault_fails(name, fault):
    bundle = render()
    gate.check(MIXED, DEFAULTS, bundle)
    body = body_of(bundle, fault.path).decode()
    assert fault.old in body
    broken = body.replace(fault.old, fault.new, 1)

    with pytest.raises(GateFailure) as failure:
        gate.check(MIXED, DEFAULTS, with_file(bundle, fault.path, broken.encode()))

    assert failure.value.file == fault.path
    assert str(failure.value).startswith(MESSAGES[name])
    if fault.line_of is not None:
        assert fault.line_of in broken.splitlines(keepends=True)[failure.value.line - 1]


@pytest.mark.parametrize("path", [file.path for file in render()])
def test_a_missing_file_fails(path):
    bundle = render()
    without = tuple(file for file in bundle if file.path != path)

    with pytest.raises(GateFailure, match="expected this file, found none"):
        gate.check(MIXED, DEFAULTS, without)


def test_an_extra_file_fails():
    bundle = render()

    with pytest.raises(GateFailure) as failure:
        gate.check(MIXED, DEFAULTS, (*bundle, RenderedFile("base/x", b"")))

    assert failure.value.file == "base/x"


def test_a_duplicate_file_fails():
    bundle = render()

    with pytest.raises(GateFailure, match="each path once"):
        gate.check(MIXED, DEFAULTS, (*bundle, bundle[0]))


def test_a_script_that_is_not_executable_fails():
    bundle = render()
    files = tuple(RenderedFile(file.path, file.body) for file in bundle)

    with pytest.raises(GateFailure, match="0755 for scripts alone"):
        gate.check(MIXED, DEFAULTS, files)


def test_bytes_that_are_not_text_fail_with_their_line():
    bundle = render()
    body = body_of(bundle, MAP).replace(b"102 s102s", b"102 \xff")

    with pytest.raises(GateFailure, match="UTF-8") as failure:
        gate.check(MIXED, DEFAULTS, with_file(bundle, MAP, body))

    assert failure.value.line == 2


def test_a_bundle_of_another_composition_fails():
    with pytest.raises(GateFailure):
        gate.check(MIXED.with_model(make_model("101", version="9")), DEFAULTS, render())


def test_a_bundle_under_other_defaults_fails():
    with pytest.raises(GateFailure):
        gate.check(MIXED, GOLDEN_DEFAULTS, render())


def test_a_verdict_is_not_reused_for_another_model_with_the_same_text():
    """A text that is right for one composition is checked again for another."""
    document = golden_document()
    bundle = render(Composition.model_validate(document), GOLDEN_DEFAULTS)
    gate.check(Composition.model_validate(document), GOLDEN_DEFAULTS, bundle)
    document["models"][0]["serving"]["image"] = "registry.example.com/other:1"

    with pytest.raises(GateFailure, match="other:1"):
        gate.check(Composition.model_validate(document), GOLDEN_DEFAULTS, bundle)


def test_the_order_of_models_in_a_document_is_irrelevant():
    document = composition_document(4)
    document["models"].reverse()
    composition = Composition.model_validate(document)

    gate.check(composition, GOLDEN_DEFAULTS, render(composition, GOLDEN_DEFAULTS))


def render_with(name: str, text: str) -> tuple[tuple[RenderedFile, ...], frozenset[str]]:
    templates = Templates.built_in().overridden_by({name: text})
    return Renderer().render(MIXED, DEFAULTS, STAMP, templates), templates.overridden


def with_change(name: str, old: str, new: str) -> tuple[tuple[RenderedFile, ...], frozenset[str]]:
    text = Templates.built_in().text(name)
    assert old in text
    return render_with(name, text.replace(old, new, 1))


COMMAND = "      - --enable_model_warmup\n"
BASE_PATH = "_path=/models/<engine_name>\n"
MOUNT = "    volumes:\n"
ADDITIONS = {
    "a logging driver": (
        "tensorflow.yaml",
        "    networks:\n",
        "    logging:\n      driver: journald\n    networks:\n",
    ),
    "a flag": (
        "tensorflow.yaml",
        COMMAND,
        COMMAND + "      - --tensorflow_session_parallelism=2\n",
    ),
    "a flag with its value": (
        "proxy.yaml",
        "      - -c\n",
        "      - --log-level\n      - debug\n      - -c\n",
    ),
    "a mount": ("tensorflow.yaml", MOUNT, MOUNT + "      - ./x:/etc/x:ro\n"),
    "ports": ("tensorflow.yaml", "    networks:\n", "    ports:\n      - 1:1\n    networks:\n"),
    "an environment": (
        "router.yaml",
        "    networks:\n",
        "    environment:\n      A: b\n    networks:\n",
    ),
    "a variable": (
        "model_download.yaml",
        "      RCLONE_CONFIG:",
        "      RCLONE_BWLIMIT: 1M\n      RCLONE_CONFIG:",
    ),
    "a label": ("labels.yaml", "{% for", '      "team.of": "x"\n{% for'),
    "a comment": ("triton.yaml", "    shm_size", "    # for the python backend\n    shm_size"),
    "options of a network": ("networks.yaml", "<network>: {}", "<network>:\n    internal: false"),
    "a variable of the host": ("conf.env", "MODEL_PROXY_HTTP", "OTHER=1\nMODEL_PROXY_HTTP"),
    "a variable of the deployment": ("deployment.env", "REL_DIR=", "OTHER=1\nREL_DIR="),
    "a service of the deployment": (
        "deployment.yaml",
        "include:",
        "services:\n  ours:\n    image: ours:1\ninclude:",
    ),
    "a comment on monitoring": ("monitoring.txt", "prometheus_config", "# ours\nprometheus_config"),
    "a variable of each model": (
        "serving.env",
        "SERVING_{{ variable | env_name }}_MEM",
        "X_{{ variable }}=\nSERVING_{{ variable | env_name }}_MEM",
    ),
    "a key of the credentials": (
        "creds.env",
        "RCLONE_S3_REGION=",
        "RCLONE_S3_ACL=private\nRCLONE_S3_REGION=",
    ),
    "a limit of the router": (
        "nginx.conf",
        "client_max_body_size 0;",
        "client_max_body_size 100m;",
    ),
    "a line of the script": ("download.sh", "set -u\n", "set -u\necho hello\n"),
    "a line of the router's script": ("router.sh", "set -u\n", "set -u\necho hello\n"),
    "a line of the script that updates": ("update.sh", "set -u\n", "set -u\necho hello\n"),
    "a line of the script that calls it": ("deployment_update.sh", "cd ", "umask 077\ncd "),
    "options of a volume": (
        "networks.yaml",
        "<bundle>-nginx: {}",
        "<bundle>-nginx:\n    labels:\n      a: b",
    ),
    "a chapter of the README": ("README.md", "## Introduction", "## Ours\n## Introduction"),
    "a comment on batching": ("batching_on.txt", "# How", "# Ask the platform team.\n# How"),
    "other places for batching": ("batching_placeholder.txt", "{ value: 32 }", "{ value: 64 }"),
    "a comment above": ("header.yaml", "services:", "# ours\nservices:"),
}


@pytest.mark.parametrize(("name", "old", "new"), ADDITIONS.values(), ids=ADDITIONS)
def test_a_custom_template_may_add_content(name, old, new):
    bundle, overridden = with_change(name, old, new)

    gate.check(MIXED, DEFAULTS, bundle, overridden)
    with pytest.raises(GateFailure):
        gate.check(MIXED, DEFAULTS, bundle)


CONTRADICTIONS = {
    "a flag again": ("tensorflow.yaml", COMMAND, COMMAND + "      - --model_name=other\n"),
    "a flag again behind": (
        "tensorflow.yaml",
        BASE_PATH,
        BASE_PATH + "      - --model_name=other\n",
    ),
    "another port behind that of an engine": (
        "tensorflow.yaml",
        "      - --port=9000\n",
        "      - --port=9000\n      - --port=8500\n",
    ),
    "a flag between another and its value": (
        "proxy.yaml",
        "      - -c\n",
        "      - -c\n      - --debug\n",
    ),
    "a flag with a value again": (
        "proxy.yaml",
        "      - -c\n",
        "      - -c\n      - /etc/other.yaml\n      - -c\n",
    ),
    "another mount on the models": (
        "tensorflow.yaml",
        MOUNT,
        MOUNT + "      - ./x:/models/<model_id>\n",
    ),
    "another mount from a variable": (
        "tensorflow.yaml",
        MOUNT,
        MOUNT + '      - "${X:-/a}:/models/<model_id>/"\n',
    ),
    "another mount in the long form": (
        "model_download.yaml",
        MOUNT,
        MOUNT + "      - type: bind\n        source: /x\n        target: /models\n",
    ),
    "another device": (
        "resources.yaml",
        "              count: {{ gpu }}\n",
        "              count: {{ gpu }}\n            - capabilities: [gpu]\n              count: 7\n",
    ),
    "a word in the probe": ("router.yaml", "        - CMD\n", "        - CMD\n        - echo\n"),
    "no image": ("triton.yaml", "    image: <image>\n", ""),
    "a flag less": ("triton.yaml", "      - --load-model=<engine_name>\n", ""),
    "flags in another order": (
        "proxy.yaml",
        "      - mproxy\n      - server\n",
        "      - server\n      - mproxy\n      - x\n",
    ),
    "a volume for another": ("networks.yaml", "<bundle>-nginx: {}", "other: {}"),
    "a network for another": ("networks.yaml", "<network>: {}", "other: {}"),
    "a top-level key above": ("header.yaml", "services:", "name: x\nservices:"),
    "a value for a limit": ("serving.env", "_MEM_LIMIT=", "_MEM_LIMIT=1g"),
    "another port of a model": ("models.map", "{{ port }}", "1"),
    "another folder of a model": ("models.txt", "{{ folder | shell_word }}", "x"),
    "another update of a model": ("models.txt", "{{ update | shell_word }}", "restart"),
    "another identity of a model": ("models.txt", "{{ identity | shell_word }}", "x"),
    "another parameter of batching": ("batching_on.txt", "{{ value }}", "1"),
    "no place for batching": (
        "batching_placeholder.txt",
        "max_batch_size { value: 32 }",
        "max_batch: 1",
    ),
    "no guard of REL_DIR": (
        "deployment.yaml",
        "${REL_DIR:?set it in .env to the full path of this directory}",
        ".",
    ),
    "a path in REL_DIR": ("deployment.env", "REL_DIR=", "REL_DIR=/x"),
    "another port on the host": ("conf.env", "HTTP_PORT=8000", "HTTP_PORT=80"),
    "a control character": ("monitoring.txt", "enable: true", "enable: true\x07"),
    "a secret": ("creds.env", "SECRET_ACCESS_KEY=", "SECRET_ACCESS_KEY=x"),
    "another kind of key": ("gcs.json", "service_account", "authorized_user"),
    "another shell": ("download.sh", "#!/bin/sh", "#!/bin/bash"),
    "another shell of the router": ("router.sh", "#!/bin/sh", "#!/bin/bash"),
    "another shell that updates": ("update.sh", "#!/bin/sh", "#!/bin/bash"),
    "another shell that calls the one that updates": (
        "deployment_update.sh",
        "#!/bin/sh",
        "#!/bin/bash",
    ),
    "no map in the router": ("nginx.conf", "        include /etc/nginx/bundle/models.map;\n", ""),
    "a map for nothing": ("nginx.conf", "grpc_pass grpc://$serving_backend;", "return 404;"),
    "no port of the router": ("nginx.conf", "listen 8500 http2;", "listen 8501 http2;"),
    "no resolver": ("nginx.conf", "resolver 127.0.0.11 ipv6=off valid=1s;", ""),
    "a brace that is open": ("nginx.conf", "events {", "events { x {"),
}


@pytest.mark.parametrize(("name", "change"), CONTRADICTIONS.items(), ids=CONTRADICTIONS)
def test_a_custom_template_may_not_contradict_the_composition(name, change):
    bundle, overridden = with_change(*change)

    with pytest.raises(GateFailure) as failure:
        gate.check(MIXED, DEFAULTS, bundle, overridden)

    assert str(failure.value).startswith(MESSAGES[name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: (*files, files[0]), ":1: expected each path once, found a path twice"),
        (
            lambda files: (*files, RenderedFile("base/x", b"", False)),
            "base/x:1: expected no such file, found one",
        ),
        (lambda files: files[1:], "README.md:1: expected this file, found none"),
        (
            lambda files: tuple(RenderedFile(file.path, file.body, True) for file in files),
            "README.md:1: expected 0755 for scripts alone, found 0755",
        ),
    ],
    ids=["twice", "unknown", "missing", "mode"],
)
def test_paths_and_modes_that_do_not_match_are_named(change, message):
    with pytest.raises(GateFailure) as failure:
        gate.check(MIXED, DEFAULTS, change(render()))
    assert str(failure.value) == message


def test_every_message_belongs_to_a_fault():
    assert MESSAGES.keys() == FAULTS.keys() | CONTRADICTIONS.keys()


def test_every_template_overridden_by_the_built_in_text_passes():
    """A custom template may write the same meaning with another text."""
    overridden = frozenset(Templates.built_in().names)

    gate.check(MIXED, DEFAULTS, render(), overridden)


def test_a_batching_file_without_any_parameter_is_refused():
    bundle, overridden = render_with("batching_placeholder.txt", "# Ask the platform team.\n")

    with pytest.raises(GateFailure, match="batching parameters that hold the places"):
        gate.check(MIXED, DEFAULTS, bundle, overridden)

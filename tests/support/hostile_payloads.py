"""Hostile texts, each special to a tool or a reader of a bundle, and the places where such text
comes in.

A payload is a fragment, alone and inside other text: a text that is refused alone may be accepted
inside another one. At each place, a payload gives a composition and render defaults, or the errors
that an operator would see.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

from pydantic import ValidationError

from daemon.changes import StateCreated, received
from events.errors import InvalidEvent
from events.model import BUNDLE_STATE_CREATED, Event
from renderers.composition import Composition, RenderDefaults
from tests.builders import composition_document

FRAGMENTS: Mapping[str, tuple[str, ...]] = {
    "line ends": ("\n", "\r", "\r\n", "\x85", "\u2028", "\u2029", "\x0b", "\x0c", "\n\n", "\n  evil:\n    image: x", "\n;"),
    "controls": ("\x00", "\x01", "\x07", "\x08", "\x1b[31m", "\x7f", "\x9b", "\ufeff", "\ufffe", "\U000e0001"),
    "directions": ("\u202e", "\u202d", "\u2066", "\u2069", "\u200f", "\u061c", "\u200b", "\u200d", "\u00ad", "\u2060"),
    "look-alikes": ("\u0430", "\u0435", "\u2170", "\uff11", "\uff21", "\uff41", "\u2024", "\uff0f", "\uff1a", "\ufe69", "\u00df", "\u0130", "\u0131", "\u017f", "K"),
    "compose": ("$", "$$", "$A", "${A}", "${A:-b}", "${A:?b}", "${A:+b}", "${", "$}", "${A:-${B}}", "$(id)", "`id`", "${REL_DIR}"),
    "templates": ("{{", "}}", "{{ 1 }}", "{% if 1 %}", "{# x #}", "{{ self }}", "{{ cycler }}", "<image>", "<model_id>", "<x>", "%s", "%(a)s"),
    "yaml": ("- a", "-", ": ", ":", " #", "#", "? a", "&a", "*a", "!a", "!!python/object:os.system", "|", ">", "%YAML 1.1", "---", "...", "[a]", "{a: b}", "'", '"', "''", "\\", "\\n", "@a", "<<", "=", "\t", ",", "~"),
    "yaml words": ("on", "off", "yes", "no", "y", "n", "null", "true", "False", "NULL", ".inf", "-.inf", ".nan", "0x1f", "0o7", "0b1", "1e3", "1_000", "12:30:45", "2026-01-01", "1.0", "007", "+1", "-1", "0"),
    "nginx": (";", "{", "}", "; return 200;", "} server {", "include /etc/passwd;", "$http_host", "default", "include", "hostnames", "volatile", "~.*", "~*a", "\\default", "*.a", "'a b'"),
    "shell": (" ", "  ", "*", "?", "[a-z]", "~root", "&", "&&", "||", "|", ">", "<", "a b", "-rf", "--config=/x", "!", "!!", "(id)", "\\ ", "$'\\n'", "$IFS", "#!", "$((1))"),
    "paths": ("..", "../", "../../etc/passwd", "/etc/passwd", "./", "//", "/", "a/../b", "%2e%2e%2f", "%00", "..\\", "C:\\", "file:///etc/passwd", "~/x"),
    "remotes": (":http,url='http://x':", "s3:", "gs://", "s3://", "http://x/y", "gs://b", "gs://b/", "s3://b/k?x=1", "s3://b/k#f", "s3://u:p@b/k", "gs://b/a//b", ":local:/etc", "s3://b/k,provider=x"),
    "images": ("a:b:c", "a@sha256:0", "UPPER/a", "a/", "/a", "a//b", "a:", "a:-b", "@sha256:" + "0" * 64, "localhost:99999/a", "[::1]/a", "a.b/c", "registry.example.com/a:1\n"),
    "prose": ("<script>alert(1)</script>", "<!--", "[a](javascript:b)", "![a](http://x)", "**a**", "# a", "```", "|a|", "&lt;", "* a", "> a", "_a_"),
    "env files": ("A=b", "export A=b", "=", "a=b\nB=c", "A='b", 'A="b', "#A=b"),
    "protobuf text": ("value: 1", "} max_batch_size { value: 1", "<>", "# x", "[a.b]: 1"),
    "unicode": ("é", "日本", "😀", "e\u0301", "\u0378", "\ue000", "\U0010ffff", "\u3164", "\u00a0", "\u2003"),
    "size": ("a" * 62, "a" * 64, "a" * 129, "a" * 256, "a" * 600, "a" * 2000, "-" * 40, "9" * 400, ""),
}  # fmt: skip
"""By the tool that would misread them."""


def payloads() -> list[str]:
    """Every fragment: alone, and before, after and within other text."""
    fragments = dict.fromkeys(fragment for family in FRAGMENTS.values() for fragment in family)
    forms = (lambda it: it, lambda it: f"a{it}", lambda it: f"{it}a", lambda it: f"a{it}b")
    return list(dict.fromkeys(form(fragment) for fragment in fragments for form in forms))


class Refused(Exception):
    """The errors that an operator or a sender gets."""

    def __init__(self, *problems: tuple[str, str]) -> None:
        """Pairs of place and message."""
        super().__init__(problems)
        self.problems = problems


Put = Callable[[str], tuple[Composition, RenderDefaults]]


def _in_event(change: Callable[[dict[str, Any], str], None]) -> Put:
    def put(text: str) -> tuple[Composition, RenderDefaults]:
        data = deepcopy(_DATA)
        change(data, text)
        try:
            interpreted = received(
                Event(id="e", source="s", type=BUNDLE_STATE_CREATED, data=data)
            ).change
        except InvalidEvent as error:
            raise Refused(
                *((problem.path, problem.expected) for problem in error.problems)
            ) from error
        assert isinstance(interpreted, StateCreated)
        return interpreted.composition, _DEFAULTS

    return put


def _in_defaults(document: Callable[[str], dict[str, Any]]) -> Put:
    def put(text: str) -> tuple[Composition, RenderDefaults]:
        try:
            return _COMPOSITION, RenderDefaults.model_validate(document(text))
        except ValidationError as error:
            found = error.errors(include_url=False)
            raise Refused(
                *((".".join(map(str, item["loc"])), item["msg"]) for item in found)
            ) from error

    return put


def _model(*way: str) -> Callable[[dict[str, Any], Any], None]:
    def change(data: dict[str, Any], text: Any) -> None:
        at = data["models"][0]
        for name in way[:-1]:
            at = at.setdefault(name, {})
        at[way[-1]] = text

    return change


def _gpu(data: dict[str, Any], text: str) -> None:
    data["models"][0]["serving"]["gpu"] = {"device_ids": [text]}


def _parameter(data: dict[str, Any], text: str) -> None:
    data["models"][0]["serving"]["batching"] = {"parameters": {text: 1}}


def _archive(form: str) -> Callable[[dict[str, Any], str], None]:
    def change(data: dict[str, Any], text: str) -> None:
        data["models"][0]["artifact"] = {
            "uri": form.format(text),
            "digest": f"sha256:{'a' * 64}",
        }

    return change


def _pool_name(data: dict[str, Any], text: str) -> None:
    data["models"][0]["serving"]["batching"] = {"parameters": {"thread_pool_name": text}}


def _signature(value: Callable[[str], Any]) -> Callable[[dict[str, Any], str], None]:
    def change(data: dict[str, Any], text: str) -> None:
        data["proxy"]["signature"] = {"document": {"a": value(text)}}

    return change


def _under(*way: str) -> Callable[[dict[str, Any], str], None]:
    def change(data: dict[str, Any], text: str) -> None:
        at = data
        for name in way[:-1]:
            at = at[name]
        at[way[-1]] = text

    return change


_DATA: dict[str, Any] = composition_document(2) | {"state": {"id": "state-1", "revision": 1}}
_COMPOSITION = Composition.model_validate(composition_document(2))
_DEFAULTS = RenderDefaults()

PLACES: Mapping[str, tuple[str, Put]] = {
    "model id": ("$.data.models[0].id", _in_event(_model("id"))),
    "version": ("$.data.models[0].version", _in_event(_model("version"))),
    "name": ("$.data.models[0].name", _in_event(_model("name"))),
    "artifact uri": ("$.data.models[0].artifact.uri", _in_event(_model("artifact", "uri"))),
    "bucket": (
        "$.data.models[0].artifact.uri",
        _in_event(lambda data, text: _model("artifact", "uri")(data, f"gs://{text}/key")),
    ),
    "key": (
        "$.data.models[0].artifact.uri",
        _in_event(lambda data, text: _model("artifact", "uri")(data, f"s3://bucket/{text}")),
    ),
    "container": (
        "$.data.models[0].artifact.uri",
        _in_event(lambda data, text: _model("artifact", "uri")(data, f"az://{text}/key")),
    ),
    "path on the host": (
        "$.data.models[0].artifact.uri",
        _in_event(lambda data, text: _model("artifact", "uri")(data, f"file:///{text}")),
    ),
    "server": ("$.data.models[0].artifact", _in_event(_archive("https://{}/a.tar"))),
    "archive": ("$.data.models[0].artifact", _in_event(_archive("https://a.b/{}.tar"))),
    "store": ("$.data.models[0].artifact", _in_event(_model("artifact", "store"))),
    "artifact digest": (
        "$.data.models[0].artifact.digest",
        _in_event(_model("artifact", "digest")),
    ),
    "platform": ("$.data.models[0].serving.platform", _in_event(_model("serving", "platform"))),
    "serving image": ("$.data.models[0].serving.image", _in_event(_model("serving", "image"))),
    "image tag": (
        "$.data.models[0].serving.image",
        _in_event(
            lambda data, text: _model("serving", "image")(data, f"registry.example.com/a:{text}")
        ),
    ),
    "cpus": (
        "$.data.models[0].serving.resources",
        _in_event(_model("serving", "resources", "limits", "cpus")),
    ),
    "memory": (
        "$.data.models[0].serving.resources",
        _in_event(_model("serving", "resources", "limits", "memory")),
    ),
    "device": ("$.data.models[0].serving.gpu", _in_event(_gpu)),
    "driver of a device": (
        "$.data.models[0].serving.gpu",
        _in_event(
            lambda data, text: _model("serving", "gpu")(
                data,
                {"device_ids": [text], "driver": "cdi"},
            )
        ),
    ),
    "share of memory": (
        "$.data.models[0].serving.gpu",
        _in_event(
            lambda data, text: _model("serving", "gpu")(data, {"count": 1, "memory_fraction": text})
        ),
    ),
    "engine name": (
        "$.data.models[0].serving.engine_name",
        _in_event(_model("serving", "engine_name")),
    ),
    "variable": (
        "$.data.models[0].serving.environment",
        _in_event(lambda data, text: _model("serving", "environment")(data, {text: "x"})),
    ),
    "value of a variable": (
        "$.data.models[0].serving.environment",
        _in_event(_model("serving", "environment", "A")),
    ),
    "argument": (
        "$.data.models[0].serving.arguments",
        _in_event(lambda data, text: _model("serving", "arguments")(data, [text])),
    ),
    "value of an argument": (
        "$.data.models[0].serving.arguments",
        _in_event(lambda data, text: _model("serving", "arguments")(data, [f"--x={text}"])),
    ),
    "shared memory": (
        "$.data.models[0].serving.shm_size",
        _in_event(_model("serving", "shm_size")),
    ),
    "start period": (
        "$.data.models[0].serving.start_period",
        _in_event(_model("serving", "start_period")),
    ),
    "loaded model": (
        "$.data.models[0].serving.repository",
        _in_event(
            lambda data, text: data["models"][0].update(
                serving={
                    "platform": "triton",
                    "image": "a:1",
                    "repository": {"models": [text]},
                }
            )
        ),
    ),
    "batching parameter": ("$.data.models[0].serving.batching", _in_event(_parameter)),
    "thread pool": ("$.data.models[0].serving.batching", _in_event(_pool_name)),
    "bundle": ("$.data.bundle.name", _in_event(_under("bundle", "name"))),
    "target": ("$.data.bundle.target", _in_event(_under("bundle", "target"))),
    "proxy image": ("$.data.proxy.image", _in_event(_under("proxy", "image"))),
    "state id": ("$.data.state.id", _in_event(_under("state", "id"))),
    "signature text": (
        "$.data.proxy.signature",
        _in_event(_signature(lambda text: [text, {"b": text}])),
    ),
    "signature key": ("$.data.proxy.signature", _in_event(_signature(lambda text: {text: 1}))),
    "download image": ("download_image", _in_defaults(lambda text: {"download_image": text})),
    "router image": ("router_image", _in_defaults(lambda text: {"router_image": text})),
    "label key": ("labels", _in_defaults(lambda text: {"labels": {text: "x"}})),
    "label value": ("labels", _in_defaults(lambda text: {"labels": {"x": text}})),
    "registry": (
        "registries",
        _in_defaults(lambda text: {"registries": {text: "mirror.example.com"}}),
    ),
    "mirror": ("registries", _in_defaults(lambda text: {"registries": {"docker.io": text}})),
    "restart": ("restart", _in_defaults(lambda text: {"restart": text})),
}
"""Where text comes in: the path in the error, and a function that puts the text there."""

"""The rendered router: real nginx between real gRPC clients and backends.

Changed for the test: where nginx listens, writes and resolves names. Everything else is the
rendered text.
"""

import contextlib
import http.client
import json
import random
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from uuid import UUID

import grpc
import pytest

from renderers.composition import Composition
from tests.builders import golden_composition, make_composition, make_model
from tests.services.docker_dns import docker_dns
from tests.services.grpc_backend import SERVICE, grpc_backend, grpc_channel
from tests.services.nginx import Nginx
from tests.services.processes import LOOPBACK, free_port
from tests.support.target_host import DeployedBundle

GOLDEN = golden_composition()
# nginx reads these ids as keywords unless they are escaped.
WORDS = ("default", "include", "hostnames", "volatile")
_LIMIT_SECONDS = 30


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    """`text` with the first of each pair replaced.

    A pair that does not occur is an error of the test.
    """
    for old, new in pairs:
        assert old in text, f"the rendered nginx.conf has no {old!r}"
        text = text.replace(old, new)
    return text


def for_this_machine(text: str, folder: Path, maps: Path, port: int, health_port: int) -> str:
    """An nginx.conf whose nginx writes to `folder` only, reads its map in `maps`, and needs no
    privilege.
    """
    # Only root may write to the paths that Debian compiled in.
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/temporary;\n" for kind in kinds)
    return replaced(
        text,
        ("listen 8500", f"listen {LOOPBACK}:{port}"),
        ("127.0.0.1:8080", f"{LOOPBACK}:{health_port}"),
        ("/etc/nginx/bundle/", f"{maps}/"),
        ("/tmp/nginx.pid", f"{folder}/nginx.pid"),
        ("/dev/stderr", f"{folder}/error.log"),
        ("/dev/stdout", f"{folder}/access.log"),
        ("http {", f"http {{\n{temporary}"),
    )


def lay_out(bundle: DeployedBundle, port: int, health_port: int, dns_port: int) -> Path:
    """nginx.conf of the deployment directory, for this machine."""
    conf, maps = bundle.folder / "nginx.conf", bundle.folder / "base/bundle/nginx"
    text = (bundle.directory / "conf/bundle/nginx.conf").read_text()
    own = for_this_machine(text, bundle.folder, maps, port, health_port)
    conf.write_text(replaced(own, ("resolver 127.0.0.11 ", f"resolver {LOOPBACK}:{dns_port} ")))
    return conf


def with_long_ids(models: int) -> Composition:
    """Ids that collide in a small hash, like UUIDs and the longest ones."""
    basis = make_composition(1)
    ids = (
        str(UUID(int=random.Random(index).getrandbits(128))) + "x" * (index % 2 * 25)
        for index in range(models)
    )
    named = [make_model(f"m{model_id}"[:61].rstrip("-")) for model_id in ids]
    return Composition(bundle=basis.bundle, models=tuple(named), proxy=basis.proxy)


@pytest.mark.parametrize(
    "composition",
    [
        GOLDEN,
        *map(make_composition, (1, 5, 40, 200, 500, 2000)),
        make_composition(1).with_model(make_model("m" * 61)),
        with_long_ids(500),
    ],
    ids=["golden", "1", "5", "40", "200", "500", "2000", "longest id", "500 long ids"],
)
def test_nginx_accepts_the_configuration_without_a_warning(
    nginx: Nginx, tmp_path: Path, composition: Composition
) -> None:
    bundle = DeployedBundle.install(composition, tmp_path)

    assert nginx.check(lay_out(bundle, free_port(), free_port(), 53)) == ""


@dataclass
class Router:
    """A running router, its backends' network and a channel to it."""

    port: int
    health_port: int
    conf: Path
    bundle: DeployedBundle
    nginx: Nginx
    zone: dict[str, str]
    network: str
    channel: grpc.Channel

    @contextlib.contextmanager
    def backend(
        self, model_id: str, host: int, *, port: int = 9000, name: str | None = None
    ) -> Iterator[None]:
        """The engine of a model, as container number `host` of the bundle's network."""
        address = f"{self.network}.{host}"
        self.zone[f"s{model_id}s"] = address
        with grpc_backend(name or f"engine of {model_id}", f"{address}:{port}"):
            yield

    def call(
        self,
        model_id: str | None,
        request: bytes = b"x",
        method: str = "Predict",
        *more: tuple[str, str],
    ) -> bytes:
        """The answer to a unary call. Raises grpc.RpcError."""
        return self.channel.unary_unary(SERVICE + method)(
            request, metadata=[*self.metadata(model_id), *more], timeout=_LIMIT_SECONDS
        )

    def status(
        self,
        model_id: str | None,
        request: bytes = b"x",
        method: str = "Predict",
        *more: tuple[str, str],
    ) -> str:
        """The name of the gRPC status of a unary call."""
        try:
            self.call(model_id, request, method, *more)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"

    def backend_of(self, model_id: str) -> str:
        """Which backend answers a call for this model."""
        return json.loads(self.call(model_id))["backend"]

    @staticmethod
    def metadata(model_id: str | None) -> list[tuple[str, str]]:
        return [] if model_id is None else [("model-id", model_id)]


@contextlib.contextmanager
def running(nginx: Nginx, folder: Path, composition: Composition) -> Iterator[Router]:
    # The rendered map has the engines' own ports, so the backends need addresses with these ports
    # free.
    network = f"127.{random.randint(16, 254)}.{random.randint(0, 254)}"
    bundle = DeployedBundle.install(composition, folder)
    port, health_port, zone = free_port(), free_port(), {}
    with docker_dns(zone) as dns_port:
        conf = lay_out(bundle, port, health_port, dns_port)
        with nginx.serving(conf, port), grpc_channel(port) as channel:
            yield Router(port, health_port, conf, bundle, nginx, zone, network, channel)


@pytest.fixture(scope="module")
def routed(nginx: Nginx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    """The golden bundle with its three engines up, one whose engine is down, and some that have no
    container yet.
    """
    composition = GOLDEN
    for model_id in ("absent", "down", *WORDS):
        composition = composition.with_model(make_model(model_id))
    composition = composition.with_model(make_model("ov", platform="openvino"))
    with (
        running(nginx, tmp_path_factory.mktemp("router"), composition) as router,
        contextlib.ExitStack() as engines,
    ):
        for model_id, host, port in (
            ("101", 1, 9000),
            ("102", 2, 9000),
            ("103", 3, 8001),
            ("ov", 4, 9000),
        ):
            engines.enter_context(router.backend(model_id, host, port=port))
        router.zone["sdowns"] = f"{router.network}.9"
        yield router


@pytest.mark.parametrize("model_id", ["101", "102", "103", "ov"])
def test_a_call_reaches_the_engine_of_its_model_with_its_metadata(
    routed: Router, model_id: str
) -> None:
    answer = json.loads(routed.call(model_id))

    assert answer == {"backend": f"engine of {model_id}", "model_id": [model_id], "size": 1}


@pytest.mark.parametrize(
    ("model_id", "more", "status"),
    [
        pytest.param("999", [], "NOT_FOUND", id="unknown id"),
        pytest.param("s101s:9000", [], "NOT_FOUND", id="a host is no id"),
        pytest.param(None, [], "INVALID_ARGUMENT", id="no id"),
        pytest.param("", [], "INVALID_ARGUMENT", id="empty id"),
        # nginx before 1.23 uses the first, later ones join both with a comma. Neither may reach
        # another engine.
        pytest.param("999", [("model-id", "101")], "NOT_FOUND", id="a second id is not tried"),
        pytest.param(
            None, [("model_id", "101")], "INVALID_ARGUMENT", id="an underscore is another name"
        ),
        pytest.param("absent", [], "UNAVAILABLE", id="no container yet"),
        pytest.param("down", [], "UNAVAILABLE", id="engine down"),
        # An id that nginx read as a setting would be unknown, without a warning.
        *(
            pytest.param(word, [], "UNAVAILABLE", id=f"an id that is nginx's word {word}")
            for word in WORDS
        ),
    ],
)
def test_an_unroutable_call_gets_its_specific_grpc_status(
    routed: Router, model_id: str | None, more: list[tuple[str, str]], status: str
) -> None:
    assert routed.status(model_id, b"x", "Predict", *more) == status


def test_an_error_of_the_engine_passes_through_untouched(routed: Router) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        routed.call("101", method="Refuse")

    assert (raised.value.code().name, raised.value.details()) == (
        "RESOURCE_EXHAUSTED",
        "backend says exhausted",
    )


def test_the_log_has_the_status_of_answers_and_of_refusals(routed: Router) -> None:
    routed.call("101", method="Echo")
    routed.status("101", method="Refuse")
    routed.status("999", method="Echo")

    def logged() -> set[tuple[str, ...]]:
        log = (routed.bundle.folder / "access.log").read_text()
        return set(re.findall(r'/(Echo|Refuse)" model-id=(\S+) .* grpc-status=(\S+) ', log))

    expected = {("Echo", "101", "0"), ("Refuse", "101", "8"), ("Echo", "999", "5")}
    # nginx writes a line when the answer is sent.
    assert eventually(lambda: logged() >= expected), logged()


def test_a_hundred_megabytes_go_there_and_back_unchanged(routed: Router) -> None:
    message = random.Random(1).randbytes(100 << 20)

    assert routed.call("102", message, "Echo") == message


def test_a_hundred_megabytes_for_an_unknown_model_leave_the_channel_usable(routed: Router) -> None:
    assert routed.status("999", bytes(100 << 20)) == "NOT_FOUND"
    assert routed.backend_of("101") == "engine of 101"


def test_streams_of_every_kind_arrive_whole(routed: Router) -> None:
    metadata, parts = routed.metadata("102"), [bytes([index]) * 100_000 for index in range(20)]
    limits = {"metadata": metadata, "timeout": _LIMIT_SECONDS}

    counted = routed.channel.stream_unary(f"{SERVICE}Count")(iter(parts), **limits)
    repeated = list(routed.channel.unary_stream(f"{SERVICE}Repeat")(b"again", **limits))
    conversed = list(routed.channel.stream_stream(f"{SERVICE}Converse")(iter(parts), **limits))

    assert (counted, repeated, conversed) == (b"2000000", [b"again"] * 5, parts)


def test_a_bidirectional_stream_is_not_buffered(routed: Router) -> None:
    answered = Event()

    def questions() -> Iterator[bytes]:
        yield b"first"
        # The second request is sent only after the first answer, so a buffering router would never
        # get there.
        assert answered.wait(_LIMIT_SECONDS)
        yield b"second"

    call = routed.channel.stream_stream(f"{SERVICE}Converse")(
        questions(), metadata=routed.metadata("101"), timeout=_LIMIT_SECONDS
    )
    assert next(call) == b"first"
    answered.set()
    assert list(call) == [b"second"]


def test_many_calls_at_once_on_one_channel_all_succeed(routed: Router) -> None:
    calls = [
        routed.channel.unary_unary(f"{SERVICE}Predict").future(
            b"x", metadata=routed.metadata(str(101 + index % 3)), timeout=_LIMIT_SECONDS
        )
        for index in range(400)
    ]

    assert [call.exception() for call in calls] == [None] * 400


def test_the_health_check_answers_in_http_1(routed: Router) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, routed.health_port, timeout=_LIMIT_SECONDS)
    with contextlib.closing(connection):
        connection.request("GET", "/healthz")
        answer = connection.getresponse()

        assert (answer.status, answer.read()) == (200, b"ok\n")


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true within the limit."""
    pause, end = Event(), time.monotonic() + _LIMIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            return False
        pause.wait(0.1)
    return True


def test_an_engine_that_returns_at_another_address_is_found(nginx: Nginx, tmp_path: Path) -> None:
    with running(nginx, tmp_path, GOLDEN) as router:
        with router.backend("101", 1, name="before"):
            assert router.backend_of("101") == "before"
        assert router.status("101") == "UNAVAILABLE"
        with router.backend("101", 77, name="moved"):
            assert eventually(lambda: router.status("101") == "OK")
            assert router.backend_of("101") == "moved"


def test_a_reload_under_load_adds_a_model_and_loses_no_call(nginx: Nginx, tmp_path: Path) -> None:
    with (
        running(nginx, tmp_path, GOLDEN) as router,
        router.backend("101", 1),
        router.backend("202", 2),
    ):
        assert router.status("202") == "NOT_FOUND"
        ended = Event()

        def load() -> list[str]:
            statuses = []
            with grpc_channel(router.port) as channel:
                client = Router(**{**vars(router), "channel": channel})
                # A slow machine ends later, with the same number of calls.
                while not ended.is_set() or len(statuses) < 60:
                    statuses.append(client.status("101"))
            return statuses

        def new_model_is_served() -> bool:
            with grpc_channel(router.port) as channel:
                return Router(**{**vars(router), "channel": channel}).status("202") == "OK"

        with ThreadPoolExecutor(2) as clients:
            under_load = [clients.submit(load) for _ in range(2)]
            try:
                router.bundle.replace_base(GOLDEN.with_model(make_model("202")))
                nginx.reload(router.conf)
                assert eventually(new_model_is_served)
            finally:
                ended.set()
        statuses = [status for client in under_load for status in client.result()]

    assert set(statuses) == {"OK"}
    assert len(statuses) > 100

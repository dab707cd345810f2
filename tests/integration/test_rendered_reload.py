"""The rendered router.sh: it starts real nginx, and applies changes of the map and of nginx.conf to
it while calls go on.

Its folders are those of a test instead of those of a container. nginx gets the path of its
configuration from a wrapper, because Debian compiled in a path that belongs to root.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from typing import Any

import grpc
import pytest

from renderers.composition import Composition
from tests.builders import make_composition, make_model
from tests.integration.test_rendered_router import Router, eventually, for_this_machine, replaced
from tests.services.availability import Unavailable
from tests.services.docker_dns import docker_dns
from tests.services.grpc_backend import SERVICE, grpc_channel
from tests.services.nginx import Nginx
from tests.services.processes import LOOPBACK, free_port, listens, serving
from tests.support.target_host import DeployedBundle

_LIMIT_SECONDS = 30
_PENDING_SECONDS = 3
"""How long a command is observed that has to wait; it would end within two seconds."""
FORMER_CONF = Path(__file__).parents[1] / "data/renderer-1/example/conf/bundle/nginx.conf"
"""nginx.conf as the release without router.sh rendered it; operators keep theirs."""
RESOLVER = "resolver 127.0.0.11 ipv6=off valid=1s;"
UNKNOWN = "the bundle has no model with this model-id"
BASIS = make_composition(1)


def of_models(*ids: str, **platforms: str) -> Composition:
    """A bundle of plain models, by id; `m1="triton"` is the model 1 on Triton."""
    models = [make_model(model_id) for model_id in ids]
    models += [make_model(name.strip("m"), platform=kind) for name, kind in platforms.items()]
    return Composition(bundle=BASIS.bundle, models=tuple(models), proxy=BASIS.proxy)


@dataclass
class RouterHost:
    """A container of the router: its mounts, its volume and its own files, below one folder."""

    nginx: Nginx
    shell: tuple[str, ...]
    folder: Path
    network: str
    port: int = field(default_factory=free_port)
    health_port: int = field(default_factory=free_port)
    zone: dict[str, str] = field(default_factory=dict)
    dns_port: int = 0

    @property
    def conf(self) -> Path:
        """conf/bundle/nginx.conf of the deployment directory."""
        return self.folder / "deployment/nginx.conf"

    @property
    def volume(self) -> Path:
        return self.folder / "volume"

    @property
    def effective_conf(self) -> Path:
        """The file that nginx reads."""
        return self.folder / "nginx/nginx.conf"

    @property
    def alive(self) -> Path:
        return self.folder / "watching"

    @property
    def log(self) -> str:
        return (self.folder / "router.log").read_text()

    def install(self, composition: Composition) -> None:
        """Base of a bundle, and an empty volume."""
        self.bundle = DeployedBundle.install(composition, self.folder / "a host")
        for made in (self.volume, self.conf.parent, self.effective_conf.parent):
            made.mkdir()
        self.resolve_with("127.0.0.11")
        self.configure((self.bundle.directory / "conf/bundle/nginx.conf").read_text())
        wrapper = self.folder / "programs/nginx"
        wrapper.parent.mkdir()
        wrapper.write_text(
            "#!/bin/sh\n"
            f'case " $* " in *" -c "*) ;; *) set -- -c "{self.effective_conf}" "$@" ;; esac\n'
            f'exec "{self.nginx.binary}" -p "{self.folder}" -e stderr "$@"\n'
        )
        wrapper.chmod(0o755)

    def resolve_with(self, *nameservers: str) -> None:
        lines = ["search example.com", *(f"nameserver {address}" for address in nameservers)]
        (self.folder / "resolv.conf").write_text("\n".join([*lines, "options ndots:0", ""]))

    def configure(self, text: str, *changes: tuple[str, str]) -> None:
        """Write an nginx.conf with these changes, for this machine, as an operator does."""
        own = for_this_machine(text, self.folder, self.volume, self.port, self.health_port)
        # The DNS of the test is at the address that router.sh replaces, but at another port.
        self.conf.write_text(
            replaced(own, ("127.0.0.11 ", f"127.0.0.11:{self.dns_port} "), *changes)
        )

    def change(self, *changes: tuple[str, str]) -> None:
        """Edit the nginx.conf that there is."""
        self.conf.write_text(replaced(self.conf.read_text(), *changes))

    def publish(self, composition: Composition) -> None:
        """Replace the map in the volume, as model_download does."""
        self.bundle.replace_base(composition)
        new = self.volume / "models.new"
        new.write_bytes((self.bundle.folder / "base/bundle/nginx/models.map").read_bytes())
        new.rename(self.volume / "models")

    @contextlib.contextmanager
    def running(self) -> Iterator[Router]:
        """The router, once it listens. Raises Unavailable with the end of its log."""
        log = self.folder / "router.log"
        self.alive.unlink(missing_ok=True)
        with serving(self.command(), self.port, log, self.environment) as process:
            # The test of a configuration listens for a moment, too.
            assert eventually(lambda: self.alive.exists() and listens(self.port))
            self.process = process
            with grpc_channel(self.port) as channel:
                yield self.client(channel)

    def client(self, channel: grpc.Channel) -> Router:
        return Router(
            self.port,
            self.health_port,
            self.conf,
            self.bundle,
            self.nginx,
            self.zone,
            self.network,
            channel,
        )

    @contextlib.contextmanager
    def new_client(self) -> Iterator[Router]:
        """A client with a new connection, so it reaches no former worker."""
        with grpc_channel(self.port) as channel:
            yield self.client(channel)

    def backend_of(self, model_id: str) -> str:
        """What answers a call over a new connection: the name of a backend, or a status."""
        with self.new_client() as client:
            try:
                return client.backend_of(model_id)
            except grpc.RpcError as error:
                return str(error.code().name)

    def answers(self, model_id: str, wanted: str) -> bool:
        return eventually(lambda: self.backend_of(model_id) == wanted)

    def command(self, *arguments: str) -> list[str]:
        script = self.bundle.folder / "base/bundle/nginx/router.sh"
        return [*self.shell, str(script), *arguments]

    @property
    def environment(self) -> Mapping[str, str]:
        return {
            "PATH": f"{self.folder}/programs:{os.environ['PATH']}",
            "DEPLOYMENT": str(self.conf.parent),
            "BUNDLE": str(self.volume),
            "NGINX": str(self.effective_conf.parent),
            "NAMESERVERS": str(self.folder / "resolv.conf"),
            "ALIVE": str(self.alive),
        }

    def call_script(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command in the running container."""
        return subprocess.Popen(self.command(*arguments), env=self.environment)

    def done(self, *arguments: str) -> int:
        return self.call_script(*arguments).wait(_LIMIT_SECONDS)

    @contextlib.contextmanager
    def calls(self, model_id: str, clients: int = 2) -> Iterator[list[str]]:
        """Calls one after the other on each of some channels, until the end of the context. The
        statuses are complete then.
        """
        ended = Event()
        statuses: list[str] = []

        def load() -> list[str]:
            made: list[str] = []
            with self.new_client() as client:
                # A slow machine ends later, with the same number of calls.
                while not ended.is_set() or len(made) < 50:
                    made.append(client.status(model_id))
            return made

        with ThreadPoolExecutor(clients) as pool:
            loads = [pool.submit(load) for _ in range(clients)]
            try:
                yield statuses
            finally:
                ended.set()
        for each in loads:
            statuses += each.result()


@pytest.fixture
def host(nginx: Nginx, shell: tuple[str, ...], tmp_path: Path) -> Iterator[RouterHost]:
    """A router whose DNS answers at 127.0.0.1 instead of 127.0.0.11, and no map yet."""
    # The rendered map has the engines' own ports, so the backends need addresses with these ports
    # free. The process has its own: no two tests of a machine share them.
    network = f"127.{16 + os.getpid() % 200}.{os.getpid() // 200 % 250}"
    host = RouterHost(nginx, shell, tmp_path, network)
    with docker_dns(host.zone) as dns_port:
        host.dns_port = dns_port
        host.install(of_models("1"))
        host.resolve_with(LOOPBACK, "192.0.2.1")
        yield host


@contextlib.contextmanager
def pending_call(client: Router, model_id: str) -> Iterator[Callable[[], list[bytes]]]:
    """A call that its engine has begun to answer; the value ends it and gives its answers."""
    parts: SimpleQueue[bytes | None] = SimpleQueue()
    call: Any = client.channel.stream_stream(f"{SERVICE}Converse")(
        iter(parts.get, None), metadata=client.metadata(model_id), timeout=_LIMIT_SECONDS
    )
    parts.put(b"first")
    answers = [next(call)]

    def finish() -> list[bytes]:
        parts.put(b"last")
        parts.put(None)
        answers.extend(call)
        return answers

    try:
        yield finish
    finally:
        parts.put(None)
        call.cancel()


def test_without_a_map_no_model_is_known_until_the_map_is_there(host: RouterHost) -> None:
    with host.running() as router, router.backend("1", 1):
        assert router.status("1") == "NOT_FOUND"

        host.publish(of_models("1"))

        assert host.answers("1", "engine of 1")


def test_a_changed_map_sends_calls_elsewhere_and_loses_none(host: RouterHost) -> None:
    host.publish(of_models("1"))
    with host.running() as router, router.backend("1", 1, name="tensorflow"):
        assert router.backend_of("1") == "tensorflow"
        with router.backend("1", 1, port=8001, name="triton"), host.calls("1") as statuses:
            host.publish(of_models("2", m1="triton"))

            # A former worker accepts connections for a moment after the new ones do.
            assert host.answers("1", "triton")
            assert host.answers("2", "UNAVAILABLE")

    assert set(statuses) == {"OK"}
    assert len(statuses) >= 100


def test_an_edited_nginx_conf_is_applied_and_no_call_is_lost(host: RouterHost) -> None:
    host.publish(of_models("1"))
    with host.running() as router, router.backend("1", 1), host.calls("1") as statuses:
        assert details(host, "2") == UNKNOWN

        host.change((UNKNOWN, "ask the platform team"))

        assert eventually(lambda: details(host, "2") == "ask the platform team")
    assert set(statuses) == {"OK"}


def details(host: RouterHost, model_id: str) -> str:
    """The message of the error of a call over a new connection."""
    with host.new_client() as client, pytest.raises(grpc.RpcError) as raised:
        client.call(model_id)
    return str(raised.value.details())


def test_a_refused_nginx_conf_is_logged_and_the_accepted_one_stays_with_changes_of_the_map(
    host: RouterHost,
) -> None:
    host.publish(of_models("1"))
    with host.running() as router, router.backend("1", 1), router.backend("2", 2):
        host.change(("client_max_body_size 0;", "client_max_body_size;"), (UNKNOWN, "too early"))

        assert eventually(lambda: "conf/bundle/nginx.conf is refused" in host.log)
        assert 'invalid number of arguments in "client_max_body_size"' in host.log
        assert host.backend_of("1") == "engine of 1"
        host.publish(of_models("1", "2"))
        assert host.answers("2", "engine of 2")
        assert details(host, "3") == UNKNOWN
        host.change(("client_max_body_size;", "client_max_body_size 0;"))
        assert eventually(lambda: details(host, "3") == "too early")


def test_a_new_container_uses_the_accepted_nginx_conf_while_the_other_is_refused(
    host: RouterHost,
) -> None:
    host.publish(of_models("1"))
    with host.running():
        pass
    for path in host.effective_conf.parent.iterdir():
        path.unlink()
    host.change(("events {", "evens {"))

    with host.running() as router, router.backend("1", 1):
        assert "conf/bundle/nginx.conf is refused; the last accepted one is used" in host.log
        assert router.backend_of("1") == "engine of 1"


def test_the_first_start_with_a_refused_nginx_conf_fails_with_the_reason(host: RouterHost) -> None:
    # The image has an nginx.conf of its own there.
    host.effective_conf.write_text(host.conf.read_text())
    (host.volume / "models.map").touch()
    host.change(("events {", "evens {"))

    with pytest.raises(Unavailable), host.running():
        pass

    assert 'unknown directive "evens"' in host.log
    assert "conf/bundle/nginx.conf is refused: correct it" in host.log


def test_a_new_container_applies_what_has_changed_meanwhile(host: RouterHost) -> None:
    host.publish(of_models("1"))
    with host.running():
        pass
    host.publish(of_models("2"))
    host.change((UNKNOWN, "ask the platform team"))

    with host.running() as router, router.backend("2", 2):
        assert router.backend_of("2") == "engine of 2"
        assert details(host, "1") == "ask the platform team"


@pytest.mark.parametrize(
    ("nameservers", "address"),
    [
        (["10.89.0.1", "192.0.2.7"], "10.89.0.1"),
        (["fd00::53"], "[fd00::53]"),
        (["fe80::1%eth0", "10.89.0.1"], "10.89.0.1"),
        (["127.0.0.11"], "127.0.0.11"),
        ([], "127.0.0.11"),
    ],
    ids=["IPv4", "IPv6", "IPv6 with a zone", "Docker", "none"],
)
def test_dockers_dns_is_replaced_in_the_copy_that_nginx_reads_and_nowhere_else(
    host: RouterHost, nameservers: list[str], address: str
) -> None:
    host.resolve_with(*nameservers)
    untouched = "# resolver 127.0.0.11;\n        resolver 127.0.0.110;\n        "
    conf = replaced(
        host.conf.read_text(),
        (f"127.0.0.11:{host.dns_port} ", "127.0.0.11 "),
        ("location = /healthz", f"{untouched}location = /healthz"),
    )
    host.conf.write_text(conf)

    with host.running():
        pass

    assert host.conf.read_text() == conf
    assert (host.volume / "accepted.conf").read_text() == conf
    assert host.effective_conf.read_text() == conf.replace(
        RESOLVER, f"resolver {address} ipv6=off valid=1s;"
    )


@pytest.fixture
def pinnable(host: RouterHost) -> Iterator[Router]:
    """A router with the models 1, 11 and 101, and another container of each."""
    host.publish(of_models("1", "11", "101"))
    with host.running() as router, contextlib.ExitStack() as engines:
        for number, model_id in enumerate(("1", "11", "101"), 1):
            engines.enter_context(router.backend(model_id, number))
        engines.enter_context(router.backend("11", 9, port=8500, name="the other 11"))
        router.zone |= {"s11s": f"{router.network}.2", "site-s11s-2": f"{router.network}.9"}
        yield router


def test_a_pinned_service_is_replaced_by_its_container_at_once_until_it_is_unpinned(
    host: RouterHost, pinnable: Router
) -> None:
    def backends() -> list[str]:
        return [host.backend_of(model_id) for model_id in ("1", "11", "101")]

    own = ["engine of 1", "engine of 11", "engine of 101"]
    assert backends() == own
    with host.calls("11") as statuses:
        assert host.done("pin", "s11s", "site-s11s-2:8500") == 0
        assert backends() == ["engine of 1", "the other 11", "engine of 101"]
        assert host.done("unpin", "s11s") == 0
        assert backends() == own
    assert set(statuses) == {"OK"}


def test_a_pin_stays_when_the_map_changes(host: RouterHost, pinnable: Router) -> None:
    assert host.done("pin", "s11s", "site-s11s-2:8500") == 0

    host.publish(of_models("1", "11", "101", "2"))

    assert host.answers("2", "UNAVAILABLE")
    assert host.backend_of("11") == "the other 11"


def test_a_pin_waits_for_the_calls_of_former_workers(host: RouterHost, pinnable: Router) -> None:
    with host.new_client() as client, pending_call(client, "11") as finish:
        pin = host.call_script("pin", "s11s", "site-s11s-2:8500")
        assert host.answers("11", "the other 11")
        with pytest.raises(subprocess.TimeoutExpired):
            pin.wait(_PENDING_SECONDS)

        assert finish() == [b"first", b"last"]
        assert pin.wait(_LIMIT_SECONDS) == 0


def test_a_pending_call_ends_although_the_router_has_reloaded(host: RouterHost) -> None:
    host.publish(of_models("1"))
    with (
        host.running() as router,
        router.backend("1", 1),
        router.backend("2", 2),
        pending_call(router, "1") as finish,
    ):
        host.publish(of_models("2"))
        assert host.answers("2", "engine of 2")
        assert host.answers("1", "NOT_FOUND")

        assert finish() == [b"first", b"last"]


def test_the_stop_of_a_container_lets_pending_calls_end(host: RouterHost) -> None:
    host.publish(of_models("1"))
    with (
        host.running() as router,
        router.backend("1", 1),
        pending_call(router, "1") as finish,
    ):
        # The signal that the images of nginx name for a stop; it goes to the first process only.
        host.process.send_signal(signal.SIGQUIT)
        assert eventually(lambda: not listens(host.port))

        assert finish() == [b"first", b"last"]
        assert host.process.wait(_LIMIT_SECONDS) == 0


def test_an_nginx_conf_of_the_release_before_works_unchanged(host: RouterHost) -> None:
    host.configure(FORMER_CONF.read_text())
    host.publish(of_models("1"))
    with host.running() as router, router.backend("1", 1), router.backend("2", 2):
        assert router.backend_of("1") == "engine of 1"
        with host.calls("1") as statuses:
            host.publish(of_models("1", "2"))
            assert host.answers("2", "engine of 2")
    assert set(statuses) == {"OK"}


def test_the_watcher_shows_that_it_works(host: RouterHost) -> None:
    """The health check is negative if the file is old: nginx works on without the watcher."""
    with host.running():
        assert eventually(host.alive.exists)
        os.utime(host.alive, (0, 0))

        assert eventually(lambda: host.alive.stat().st_mtime > 0)


def test_a_pin_that_nginx_refuses_fails_and_calls_go_where_they_went(
    host: RouterHost, pinnable: Router
) -> None:
    """update.sh stops a container only if the pin of the other one is in effect."""
    assert host.done("pin", "s11s", "not an address") != 0

    assert host.backend_of("11") == "engine of 11"

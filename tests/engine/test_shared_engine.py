"""The engine of the tests itself: runs share it, and it ends with the last of them, killed or not.

Each test has an engine of its own, with an empty folder: the shared one must not end.
"""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import engine as engine_service
from tests.services.availability import Unavailable
from tests.services.engine import Engine, EngineFailed
from tests.services.images import Images
from tests.support.engine_host import eventually

PROJECT = Path(__file__).parents[2]
USER = """
import sys
from pathlib import Path
from tests.services import engine
engine.CACHE = Path(sys.argv[1])
with engine.engine() as found:
    print(found.host, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of another engine, with a space and longer than the path of a socket may be."""
    if not engine.own:
        pytest.skip("the environment names an engine, so none is started")
    folder = tmp_path / "a folder with a long name" / ("x" * 120)
    folder.mkdir(parents=True)
    monkeypatch.setattr(engine_service, "CACHE", folder)
    return folder


@contextlib.contextmanager
def user(folder: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another test run that uses the engine of a folder, and the engine's socket."""
    with subprocess.Popen(
        [sys.executable, "-c", USER, folder],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        host = process.stdout.readline().strip()
        try:
            yield process, Path(host.removeprefix("unix://"))
        finally:
            process.kill()


def end(process: subprocess.Popen[str]) -> None:
    process.communicate(timeout=60)


def link(socket: Path) -> Path:
    """This machine's end of the link to an engine."""
    return Path("/sys/class/net") / f"rb{socket.parent.name[-8:]}"


def test_runs_share_an_engine_which_ends_with_the_last_of_them(folder: Path) -> None:
    with user(folder) as (first, socket), user(folder) as (second, same):
        assert same == socket
        assert link(socket).exists()
        end(first)
        with engine_service.engine() as third:
            container = third.run("info", "--format", "{{.Name}}")
            end(second)
            assert third.run("info", "--format", "{{.Name}}") == container

    eventually(lambda: not socket.exists())
    eventually(lambda: not link(socket).exists())


def test_a_killed_run_leaves_no_engine_and_the_next_run_starts_one(folder: Path) -> None:
    with user(folder) as (run, socket):
        run.send_signal(signal.SIGKILL)
    eventually(lambda: not socket.exists())
    eventually(lambda: not link(socket).exists())

    with engine_service.engine() as started:
        started.run("network", "create", "left-behind")


def test_a_killed_engine_is_replaced_and_what_it_had_is_removed(folder: Path) -> None:
    with engine_service.engine() as first:
        first.run("network", "create", "left-behind")
        engine_service.cut_power()
        eventually(lambda: _fails(first))

    with engine_service.engine() as second:
        assert second.host == first.host
        assert "left-behind" not in second.run("network", "ls")


def _fails(engine: Engine) -> bool:
    try:
        engine.run("version")
    except EngineFailed:
        return True
    return False


def test_containers_reach_no_network_but_this_machine(engine: Engine, images: Images) -> None:
    if not engine.own:
        pytest.skip("the environment names an engine")
    engine.run("run", "--rm", images.busybox, "ping", "-c", "1", "-W", "5", engine.address)
    wget = ("run", "--rm", images.busybox, "wget", "-T", "5", "-O", "-")

    with pytest.raises(EngineFailed, match="Network is unreachable"):
        engine.run(*wget, "http://192.0.2.1/")
    with pytest.raises(EngineFailed, match="bad address"):
        engine.run(*wget, "http://a.example/")


def test_a_variable_that_names_no_engine_is_a_reason_not_to_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("REBUNDLE_DOCKER_HOST", f"unix://{tmp_path}/absent.sock")

    with pytest.raises(Unavailable, match="REBUNDLE_DOCKER_HOST"), engine_service.engine():
        pass


def test_an_engine_that_the_environment_names_is_used_and_goes_on(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///absent.sock")
    monkeypatch.setenv("REBUNDLE_DOCKER_HOST", engine.host)
    with engine_service.engine() as named:
        assert (named.host, named.own) == (engine.host, False)
        # Where containers and the engine's host see each other.
        assert named.address.startswith("172.")

    engine.run("version")

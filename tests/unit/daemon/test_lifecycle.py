"""The lifecycle of the process, with real threads, sockets and processes."""

import asyncio
import contextvars
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from datetime import UTC
from pathlib import Path

import pytest

from daemon.lifecycle import ServiceManager, Stop, SystemRuntime

PROGRAM = textwrap.dedent(
    """
    import asyncio, sys, time
    from daemon.lifecycle import Stop, SystemRuntime, finish, stop_on_signals

    async def main(drain_seconds, drains, blocked):
        stop, runtime = Stop(), SystemRuntime(1)
        with stop_on_signals(stop, drain_seconds):
            hung = asyncio.ensure_future(runtime.run_in_thread(time.sleep, 600))
            print("ready", flush=True)
            if blocked:
                time.sleep(600)
            await stop.wait()
            print("draining after", stop.reason, flush=True)
            if not drains:
                await hung
        runtime.close()
        print("drained")
        finish(0)

    asyncio.run(main(float(sys.argv[1]), sys.argv[2] == "drains", sys.argv[3] == "blocked"))
    """
)


def started(drain_seconds: float, drains: bool, blocked: bool = False) -> subprocess.Popen[str]:
    arguments = [
        str(drain_seconds),
        "drains" if drains else "hangs",
        "blocked" if blocked else "turning",
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_exits_with_zero_although_a_thread_of_the_pool_hangs(
    number: signal.Signals,
) -> None:
    process = started(60, drains=True)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, f"draining after {number.name}\ndrained\n", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_second_signal_ends_the_process_at_once(number: signal.Signals, code: int) -> None:
    process = started(60, drains=False)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "draining after SIGTERM\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert "second signal" in err


@pytest.mark.parametrize("blocked", [False, True], ids=["drain hangs", "loop is blocked"])
def test_a_drain_is_cut_at_its_limit_with_a_log_line(blocked: bool) -> None:
    process = started(0.2, drains=False, blocked=blocked)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "not drained after 0.2 s" in err


async def _first_reason() -> tuple[bool, bool, str | None]:
    stop = Stop()
    before = stop.is_set
    waiting = asyncio.ensure_future(stop.wait())
    stop.request("first")
    stop.request("second")
    await waiting
    await stop.wait()
    return before, stop.is_set, stop.reason


def test_stop_wakes_every_waiter_and_keeps_its_first_reason() -> None:
    assert asyncio.run(_first_reason()) == (False, True, "first")


def test_offload_runs_in_another_thread_with_the_callers_context() -> None:
    variable = contextvars.ContextVar("variable", default="unset")
    runtime = SystemRuntime(2)

    async def main() -> tuple[int, str]:
        variable.set("set by the caller")
        return await runtime.run_in_thread(
            lambda extra: (threading.get_ident() + extra, variable.get()), extra=0
        )

    try:
        thread, seen = asyncio.run(main())
    finally:
        runtime.close()
    assert thread != threading.get_ident()
    assert seen == "set by the caller"


def test_offload_never_uses_more_threads_than_it_has() -> None:
    runtime = SystemRuntime(3)
    lock, together, busy = threading.Lock(), 0, 0
    full = threading.Barrier(3, timeout=20)

    def work() -> None:
        nonlocal together, busy
        with lock:
            busy += 1
            together = max(together, busy)
        full.wait()
        with lock:
            busy -= 1

    async def main() -> None:
        await asyncio.gather(*(runtime.run_in_thread(work) for _ in range(9)))

    try:
        asyncio.run(main())
    finally:
        runtime.close()
    assert together == 3


def test_offload_raises_the_error_of_the_work() -> None:
    runtime = SystemRuntime(1)
    try:
        with pytest.raises(ZeroDivisionError):
            asyncio.run(runtime.run_in_thread(lambda: 1 // 0))
    finally:
        runtime.close()


def test_a_thread_is_busy_until_its_call_ends_even_if_the_caller_was_cancelled() -> None:
    runtime = SystemRuntime(2)
    began, go_on = threading.Barrier(3, timeout=20), threading.Event()

    def hang() -> None:
        began.wait()
        go_on.wait(20)

    async def main() -> None:
        assert runtime.calls() == ()
        before = runtime.monotonic()
        calls = [asyncio.ensure_future(runtime.run_in_thread(hang)) for _ in range(2)]
        await asyncio.get_running_loop().run_in_executor(None, began.wait)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        first, second = runtime.calls()
        assert before <= first <= second <= runtime.monotonic()
        go_on.set()
        # Both threads are needed for these two, so the calls before them have ended.
        both = threading.Barrier(2, timeout=20)
        await asyncio.gather(runtime.run_in_thread(both.wait), runtime.run_in_thread(both.wait))
        assert runtime.calls() == ()

    try:
        asyncio.run(main())
    finally:
        go_on.set()
        runtime.close()


def test_a_call_that_fails_leaves_its_thread_free() -> None:
    runtime = SystemRuntime(1)
    try:
        with pytest.raises(ValueError):
            asyncio.run(runtime.run_in_thread(int, "x"))
        assert runtime.calls() == ()
    finally:
        runtime.close()


def test_tokens_are_32_hex_digits_and_never_the_same() -> None:
    runtime = SystemRuntime(1)
    tokens = {runtime.random_id() for _ in range(1000)}
    assert len(tokens) == 1000
    assert all(len(token) == 32 and set(token) <= set("0123456789abcdef") for token in tokens)


def test_now_has_a_time_zone_and_jitter_is_a_fraction() -> None:
    runtime = SystemRuntime(1)
    assert runtime.now().tzinfo is UTC
    assert 0 <= runtime.jitter() < 1
    assert runtime.monotonic() <= runtime.monotonic()


@pytest.fixture
def manager(tmp_path: Path) -> "socket.socket":
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(10)
        yield listening


def test_notify_reaches_a_socket_in_the_file_system(manager: socket.socket, tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    manager.bind(path)
    assert ServiceManager.of({"NOTIFY_SOCKET": path}, os.getpid()).notify("READY=1")
    assert manager.recv(64) == b"READY=1"


def test_notify_reaches_an_abstract_socket(manager: socket.socket) -> None:
    name = f"rebundle-test-{os.getpid()}"
    manager.bind(f"\0{name}")
    assert ServiceManager.of({"NOTIFY_SOCKET": f"@{name}"}, os.getpid()).notify("STOPPING=1")
    assert manager.recv(64) == b"STOPPING=1"


@pytest.mark.parametrize("address", ["", "/nowhere/at/all", "vsock:1:2"])
def test_notify_without_a_usable_manager_does_nothing(address: str) -> None:
    assert not ServiceManager.of({"NOTIFY_SOCKET": address}, 1).notify("READY=1")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_only_if_it_is_for_this_process(
    environ: dict[str, str], seconds: float | None
) -> None:
    assert ServiceManager.of({"NOTIFY_SOCKET": "/x", **environ}, 7).watchdog_seconds == seconds
    assert ServiceManager.of(environ, 7).watchdog_seconds is None


class TwoRounds(SystemRuntime):
    """Does not sleep, and ends the third sleep with a cancellation."""

    def __init__(self) -> None:
        super().__init__(1)
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) == 3:
            raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("alive", "messages"), [([True, True, True], 3), ([True, False, True], 2), ([False] * 3, 0)]
)
def test_the_watchdog_is_notified_twice_in_its_period_while_the_daemon_lives(
    manager: socket.socket, tmp_path: Path, alive: list[bool], messages: int
) -> None:
    path = str(tmp_path / "notify")
    manager.bind(path)
    runtime = TwoRounds()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(ServiceManager(path, 30.0).feed_watchdog(runtime, iter(alive).__next__))
    assert runtime.slept == [15.0, 15.0, 15.0]
    assert [manager.recv(64) for _ in range(messages)] == [b"WATCHDOG=1"] * messages
    manager.setblocking(False)
    with pytest.raises(BlockingIOError):
        manager.recv(64)

"""Plays a bundle on a Docker Engine: `make demo-run`.

An event goes to a real daemon, the bundle is published to a real S3 server, a host copies and
starts it, and its models answer over HTTP. Then a new version is loaded under load, and rolled
back. The engine, the images and the stand-ins are those of the tests (`tests/services`).
"""

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from events.model import BUNDLE_STATE_CREATED, MODEL_VERSION_CREATED
from renderers.composition import Composition, Model
from tests.services import compose as compose_service
from tests.services.availability import NotGiven, Unavailable
from tests.services.engine import Engine, engine
from tests.services.images import Images, images
from tests.support.daemon_process import DaemonProcess, post
from tests.support.engine_host import Host, Load, Models, Store, eventually
from tests.support.publishing_daemon import (
    BUCKET,
    LIVE_TREE,
    bucket_url,
    credentials,
    publishing_daemon,
    stamp,
)
from tests.support.scenes import GOLDEN, event
from tests.support.updates import update_sh

FOLDER = Path("var/demo-run")
SCOPE = str(GOLDEN)


def main() -> None:
    """Plays all of it. Says what is missing where there is no engine."""
    try:
        with _parts() as (store, models, daemon, host):
            _story(store, models, daemon, host)
    except (Unavailable, NotGiven) as error:
        sys.exit(f"no engine to run a bundle on: {error}")


@contextlib.contextmanager
def _parts() -> Iterator[tuple[Store, Models, DaemonProcess, Host]]:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    _say("starting a Docker Engine, with its images (minutes the first time)")
    with contextlib.ExitStack() as stack:
        running: Engine = stack.enter_context(engine())
        built: Images = images(running)
        store = stack.enter_context(Store.running(running, built))
        models = Models(built, store)
        daemon = stack.enter_context(publishing_daemon(store, built, FOLDER.absolute()))
        first = models.bundle(
            models.tensorflow("101", "1", factor=2), models.triton("103", "1", factor=5)
        )
        compose = compose_service.compose("newest")
        host = Host.beside(running, compose, first, (FOLDER / "host").absolute(), built)
        stack.callback(lambda: host.remove() if host.directory.exists() else None)
        yield store, models, daemon, host


def _story(store: Store, models: Models, daemon: DaemonProcess, host: Host) -> None:
    composition = host.composition
    _chapter("An event: the registry has a new state of the bundle")
    data = composition.model_dump(mode="json", exclude_none=True)
    _send(daemon, "state-1", BUNDLE_STATE_CREATED, data | {"state": {"id": "s1", "revision": 1}})
    _copy(store, host, '"s1"')

    _chapter("The host starts it")
    host.fill_in(store)
    _update(host)
    host.wait_for_factors({"101": 2, "103": 5})
    for model in ("101", "103"):
        _say(f"POST /api/v1/models/{model}/predict: {host.predict(model)}")

    _chapter("A new version of 101, under load")
    changed = models.tensorflow("101", "2", factor=3, load_seconds=2)
    with host.load() as load:
        _send(daemon, "version-2", MODEL_VERSION_CREATED, _version(changed, composition))
        _copy(store, host, "derived-")
        _update(host)
        host.wait_for_factors({"101": 3, "103": 5})
    _report(load)

    _chapter("Rollback, under load")
    with host.load() as load:
        _rebundle(store, "rollback", SCOPE, "s1", "--reason", "demo", "--yes")
        _copy(store, host, '"s1"')
        _update(host)
        host.wait_for_factors({"101": 2, "103": 5})
    _report(load)


def _version(model: Model, composition: Composition) -> dict[str, object]:
    bundle = composition.bundle.model_dump(mode="json")
    return {"model": model.model_dump(mode="json", exclude_none=True), "bundles": [bundle]}


def _send(daemon: DaemonProcess, event_id: str, kind: str, data: dict[str, object]) -> None:
    answer = post(daemon.port(), event(event_id, kind, data))
    if answer is None or answer.status != 202:
        sys.exit(f"the daemon refused {event_id}: {answer}")
    _say(f"POST /v1/events {kind}: {answer.status}")


def _copy(store: Store, host: Host, mark: str) -> None:
    """Copies the live tree to the host when it has the state with this mark."""
    eventually(lambda: mark in stamp(store))
    store.copy(f"{BUCKET}/{LIVE_TREE}", host.folder)
    _say(f"copied {BUCKET}/{LIVE_TREE} to the host")


def _update(host: Host) -> None:
    _say("$ sh update.sh")
    output = update_sh(host)
    for line in output.stdout.splitlines():
        _say(f"  {line}")
    if output.code:
        sys.exit(output.text)


def _rebundle(store: Store, *words: str) -> None:
    _say(f"$ rebundle {' '.join(words)}")
    subprocess.run(
        [Path(sys.executable).with_name("rebundle"), *words],
        env=credentials(store) | {"PATH": "/usr/bin:/bin", "REBUNDLE_BUCKET": bucket_url(store)},
        check=True,
        timeout=60,
    )


def _report(load: Load) -> None:
    """Prints what the load has seen. Ends the program if a call failed."""
    for model, result in sorted(load.results.items()):
        failed = sum(result.failures.values())
        answers = ", ".join(f"{answer}: {count}" for answer, count in result.answers.items())
        _say(
            f"{model}: {result.calls} calls, {failed} failed; answers (model version factor) {answers}"
        )
    if any(result.failures for result in load.results.values()):
        sys.exit("calls have failed while the host was updated")


def _chapter(title: str) -> None:
    print(f"\n{title}  [{time.monotonic() - _BEGAN:.0f} s]", flush=True)


def _say(text: str) -> None:
    print(f"   {text}", flush=True)


_BEGAN = time.monotonic()

if __name__ == "__main__":
    main()

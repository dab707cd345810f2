"""Installs tools that come as wheels or npm packages, each separately below `.cache/tools`.

The environments are separate because the tools pin other versions of packages that the project
needs (ministack pins botocore exactly). Each is installed once, from
`requirements/tools/<name>.lock` with hashes. A changed lock or another Python makes a new
environment.
"""

import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.services.availability import Unavailable
from tests.services.tools import tool

_ROOT = Path(__file__).parents[2]
_CACHE = _ROOT / ".cache" / "tools"
_INSTALL = _ROOT / "requirements" / "install.py"
_LIMIT_SECONDS = 300


def environment(name: str, interpreter: Path | None = None) -> Path:
    """The folder of the environment, installed if need be.

    `interpreter`: another Python than that of the tests, for a tool that cannot run there.

    Raises:
        Unavailable: it cannot be installed here.
    """
    lock = _ROOT / "requirements" / "tools" / f"{name}.lock"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    version = f"py{platform.python_version()}" if interpreter is None else interpreter.name
    folder = _CACHE / f"{name}-{digest}-{version}"

    def install() -> None:
        _run(str(interpreter or sys.executable), "-m", "venv", "--clear", str(folder))
        _run(str(folder / "bin" / "python"), str(_INSTALL), str(lock))

    return _installed(name, folder, install)


def npm_environment(name: str) -> Path:
    """The folder with `node_modules` of a tool from npm, installed if need be.

    `requirements/tools/<name>/package-lock.json` has the hash of every package, and no address. No
    script of a package runs.

    Raises:
        Unavailable: it cannot be installed here.
    """
    source = _ROOT / "requirements" / "tools" / name
    digest = hashlib.sha256((source / "package-lock.json").read_bytes()).hexdigest()[:12]
    folder = _CACHE / f"{name}-{digest}-npm"

    def install() -> None:
        npm = str(tool("npm"))
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(source, folder)
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder))
        _run(npm, "ci", *options)

    return _installed(name, folder, install)


def _installed(name: str, folder: Path, install: Callable[[], None]) -> Path:
    """The folder, after `install` if that has not completed before."""
    ready = folder / ".ready"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / f"{name}.lock").open("w") as guard:
        # Two test runs may install it at once, and neither may use a partial environment.
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not ready.exists():
            install()
            ready.touch()
    return folder


def _run(*command: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(command[:4])} took more than {_LIMIT_SECONDS} s") from error
    if done.returncode:
        raise Unavailable(
            f"{' '.join(command[:4])} failed: {(done.stderr or done.stdout).strip()[-1500:]}"
        )

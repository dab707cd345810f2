"""Builds programs in Go, each a folder beside this module, once below `.cache/go`.

The Go toolchain and its module proxy are the machine's; `go.sum` lists what may come from there. A
changed source or another Go builds again.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.services.availability import Unavailable
from tests.services.tools import tool

_HERE = Path(__file__).parent
_CACHE = Path(__file__).parents[2] / ".cache" / "go"
_LIMIT_SECONDS = 900
# A program without C needs no compiler but Go's own.
_BUILD = {"GOFLAGS": "-mod=mod", "CGO_ENABLED": "0"}


def go_program(name: str) -> Path:
    """The binary of the program in the folder `name`, built if need be. Raises Unavailable."""
    go, source = tool("go", package="golang-go"), _HERE / name
    digest = hashlib.sha256(_run(go, "version", folder=source))
    for path in sorted(source.iterdir()):
        digest.update(path.name.encode() + path.read_bytes())
    _CACHE.mkdir(parents=True, exist_ok=True)
    binary = _CACHE / f"{name}-{digest.hexdigest()[:12]}"
    with (_CACHE / f"{name}.lock").open("w") as guard:
        # Two test runs may build it at once, and `go build` writes the binary in several steps.
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not binary.exists():
            half = binary.with_suffix(".half")
            _run(
                go, "build", "-mod=readonly", "-buildvcs=false", "-o", str(half), ".", folder=source
            )
            half.rename(binary)
    return binary


def go_module(module: str) -> Path:
    """The command of a module at a version, such as `example.com/tool@v1.2.3`, built once.

    Raises Unavailable.
    """
    go = tool("go", package="golang-go")
    folder = _CACHE / module.replace("/", "_")
    path, _, _ = module.partition("@")
    last = path.rsplit("/", 1)[-1]
    binary = folder / (path.rsplit("/", 2)[-2] if last[:1] == "v" and last[1:].isdigit() else last)
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / f"{folder.name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not binary.exists():
            _run(go, "install", module, folder=_HERE, env=_BUILD | {"GOBIN": str(folder)})
    return binary


def go_command(module: str, package: str, checksum: str) -> Path:
    """The command in the folder `package` of a module at a version, built once as that module's own
    go.mod says.

    `go install` refuses a module with `replace` lines. `checksum` is the one that `go mod download`
    reports (`h1:…`); go.sum of the module has those of all others. Raises Unavailable.
    """
    go = tool("go", package="golang-go")
    folder = _CACHE / module.replace("/", "_")
    binary = folder / "command"
    folder.mkdir(parents=True, exist_ok=True)
    with (_CACHE / f"{folder.name}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not binary.exists():
            # The database of checksums does not have every old version.
            unlisted = {"GONOSUMDB": module.partition("@")[0]}
            told = _run(go, "mod", "download", "-json", module, folder=_HERE, env=unlisted)
            download = json.loads(told)
            if download["Sum"] != checksum:
                raise Unavailable(
                    f"{module} from the module proxy has the checksum {download['Sum']}, not "
                    f"{checksum}"
                )
            with tempfile.TemporaryDirectory(dir=_CACHE) as work:
                # Those of the module cache are read-only.
                source = shutil.copytree(
                    download["Dir"], Path(work) / "source", copy_function=shutil.copyfile
                )
                half = binary.with_suffix(".half")
                flags = ("-mod=mod", "-trimpath", "-buildvcs=false", "-o", str(half))
                environment = {"CGO_ENABLED": "0"} | unlisted
                _make_writable(source)
                _run(go, "build", *flags, package, folder=source, env=environment)
                half.rename(binary)
    return binary


def _make_writable(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _run(*command: object, folder: Path, env: Mapping[str, str] | None = None) -> bytes:
    words = [str(word) for word in command]
    try:
        # Ignore a workspace around the project.
        done = subprocess.run(
            words,
            cwd=folder,
            env=os.environ | {"GOWORK": "off"} | dict(env or {}),
            capture_output=True,
            timeout=_LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(words[:2])} took more than {_LIMIT_SECONDS} s") from error
    if done.returncode:
        raise Unavailable(
            f"{' '.join(words[:2])} in {folder.name} failed: {done.stderr.decode().strip()[-500:]}"
        )
    return done.stdout

"""The images of a bundle, made from Debian packages, wheels and Go modules; nothing is pulled.

The tag of an image is the digest of what it is made from, so it is built once, and again when that
changes. nginx, rclone, Triton and the S3 store are real. `engine_images` says what stands in for
TensorFlow Serving, OpenVINO Model Server and model_proxy, and how far it goes.
"""

import concurrent.futures
import contextlib
import fcntl
import hashlib
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.services.availability import Unavailable
from tests.services.engine import CACHE, Engine, EngineFailed
from tests.services.goprograms import go_module
from tests.services.rclone import rclone
from tests.services.tools import tool
from tests.services.versitygw import MODULE as VERSITYGW

# A name that no registry can have (RFC 6761).
_REPOSITORY = "rebundle.test"
_SOURCES = Path(__file__).parent / "engine_images"
_LOCKS = Path(__file__).parents[2] / "requirements"
_SUITE = "bookworm"
_PYTHON = "3.11"
_SLIM = "python-slim"
_MIRROR = "http://deb.debian.org/debian"
_PACKAGES = (
    *("busybox", "ca-certificates", "curl", "libpython3.11", "nginx", "procps"),
    *("python3", "python3-venv"),
)
_TRITON = (
    "nvidia-pytriton==0.7.0 "
    "--hash=sha256:21f063ff93bb426d0c06b7a55e7eb9efcfe62c0dddd9a908e9877e18710128df"
)
_LIMIT_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Images:
    """The images' names.

    `busybox`: a shell and its tools. `python`: Python and the clients of the engines. `debian`: the
    root of both.
    """

    debian: str
    busybox: str
    python: str
    nginx: str
    rclone: str
    tensorflow_serving: str
    openvino: str
    model_proxy: str
    triton: str
    store: str


@dataclass(frozen=True, slots=True)
class _Part:
    """A file or folder that an image needs and the repository does not have.

    `identity`: what it is made from. `make`: makes it in an empty folder if need be, and returns
    it.
    """

    identity: str
    make: Callable[[Path], Path]


@dataclass(frozen=True, slots=True)
class _Recipe:
    """An image: the folder `name` of `engine_images`, images that it starts from, other parts."""

    name: str
    bases: tuple[str, ...] = ()
    parts: Mapping[str, _Part] = field(default_factory=dict)


def images(engine: Engine) -> Images:
    """Their names, built if need be. Raises Unavailable."""
    tags = _built(engine, [recipe for recipe in _RECIPES if recipe.name != _SLIM])
    return Images(**{name.replace("-", "_"): tag for name, tag in tags.items()})


def python_slim(engine: Engine) -> str:
    """An image in the place of the product's base, built if need be. Raises Unavailable.

    It has every wheel of the product's locks, so that a build in it needs no network.
    """
    wanted = [recipe for recipe in _RECIPES if recipe.name in {"debian", _SLIM}]
    return _built(engine, wanted)[_SLIM]


def _built(engine: Engine, recipes: list[_Recipe]) -> dict[str, str]:
    CACHE.mkdir(parents=True, exist_ok=True)
    tags = _tags(_RECIPES)
    with (CACHE / "images.lock").open("w") as guard:
        # Two test runs may build them at once.
        fcntl.flock(guard, fcntl.LOCK_EX)
        missing = [recipe for recipe in recipes if not engine.exists(tags[recipe.name])]
        try:
            _build(engine, missing, tags)
        except EngineFailed as error:
            raise Unavailable(f"an image cannot be built: {error}") from error
        if missing and engine.own:
            _remove_older(engine, tags)
    return {recipe.name: tags[recipe.name] for recipe in recipes}


def _tags(recipes: Iterable[_Recipe]) -> dict[str, str]:
    """The names of the images; one is the same as long as everything in it is."""
    tags: dict[str, str] = {}
    for recipe in recipes:
        digest = hashlib.sha256()
        for path in sorted((_SOURCES / recipe.name).iterdir()):
            digest.update(f"{path.name} {path.stat().st_mode & 0o111}\0".encode())
            digest.update(path.read_bytes())
        for base in recipe.bases:
            digest.update(tags[base].encode())
        for name, part in recipe.parts.items():
            digest.update(f"{name} {part.identity}\0".encode())
        tags[recipe.name] = f"{_REPOSITORY}/{recipe.name}:{digest.hexdigest()[:12]}"
    return tags


def _build(engine: Engine, recipes: list[_Recipe], tags: Mapping[str, str]) -> None:
    """Builds `recipes` in their order, while their parts are made side by side."""
    with (
        tempfile.TemporaryDirectory(dir=CACHE) as work,
        concurrent.futures.ThreadPoolExecutor(4) as pool,
    ):
        made: dict[tuple[str, str], concurrent.futures.Future[Path]] = {}
        for recipe in recipes:
            for name, part in recipe.parts.items():
                folder = Path(work) / recipe.name / name
                folder.mkdir(parents=True)
                made[recipe.name, name] = pool.submit(part.make, folder)
        for recipe in recipes:
            parts = {name: made[recipe.name, name].result() for name in recipe.parts}
            tag = tags[recipe.name]
            if recipe.name == "debian":
                with parts["root"].open("rb") as root:
                    engine.run("import", "-", tag, stdin=root, limit=_LIMIT_SECONDS)
                continue
            with (Path(work) / "context.tar").open("w+b") as context:
                _write_context(context, _SOURCES / recipe.name, parts)
                arguments = [f"--build-arg={base}={tags[base]}" for base in recipe.bases]
                command = ("build", "--quiet", "--force-rm", "--network", "none", "--tag", tag)
                engine.run(*command, *arguments, "-", stdin=context, limit=_LIMIT_SECONDS)


def _write_context(file: IO[bytes], sources: Path, parts: Mapping[str, Path]) -> None:
    # The client knows an archive by its first block, which in pax format is none of a file.
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(sources.iterdir()):
            archive.add(path, path.name)
        for name, path in parts.items():
            archive.add(path, name)
    file.seek(0)


def _remove_older(engine: Engine, tags: Mapping[str, str]) -> None:
    """Removes the images that a changed recipe has replaced, so that the disk does not fill up."""
    listed = engine.run("image", "ls", f"{_REPOSITORY}/*", "--format", "{{.Repository}}:{{.Tag}}")
    for tag in set(listed.split()) - set(tags.values()):
        name = tag.removeprefix(f"{_REPOSITORY}/").partition(":")[0]
        # Another test run may use it.
        with contextlib.suppress(EngineFailed):
            if name in tags:
                engine.run("image", "rm", tag)
    engine.run("image", "prune", "--force")


# The parts


def _run(*command: str | Path, output: IO[bytes] | None = None) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output or subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=_LIMIT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{command[0]} took more than {_LIMIT_SECONDS} s") from error
    if done.returncode:
        told = ((done.stdout or b"") + done.stderr).decode(errors="replace").strip()[-1000:]
        raise Unavailable(f"{' '.join(map(str, command[:4]))} failed: {told}")


def _debian_root(folder: Path) -> Path:
    tool("debootstrap")
    root, script = folder / "root.tar", _SOURCES / "debian" / "bootstrap.sh"
    with root.open("wb") as output:
        _run(
            *("unshare", "--mount", "sh", script, _SUITE, _mirror(), ",".join(_PACKAGES)),
            output=output,
        )
    return root


def _mirror() -> str:
    """The Debian mirror that apt is configured for, if it is."""
    apt = shutil.which("apt-get")
    if apt is None:
        return _MIRROR
    command = (apt, "indextargets", "--format", "$(ORIGIN) $(RELEASE) $(REPO_URI)")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        origin, _, rest = line.partition(" ")
        release, _, mirror = rest.partition(" ")
        if origin == "Debian" and "-" not in release and "security" not in mirror:
            return mirror
    return _MIRROR


def _wheels_of(*locks: Path) -> _Part:
    def download(folder: Path) -> Path:
        for lock in locks:
            _download(folder, lock)
        return folder

    return _Part("".join(lock.read_text() for lock in locks), download)


def _download(folder: Path, lock: Path) -> None:
    """Puts the wheels of a complete lock into `folder`, for the Python of the images."""
    _run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
        *("--only-binary", ":all:", "--python-version", _PYTHON),
        *("--implementation", "cp", "--dest", folder, "--requirement", lock),
    )


def _tritonserver(folder: Path) -> Path:
    """The server, the stub of the Python back end for the Python of the images, libraries."""
    lock = folder / "lock"
    lock.write_text(_TRITON)
    _download(folder, lock)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    server = folder / "pytriton" / "tritonserver"
    backend = server / "backends" / "python"
    stub = server / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub"
    shutil.move(stub, backend)
    shutil.rmtree(server / "python_backend_stubs")
    (folder / "nvidia_pytriton.libs").rename(server / "lib")
    # The stub needs Debian's.
    for library in (server / "lib").glob("libpython*"):
        library.unlink()
    for program in (server / "bin" / "tritonserver", backend / stub.name):
        program.chmod(0o755)
    return server


_RECIPES = (
    _Recipe(
        "debian",
        parts={"root": _Part(f"{_SUITE} {_PACKAGES} {platform.machine()}", _debian_root)},
    ),
    _Recipe("busybox", bases=("debian",)),
    _Recipe("nginx", bases=("debian", "busybox")),
    _Recipe(
        "rclone",
        bases=("busybox",),
        parts={
            "rclone": _Part(
                (_LOCKS / "tools" / "rclone.lock").read_text(), lambda _: rclone("newest")
            )
        },
    ),
    _Recipe("store", parts={"versitygw": _Part(VERSITYGW, lambda _: go_module(VERSITYGW))}),
    _Recipe(
        "python",
        bases=("debian",),
        parts={"wheels": _wheels_of(_LOCKS / "tools" / "engine-images.lock")},
    ),
    _Recipe("tensorflow-serving", bases=("python",)),
    _Recipe("openvino", bases=("python",)),
    _Recipe("model-proxy", bases=("python",)),
    _Recipe("triton", bases=("python",), parts={"tritonserver": _Part(_TRITON, _tritonserver)}),
    _Recipe(
        _SLIM,
        bases=("debian",),
        parts={"wheels": _wheels_of(_LOCKS / "build.lock", _LOCKS / "runtime.lock")},
    ),
)

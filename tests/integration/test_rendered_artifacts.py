"""Artifacts that are archives on a server, and folders of the host, through the rendered
download.sh.

The server answers over TLS, with the name that it has in the bundle (see
`tests/support/forward_proxy.py`). Archives are unpacked by GNU tar and by that of busybox.
"""

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from renderers.composition import Model
from tests.builders import make_model
from tests.services.availability import available
from tests.services.tools import tool
from tests.support import scripted_http
from tests.support.certificates import Authority
from tests.support.download_host import Host, composition
from tests.support.forward_proxy import ForwardProxy, forward_proxy

SERVER = "models.example.com"
MODEL = {"saved_model.pb": b"graph", "variables/data": b"weights"}
_FILES = {f"101/1/{name}": body.decode() for name, body in MODEL.items()}


@dataclass(frozen=True, slots=True)
class Site:
    """A target host, and the server of its archives."""

    host: Host
    proxy: ForwardProxy
    archives: dict[str, bytes] = field(default_factory=dict)

    def serve(self, name: str, body: bytes, digest: str | None = None) -> Model:
        """A model whose archive this is."""
        self.archives[f"/{name}"] = body
        uri = f"https://{SERVER}/{name}"
        found = digest or f"sha256:{hashlib.sha256(body).hexdigest()}"
        return make_model("101", artifact={"uri": uri, "digest": found})

    def download(self, *models: Model) -> tuple[int, str]:
        """Exit code and log."""
        return self.host.download(composition(*models), self.proxy.environment)


@pytest.fixture
def site(host: Host, tmp_path: Path) -> Iterator[Site]:
    if host.shell[0].endswith("busybox"):
        # An image whose shell is busybox has no other tar.
        programs = tmp_path / "busybox"
        programs.mkdir()
        for name in ("tar", "gzip", "find", "chmod", "sha256sum", "sed", "awk", "grep"):
            (programs / name).symlink_to(available(lambda: tool("busybox")))
        host = replace(host, programs=(programs,))

    def answer(handler: Any) -> None:
        body = archives.get(handler.path)
        scripted_http.says(404 if body is None else 200, body or b"")(handler)

    archives: dict[str, bytes] = {}
    with (
        scripted_http.server(answer) as (address, _),
        forward_proxy(Authority.create(tmp_path), {SERVER: address}) as proxy,
    ):
        yield Site(host, proxy, archives)


def packed(files: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    """An archive of files."""
    return packed_entries([(tarfile.TarInfo(name), body) for name, body in files.items()], mode)


def packed_entries(entries: Sequence[tuple[tarfile.TarInfo, bytes]], mode: str = "w:gz") -> bytes:
    """An archive of any entries."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for entry, body in entries:
            entry.size = len(body)
            archive.addfile(entry, io.BytesIO(body))
    return file.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    """An entry; `target` is what a link names."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")]
)
def test_an_archive_with_the_digest_of_the_bundle_is_unpacked(
    site: Site, name: str, mode: str
) -> None:
    code, log = site.download(site.serve(f"team/{name}", packed(MODEL, mode)))

    assert code == 0, log
    assert site.host.files == _FILES


def test_an_archive_with_another_digest_is_refused_with_both(site: Site) -> None:
    body, expected = packed(MODEL), f"sha256:{'a' * 64}"

    code, log = site.download(site.serve("a.tar.gz", body, expected))

    assert (code, site.host.files) == (1, {})
    assert f"has the digest sha256:{hashlib.sha256(body).hexdigest()}" in log
    assert f"the bundle says {expected}" in log


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_what_is_no_archive_is_refused(site: Site, name: str) -> None:
    code, log = site.download(site.serve(name, b"<html>Please log in</html>"))

    assert (code, site.host.files) == (1, {})
    assert f"https://{SERVER}/{name} cannot be unpacked: check that it is a " in log


def test_an_archive_that_the_server_does_not_have_is_reported(site: Site) -> None:
    model = site.serve("a.tar.gz", packed(MODEL))
    site.archives.clear()

    code, log = site.download(model)

    assert (code, site.host.files) == (1, {})
    assert "there are no such files: check the URI of the artifact" in log


def test_a_server_that_cannot_be_reached_leaves_the_archives_of_others(site: Site) -> None:
    # The last in the list, when the other server is known to be away.
    there = site.serve("a.tar.gz", packed(MODEL)).model_copy(update={"id": "109"})
    digest = there.artifact.digest
    away = [
        make_model(f"10{number}", artifact={"uri": "https://127.0.0.1:9/a.tar", "digest": digest})
        for number in range(2, 6)
    ]

    code, log = site.download(*away, there)

    assert code == 1
    assert set(site.host.files) == {"109/1/saved_model.pb", "109/1/variables/data"}
    assert "the store cannot be reached" in log
    assert "https://127.0.0.1:9/a.tar is not tried" in log


def test_a_folder_around_the_model_is_reported_with_its_place(site: Site) -> None:
    body = packed({f"my-model/{name}": content for name, content in MODEL.items()})

    code, log = site.download(site.serve("a.tar.gz", body))

    assert (code, site.host.files) == (1, {})
    assert "it is below, at my-model/saved_model.pb: pack the archive from there" in log


@pytest.mark.parametrize(
    "entries",
    [
        [(entry("../../../../outside/victim"), b"overwritten")],
        [(entry("{outside}/victim"), b"overwritten")],
        [(entry("a", tarfile.SYMTYPE, "{outside}"), b""), (entry("a/victim"), b"overwritten")],
        [
            (entry("a", tarfile.SYMTYPE, "../../../../outside"), b""),
            (entry("a/victim"), b"overwritten"),
        ],
        [
            (entry("victim", tarfile.LNKTYPE, "{outside}/victim"), b""),
            (entry("victim"), b"overwritten"),
        ],
    ],
    ids=["dots", "absolute", "absolute link", "relative link", "hard link"],
)
def test_nothing_is_written_outside_of_the_folder_of_the_archive(
    site: Site, tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("as before")
    hostile = [(pointed(info, outside), body) for info, body in entries]

    site.download(
        site.serve("a.tar.gz", packed_entries([(entry("saved_model.pb"), b"x"), *hostile]))
    )

    assert {path.name: path.read_text() for path in outside.iterdir()} == {"victim": "as before"}


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (tarfile.SYMTYPE, "/etc/hostname"),
        (tarfile.SYMTYPE, "saved_model.pb"),
        (tarfile.LNKTYPE, "saved_model.pb"),
        (tarfile.FIFOTYPE, ""),
    ],
    ids=["link outside", "link inside", "hard link", "pipe"],
)
def test_an_archive_with_anything_but_files_and_folders_is_refused(
    site: Site, kind: bytes, target: str
) -> None:
    entries = [(entry("saved_model.pb"), b"x"), (entry("assets", kind, target), b"")]

    code, log = site.download(site.serve("a.tar.gz", packed_entries(entries)))

    assert (code, site.host.files) == (1, {})
    assert "has a link or a device, ./" in log


def test_every_user_may_read_what_was_unpacked(site: Site) -> None:
    private = entry("saved_model.pb")
    private.mode, private.uid = 0o4600, 1234

    code, log = site.download(site.serve("a.tar.gz", packed_entries([(private, b"x")])))

    assert code == 0, log
    found = (site.host.models / "101/1/saved_model.pb").stat()
    assert (oct(found.st_mode & 0o7777), found.st_uid) == ("0o644", site.host.models.stat().st_uid)


def pointed(template: tarfile.TarInfo, outside: Path) -> tarfile.TarInfo:
    """An entry with this folder in the place of its placeholder."""
    info = template.replace(deep=True)
    info.name = info.name.replace("{outside}", str(outside))
    info.linkname = info.linkname.replace("{outside}", str(outside))
    return info


# ---- folders of the host ----


def on_host(path: str = "models/101") -> Model:
    return make_model("101", artifact={"uri": f"file:///{path}"})


def put(host: Host, folder: str = "files/models/101") -> Path:
    """The files of a model below the deployment directory."""
    place = host.bundle.directory / folder
    for name, body in MODEL.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(body)
    return place


def test_a_folder_of_the_host_is_copied(host: Host) -> None:
    put(host)

    code, log = host.download(composition(on_host()))

    assert code == 0, log
    assert host.files == _FILES


def test_a_mount_that_is_missing_is_named(host: Host) -> None:
    for made in (False, True):
        if made:
            # Docker makes the folder of a bind mount that does not exist.
            (host.bundle.directory / "files").mkdir()
        code, log = host.download(composition(on_host()))

        assert (code, host.files) == (1, {})
        assert "they are in /<deployment_dir>/files" in log


def test_a_link_to_a_folder_is_followed_and_one_among_the_files_is_refused(host: Host) -> None:
    put(host, "files/store/101")
    (host.bundle.directory / "files/models").symlink_to("store")
    code, log = host.download(composition(on_host()))
    assert code == 0, log

    linked = put(host, "files/store/102") / "assets"
    linked.symlink_to("/etc/hostname")
    second = make_model("102", artifact={"uri": "file:///models/102"})
    code, log = host.download(composition(on_host(), second))

    assert code == 1
    assert "FAILED 102/1" in log
    assert "has links, which are not followed" in log
    assert host.files == _FILES

"""The composition root: settings -> objects. Nothing else constructs an adapter.

SDKs and the web framework are imported where they are needed, so that a command that needs none starts fast.
"""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from daemon.publishing.livetree import LiveTree
from daemon.publishing.operations import Operations
from daemon.publishing.publisher import Publisher
from daemon.publishing.reader import Reader
from daemon.runtime import Runtime
from daemon.stores.errors import StoreRefused
from daemon.stores.filesystem import FileSystem, RealFileSystem
from daemon.stores.port import ObjectStore


@dataclass(frozen=True, slots=True)
class Bucket:
    """Everything that acts on one bucket."""

    store: ObjectStore
    reader: Reader
    publisher: Publisher
    live_tree: LiveTree
    operations: Operations


def open_bucket(url: str, runtime: Runtime, filesystem: FileSystem | None = None) -> Bucket:
    """The bucket that `url` names: a folder, or file:///folder.

    Raises:
        StoreRefused: no store of this kind can be opened here.
    """
    store = _store(url, runtime, filesystem or RealFileSystem())
    reader = Reader(store, runtime)
    publisher = Publisher(store, reader, runtime)
    live_tree = LiveTree(store, reader)
    return Bucket(store, reader, publisher, live_tree, Operations(reader, publisher, live_tree))


def _store(url: str, runtime: Runtime, filesystem: FileSystem) -> ObjectStore:
    from daemon.stores.directory import DirectoryStore  # noqa: PLC0415  # lazily, as each adapter

    parts = urlsplit(url)
    if not parts.scheme:
        return DirectoryStore(Path(url).absolute(), runtime, filesystem)
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path:
        return DirectoryStore(Path(unquote(parts.path)), runtime, filesystem)
    raise StoreRefused(f"{url}: this release publishes to a folder or file:///folder; s3:// and gs:// come later")

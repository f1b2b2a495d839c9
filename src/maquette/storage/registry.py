"""The storages by URL scheme. Other packages add theirs through the entry point group `maquette.storages`."""

from urllib.parse import urlsplit

from maquette.core.registry import Registry
from maquette.storage.base import Storage

OBJECT_STORE = "maquette.storage.object_store:open_storage"

STORAGES = Registry(
    "storage URL scheme",
    "maquette.storages",
    dict.fromkeys(("file", "memory", "s3", "gs", "az"), OBJECT_STORE),
)


def open_storage(url: str) -> Storage:
    """Open the storage a URL names; a plain path is a local directory.

    Raises:
        UnknownName: no storage has this scheme.
        UnusableStorage: the URL is not one of its scheme's.
        OSError: a local directory can't be made.
    """
    return STORAGES.load(urlsplit(url).scheme or "file")(url)

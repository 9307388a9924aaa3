"""Where bytes live: `file://` and `s3://` behind one small interface."""

from lemur.storage.base import ObjectInfo, Storage
from lemur.storage.opening import open_storage

__all__ = ["ObjectInfo", "Storage", "open_storage"]

"""Whether a result of an earlier run can be trusted, so that it need not be made again."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from lemur.errors import IntegrityError
from lemur.progress import emit
from lemur.receipt import MANIFEST_NAME, Receipt, StoredObject
from lemur.results import DAMAGED_NAME, find_result, manifest_of
from lemur.storage import Storage, open_storage
from lemur.storage.integrity import check_file


def reuse(storage_uri: str, prefix: str, *, stage: str) -> Receipt | None:
    """Returns the result that stands at a prefix, or `None` where it must be made; says which, and why.

    Args:
        storage_uri: Root of a run's storage.
        prefix: Where the result would be.
        stage: Stage that asks, for the note the user sees.

    Raises:
        StorageError: The storage cannot be reached or refuses.
    """
    found = find_whole(storage_uri, prefix, stage=stage)
    if found:
        emit("note", text=f"{stage}: unchanged, {found.kind} at {found.uri}")
    return found


def find_whole(storage_uri: str, prefix: str, *, stage: str) -> Receipt | None:
    """Returns the result that stands at a prefix, or `None`; says why only where there is one that cannot be trusted.

    Args:
        storage_uri: Root of a run's storage.
        prefix: Where the result would be.
        stage: Stage that asks, for the note the user sees.

    Raises:
        StorageError: The storage cannot be reached or refuses.
    """
    try:
        found = find_result(storage_uri, prefix)
    except IntegrityError as error:
        emit("note", text=f"{stage}: {error}; making it anew")
        return None
    damaged = damaged_objects(found) if found else []
    if found and damaged:
        emit("note", text=f"{stage}: {found.uri}/{damaged[0]} is damaged or missing; making the result anew")
        return None
    return found


def damaged_objects(receipt: Receipt) -> list[str]:
    """Returns the names of a result's objects that are missing or damaged; empty when all is well.

    One listing finds what is missing or of another size, so a stage can afford to ask. Objects are read only
    where a reader found them altered before. The manifest is named when it is missing, malformed or of other
    content than the receipt's.
    """
    storage = open_storage(receipt.uri)
    try:
        manifest = manifest_of(receipt.uri, receipt.digest)
    except IntegrityError:
        return [MANIFEST_NAME]
    sizes = {found.name: found.size_bytes for found in storage.list()}
    absent = [stored.name for stored in manifest.objects if sizes.get(stored.name) != stored.size_bytes]
    if absent or DAMAGED_NAME not in sizes:
        return absent
    marked = set(json.loads(storage.read(DAMAGED_NAME)))
    return [stored.name for stored in manifest.objects if stored.name in marked and not _whole(storage, stored)]


def _whole(storage: Storage, stored: StoredObject) -> bool:
    """Reads an object again: what a reader found altered may have been altered on its way."""
    try:
        path = storage.local_path(stored.name)
        if path:
            check_file(storage.uri_of(stored.name), path, stored)
        else:
            with tempfile.TemporaryDirectory(prefix="lemur-check-") as scratch:
                storage.download(stored.name, Path(scratch) / "object", stored)
    except IntegrityError:
        return False
    return True

"""Stored results: written objects first and manifest last, found by it, and verified against it when read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import ValidationError

from lemur.errors import IntegrityError
from lemur.receipt import MANIFEST_NAME, Kind, Manifest, Receipt, StoredObject, canonical_json
from lemur.storage import open_storage
from lemur.storage.base import (
    PARTIAL_PREFIX,
    Storage,
    byte_counter,
    checked_name,
    in_parallel,
)
from lemur.storage.integrity import check_file, describe

DAMAGED_NAME = "damaged.json"
"""Names of objects that a reader found altered; written beside the manifest, gone when the result is made anew."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class ResultWriter:
    """A result in the making: add its objects, then commit.

    Nothing is stored before `commit`, so added files must stay as they are until then. A writer that is
    dropped, or a process that dies, leaves no manifest and hence no result; writing again completes it.

    Args:
        storage: Storage at the result's own prefix.
        draft: The manifest, still without objects.
    """

    def __init__(self, storage: Storage, draft: Manifest) -> None:
        self.uri = storage.uri
        self._storage, self._draft = storage, draft
        self._contents: dict[str, Path | bytes] = {}
        self._movable: set[str] = set()

    def add(self, name: str, path: Path) -> None:
        """Adds a file as an object.

        Raises:
            ValueError: The name is taken.
            StorageError: The name cannot be an object's.
        """
        self._add(name, path)

    def add_bytes(self, name: str, data: bytes) -> None:
        """Adds bytes as an object; as for `add`."""
        self._add(name, data)

    def add_folder(self, path: Path, prefix: str = "", *, move: bool = False) -> None:
        """Adds every file below a folder under its relative name.

        The manifest of a stored result is left out, so that a result can be made from the folder of another.

        Args:
            path: Folder to walk.
            prefix: Folder that the names begin with.
            move: Whether the files may become the objects, and be gone, where that saves a copy.
        """
        for file in sorted(path.rglob("*")):
            name = file.relative_to(path).as_posix()
            if file.is_file() and name != MANIFEST_NAME and not file.name.startswith(PARTIAL_PREFIX):
                full_name = f"{prefix}/{name}" if prefix else name
                self.add(full_name, file)
                if move:
                    self._movable.add(full_name)

    def commit(self, *, metrics: Mapping[str, float] = _NOTHING, metadata: Mapping[str, Any] = _NOTHING) -> Receipt:
        """Stores the objects, several at a time, and the manifest last.

        Where a result of the same key stands already with the same content, its objects are written anew, which
        mends damaged ones. Where the content differs, the old manifest is deleted before anything is touched. What
        an earlier, unfinished writing left over is deleted.

        Args:
            metrics: Figures of the receipt.
            metadata: Anything else of the receipt, as JSON.

        Raises:
            StorageError: The storage cannot be reached, is full or refuses; no manifest was written.
            ValueError: A metric is infinite or not a number.
        """
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise ValueError(f"metric {name!r} of {self.uri} is {value}, which JSON cannot hold")
        self._retire_other_content()
        total_bytes = sum(
            len(content) if isinstance(content, bytes) else content.stat().st_size
            for content in self._contents.values()
        )
        with byte_counter(f"store {self._draft.kind}", total_bytes) as count_bytes:

            def store(name: str) -> StoredObject:
                content = self._contents[name]
                if isinstance(content, bytes):
                    count_bytes(len(content))
                    return self._storage.write(name, content)
                return self._storage.upload(name, content, on_bytes=count_bytes, move=name in self._movable)

            stored = in_parallel(store, sorted(self._contents))
        manifest = self._draft.model_copy(
            update={"objects": stored, "metrics": dict(metrics), "metadata": dict(metadata)}
        )
        self._storage.keep_only({*self._contents, MANIFEST_NAME})
        text = manifest.model_dump_json(indent=2)
        # Made from the text, so that the receipt is the same now and whenever it is read again.
        receipt = Manifest.model_validate_json(text).receipt(self.uri)
        self._storage.write(MANIFEST_NAME, text.encode())
        return receipt

    def _add(self, name: str, content: Path | bytes) -> None:
        if checked_name(name) == MANIFEST_NAME or name in self._contents:
            raise ValueError(f"{self.uri} has {name!r} already")
        self._contents[name] = content

    def _retire_other_content(self) -> None:
        if not self._storage.exists(MANIFEST_NAME):
            return
        objects = in_parallel(lambda name: describe(name, self._contents[name]), sorted(self._contents))
        try:
            unchanged = read_manifest(self.uri).objects == objects
        except IntegrityError:
            unchanged = False
        if not unchanged:
            self._storage.delete(MANIFEST_NAME)


def write_result(
    storage_uri: str, *, prefix: str, kind: Kind, stage: str, key: str, parents: Mapping[str, Receipt]
) -> ResultWriter:
    """Begins a result at `<storage_uri>/<prefix>`.

    Args:
        storage_uri: Root of a run's storage.
        prefix: Where below it, by convention `<kind folder>/<first 16 hex digits of the key>`.
        kind: What the result is.
        stage: Stage that makes it.
        key: SHA-256 over all it depends on, from `receipt.result_key`.
        parents: Results it is made from, by role.
    """
    draft = Manifest(
        kind=kind,
        stage=stage,
        key=key,
        objects=[],
        parents={role: parent.as_parent() for role, parent in parents.items()},
    )
    return ResultWriter(open_storage(storage_uri).at(prefix), draft)


def find_result(storage_uri: str, prefix: str) -> Receipt | None:
    """Returns the receipt of a finished result, or `None` where there is no manifest.

    Raises:
        IntegrityError: There is a manifest and it cannot be read as one.
        StorageError: The storage cannot be reached or refuses.
    """
    storage = open_storage(storage_uri).at(prefix)
    if not storage.exists(MANIFEST_NAME):
        return None
    return read_manifest(storage.uri).receipt(storage.uri)


def read_manifest(uri: str) -> Manifest:
    """Reads the manifest at the prefix of a result.

    Raises:
        IntegrityError: It is missing or malformed.
    """
    storage = open_storage(uri)
    try:
        text = storage.read(MANIFEST_NAME)
    except IntegrityError as error:
        raise IntegrityError(
            f"{storage.uri} has no {MANIFEST_NAME}: it was never finished or was deleted; run again to make it"
        ) from error
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the text"
        raise IntegrityError(
            f"{storage.uri_of(MANIFEST_NAME)} is not a manifest ({place}: {first['msg']}); {_remedy(storage)}"
        ) from error


def fetch(receipt: Receipt, destination: Path, names: Iterable[str] | None = None) -> Path:
    """Returns a folder with a result's objects, each verified against the manifest.

    Where objects are files, that is the stored folder itself: nothing is copied, and nothing may be changed in
    it. From S3 they are downloaded, several at a time; what an earlier call left whole is not downloaded again.
    A result that turns out to be damaged is marked as such, so that the next run does not trust it.

    Args:
        receipt: The result.
        destination: Folder for downloaded objects; not used where objects are files.
        names: Objects, or folders of objects, to fetch; all of them without it.

    Raises:
        IntegrityError: An object (or the manifest) is missing, truncated or altered, named by its URI.
    """
    storage = open_storage(receipt.uri)
    manifest = manifest_of(receipt.uri, receipt.digest)
    wanted = _selected(manifest, storage, names)
    folder = storage.local_path() or destination
    with byte_counter(f"fetch {receipt.kind}", sum(stored.size_bytes for stored in wanted)) as count_bytes:

        def fetch_one(stored: StoredObject) -> None:
            path, target = storage.local_path(stored.name), destination / checked_name(stored.name)
            try:
                if path:
                    check_file(storage.uri_of(stored.name), path, stored)
                elif not (target.is_file() and describe(stored.name, target) == stored):
                    storage.download(stored.name, target, stored, on_bytes=count_bytes)
                    return
                count_bytes(stored.size_bytes)
            except IntegrityError as error:
                storage.write(DAMAGED_NAME, canonical_json([stored.name]).encode())
                raise IntegrityError(f"{error}; run again: the next run makes {storage.uri} anew") from error

        in_parallel(fetch_one, wanted)
    return folder


def discard(result: Receipt | str) -> None:
    """Deletes a result, given by its receipt or its URI: its manifest first, then its objects.

    Raises:
        IntegrityError: There is no manifest, so that this is no result; nothing is deleted.
    """
    storage = open_storage(result if isinstance(result, str) else result.uri)
    if not storage.exists(MANIFEST_NAME):
        raise IntegrityError(f"{storage.uri} has no {MANIFEST_NAME}, so it is not a result; nothing was deleted")
    storage.delete()


def lineage(receipt: Receipt) -> dict[str, Receipt]:
    """Returns the receipts of all that a result was made from, by their digest, each once and parents first.

    Raises:
        IntegrityError: An ancestor has no manifest any more, or was made anew with other content.
    """
    found: dict[str, Receipt] = {}

    def visit(child: Receipt) -> None:
        for parent in child.parents.values():
            if parent.digest not in found:
                ancestor = manifest_of(parent.uri, parent.digest).receipt(parent.uri)
                visit(ancestor)
                found[parent.digest] = ancestor

    visit(receipt)
    return found


def manifest_of(uri: str, digest: str) -> Manifest:
    """Reads the manifest of a result whose content digest is known.

    Raises:
        IntegrityError: It is missing or malformed, or the result was made anew with other content.
    """
    manifest = read_manifest(uri)
    if manifest.digest != digest:
        raise IntegrityError(
            f"{uri} was made anew with other content: its digest should be {digest} and is {manifest.digest}; "
            "run again, so that what depends on it is made from it"
        )
    return manifest


def _selected(manifest: Manifest, storage: Storage, names: Iterable[str] | None) -> list[StoredObject]:
    if names is None:
        return manifest.objects
    wanted: dict[str, StoredObject] = {}
    for name in names:
        below = [stored for stored in manifest.objects if f"{stored.name}/".startswith(f"{name.rstrip('/')}/")]
        if not below:
            present = ", ".join(stored.name for stored in manifest.objects[:10])
            raise IntegrityError(f"{storage.uri} has no object {name!r}; it has {present}")
        wanted.update({stored.name: stored for stored in below})
    return list(wanted.values())


def _remedy(storage: Storage) -> str:
    return f"delete everything below {storage.uri} and run again to make it anew"

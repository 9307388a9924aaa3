"""Finds the model that `lemur serve` is asked for, and brings it to this machine."""

from __future__ import annotations

import os
from pathlib import Path

from lemur import progress
from lemur.errors import ServingError
from lemur.receipt import MANIFEST_NAME, Receipt
from lemur.results import fetch, read_manifest
from lemur.storage import Storage, open_storage

_SERVED_TASKS = {"release": "", "chat": "its tuned model, because it has no release", "base": "its base model"}
"""Results of a run that can be served, best first, and how a lesser one is announced."""


def find_release(text: str) -> Path:
    """Returns a local folder with the model that a path or URI names.

    What stands in object storage is downloaded into the cache (`LEMUR_CACHE`, else `~/.cache/lemur`), and every
    object is verified.

    Args:
        text: A release or checkpoint; a run's record (`<storage>/runs/<name>`), which stands for its release or, for
            want of one, its model; or a local folder that `from_pretrained` reads.

    Raises:
        ServingError: None of these is there; the message says what was looked for.
        IntegrityError: An object is missing or altered.
    """
    storage = open_storage(text)
    if storage.exists(MANIFEST_NAME):
        return _fetched(read_manifest(storage.uri).receipt(storage.uri))
    receipt = _of_run(storage)
    if receipt:
        return _fetched(receipt)
    folder = storage.local_path()
    if folder and (folder / "config.json").is_file():
        return folder
    looked_for = [MANIFEST_NAME, *(f"receipts/{task}.json" for task in _SERVED_TASKS)]
    looked_for += ["config.json"] if folder else []
    raise ServingError(
        f"{storage.uri} holds no model that can be served: there is no {', '.join(looked_for[:-1])} or "
        f"{looked_for[-1]}. Give a release, a checkpoint, or a run's record (<storage>/runs/<name>)"
    )


def _of_run(record: Storage) -> Receipt | None:
    for task, announcement in _SERVED_TASKS.items():
        name = f"receipts/{task}.json"
        if record.exists(name):
            if announcement:
                progress.emit("note", text=f"{record.uri}: serving {announcement}")
            return Receipt.model_validate_json(record.read(name))
    return None


def _fetched(receipt: Receipt) -> Path:
    if receipt.kind not in ("release", "checkpoint"):
        raise ServingError(f"{receipt.uri} is a result of kind {receipt.kind!r}, not a release or a checkpoint")
    return fetch(receipt, _cache() / receipt.digest[:16])


def _cache() -> Path:
    named = os.environ.get("LEMUR_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "lemur" / "models"

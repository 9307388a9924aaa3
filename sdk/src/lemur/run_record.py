"""What is kept of a run by its name: its recipe, its plan and the receipts of its stages.

A run's results are shared with every run that asks for the same; this record says which of them are its own:
`<storage>/runs/<name>/`, with `recipe.json`, `plan.json`, `receipts/<task>.json` and `report.html`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lemur.receipt import Receipt
from lemur.storage import Storage, open_storage

TASKS = {
    "tokens": "token mixture",
    "dialogues": "dialogues for tuning",
    "initial": "initial model",
    "base": "base model",
    "chat": "chat model",
    "scores_initial": "scores of the initial model",
    "scores_base": "scores of the base model",
    "scores_chat": "scores of the chat model",
    "verdict": "gate's verdict",
    "release": "release",
    "endpoint": "first dialogues with the release",
}
"""What a run makes, in order, as people call it."""


class RunRecord:
    """The record of one run.

    Args:
        storage: Root URI of the recipe's storage.
        name: Name of the run.
    """

    def __init__(self, storage: str, name: str) -> None:
        root = open_storage(storage)
        self._root_uri = root.uri
        self._folder: Storage = root.at(f"runs/{name}")

    @property
    def root_uri(self) -> str:
        """Canonical URI of the storage."""
        return self._root_uri

    @property
    def uri(self) -> str:
        """Where the record stands."""
        return self._folder.uri

    @property
    def folder(self) -> Storage:
        """The record's place in storage."""
        return self._folder

    def begin(self, *, recipe: Mapping[str, Any], plan: Mapping[str, Any]) -> None:
        """Starts the record anew: writes recipe and plan, and forgets the receipts of an earlier run."""
        self._folder.at("receipts").delete()
        self._folder.write("recipe.json", json.dumps(recipe, indent=2).encode())
        self._folder.write("plan.json", json.dumps(plan, indent=2).encode())

    def keep(self, task: str, receipt: Receipt) -> None:
        """Keeps what a stage made, under one of `TASKS`."""
        self._folder.write(f"receipts/{task}.json", receipt.model_dump_json(indent=2).encode())

    def receipts(self) -> dict[str, Receipt]:
        """Returns the receipts kept so far, in the order of `TASKS`."""
        kept = {stored.name for stored in self._folder.list("receipts/")}
        return {
            task: Receipt.model_validate_json(self._folder.read(f"receipts/{task}.json"))
            for task in TASKS
            if f"receipts/{task}.json" in kept
        }

"""A release: the tuned model with all that is needed to load, serve and judge it, in one folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lemur.errors import GateError
from lemur.receipt import Receipt, result_key
from lemur.results import fetch, lineage, read_manifest, write_result
from lemur.run_record import RunRecord
from lemur.serving.model_card import model_card

_NOT_RELEASED = {"metrics.jsonl", "training_args.bin", "README.md"}
"""Objects of a checkpoint that are about its training and not part of the model."""


def release_prefix(name: str, *, chat: Receipt, verdict: Receipt) -> str:
    """Returns where below a storage the release of a model stands."""
    return f"releases/{name}-{_key(name, chat, verdict)[:12]}"


def publish(*, name: str, storage: str, chat: Receipt, verdict: Receipt) -> Receipt:
    """Writes the release of a model that passed the gate.

    Besides the model's own files it has `README.md`, the model card; `receipts.json`, the receipts of everything
    it was made from, parents first; and `recipe.json`, where the run's record has one.

    Args:
        name: Name of the run and of its release.
        storage: Root URI of the recipe's storage.
        chat: The tuned model.
        verdict: The gate's verdict on it.

    Raises:
        GateError: The verdict is not a pass.
        IntegrityError: An object of the model, or a receipt of what it was made from, is missing or altered.
    """
    _refuse_unless_accepted(name, verdict)
    key = _key(name, chat, verdict)
    prefix = release_prefix(name, chat=chat, verdict=verdict)
    parents = {"chat": chat, "verdict": verdict}
    writer = write_result(storage, prefix=prefix, kind="release", stage="publish", key=key, parents=parents)
    receipts = _with_ancestors(chat, verdict)
    recipe = _recipe(storage, name)
    names = [stored.name for stored in read_manifest(chat.uri).objects if stored.name not in _NOT_RELEASED]
    with tempfile.TemporaryDirectory(prefix="lemur-publish-") as scratch:
        model = fetch(chat, Path(scratch), names)
        for object_name in names:
            writer.add(object_name, model / object_name)
        card = model_card(name=name, uri=writer.uri, chat=chat, verdict=verdict, receipts=receipts, recipe=recipe)
        writer.add_bytes("README.md", card.encode())
        writer.add_bytes("receipts.json", _as_json([receipt.model_dump(mode="json") for receipt in receipts]))
        if recipe:
            writer.add_bytes("recipe.json", _as_json(recipe))
        return writer.commit(
            metadata={"name": name, "num_parameters": chat.metadata["num_parameters"], "model_objects": names}
        )


def _key(name: str, chat: Receipt, verdict: Receipt) -> str:
    return result_key("publish", {"name": name}, {"chat": chat, "verdict": verdict})


def _refuse_unless_accepted(name: str, verdict: Receipt) -> None:
    if verdict.metadata["accepted"]:
        return
    outcome = verdict.metadata["outcome"].replace("_", " ")
    reasons = [f"  {rule['sentence']}" for rule in verdict.metadata["rules"] if rule["outcome"] != "pass"]
    raise GateError("\n".join([f"{name} is not published, because the gate's verdict is: {outcome}", *reasons]))


def _with_ancestors(*receipts: Receipt) -> list[Receipt]:
    found: dict[str, Receipt] = {}
    for receipt in receipts:
        found |= lineage(receipt) | {receipt.digest: receipt}
    return list(found.values())


def _recipe(storage: str, name: str) -> dict[str, Any]:
    folder = RunRecord(storage, name).folder
    recipe: dict[str, Any] = json.loads(folder.read("recipe.json")) if folder.exists("recipe.json") else {}
    return recipe


def _as_json(value: dict[str, Any] | Iterable[Any]) -> bytes:
    return json.dumps(value, indent=2, ensure_ascii=False).encode()

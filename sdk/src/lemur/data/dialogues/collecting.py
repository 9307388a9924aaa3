"""The dialogues for tuning: one file from all sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lemur.data.dialogues.messages import as_dialogue
from lemur.data.reading.documents import Tally
from lemur.data.scratch import scratch_folder
from lemur.data.source import Source
from lemur.errors import RecipeError
from lemur.progress import task
from lemur.receipt import Receipt, result_key
from lemur.recipe import DataSection
from lemur.results import write_result
from lemur.reuse import reuse

_PLAN_ONLY = {"available_tokens", "available_records"}
"""Fields of a source that only a plan reads."""


def collect_dialogues(*, data: DataSection, storage: str) -> Receipt:
    """Collects the dialogues for tuning, or finds the file made before from the same sources.

    Args:
        data: Its `dialogues` are read; each source's weight is the number of times its dialogues stand in the file.
        storage: Root URI of the recipe's storage.

    Returns:
        Receipt of kind `dialogues`; with no sources the file is empty.

    Raises:
        RecipeError: A weight is no whole number, or a source cannot be read, or too many of its dialogues.
        StorageError: The storage or the scratch disk is full, cannot be reached or refuses.
    """
    for source in data.dialogues:
        if source.weight != int(source.weight):
            raise RecipeError(
                f"data.dialogues {source.name!r} has weight {source.weight:g}, the number of times its dialogues are "
                "repeated; it must be a whole number"
            )
    section = {"dialogues": [source.model_dump(mode="json", exclude=_PLAN_ONLY) for source in data.dialogues]}
    fingerprints = {source.name: source.fingerprint() for source in data.dialogues}
    key = result_key("mix/dialogues", section, {}, fingerprints=fingerprints)
    prefix = f"dialogues/{key[:16]}"
    found = reuse(storage, prefix, stage="mix")
    if found:
        return found
    with scratch_folder() as scratch:
        writer = write_result(storage, prefix=prefix, kind="dialogues", stage="mix", key=key, parents={})
        path = scratch / "dialogues.jsonl"
        path.touch()
        max_share = data.cleaning.max_unreadable
        sources = {source.name: _append_dialogues(source, path, max_share) for source in data.dialogues}
        writer.add(path.name, path)
        return writer.commit(
            metrics={"dialogues": sum(source["repeated"] for source in sources.values())},
            metadata={"sources": sources},
        )


def _append_dialogues(source: Source, path: Path, max_share: float) -> dict[str, Any]:
    tally, lines = Tally(), []
    with task(f"collect {source.name}", unit="dialogues") as bar:
        for record in tally.read(source, max_share=1):
            bar.advance()
            try:
                dialogue = as_dialogue(record.fields)
            except ValueError as error:
                tally.refuse(record.origin, str(error))
                continue
            line = {**dialogue, "source": source.name, "origin": record.origin}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    # Dialogues are judged when all are read: a record that can be read may still be no dialogue.
    tally.check(source.name, max_share)
    with path.open("a", encoding="utf-8") as file:
        for _ in range(int(source.weight)):
            file.writelines(lines)
    return {"dialogues": len(lines), "repeated": len(lines) * int(source.weight), **tally.metadata()}

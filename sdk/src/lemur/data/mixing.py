"""The mix stage: sources become a token dataset with held-out documents, and a file of dialogues."""

from __future__ import annotations

import errno
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lemur.data.dataset_maker import DatasetMaker
from lemur.data.dialogues import as_messages
from lemur.data.reading import Tally
from lemur.data.source import Source
from lemur.data.tokenizing import Encoder, load_tokenizer, sample_texts, tokenizer_fingerprint, train_tokenizer
from lemur.errors import RecipeError, StorageError
from lemur.mixture import mixture_shares
from lemur.progress import task
from lemur.receipt import Receipt, result_key
from lemur.recipe import DataSection, ModelSection, TrainedTokenizer
from lemur.results import write_result
from lemur.reuse import reuse

_PLAN_ONLY = {"available_tokens", "available_records"}
"""Fields of a source that only a plan reads."""


def mix_tokens(*, model: ModelSection, data: DataSection, storage: str) -> Receipt:
    """Makes the token dataset, or finds the one made before from the same sources and settings.

    Args:
        model: Its tokenizer is used.
        data: Sources, shares, held-out fraction and layout.
        storage: Root URI of the recipe's storage.

    Returns:
        Receipt of kind `tokens`: the tokenizer, the shards and their index, the held-out documents.

    Raises:
        RecipeError: A source cannot be read, or too many of its records; or the tokenizer does not fit.
        PlanError: A source holds less than one sequence, or its weight is too small.
        StorageError: The storage or the scratch disk is full, cannot be reached or refuses.
    """
    section = {
        "tokenizer": model.tokenizer.model_dump(mode="json"),
        "data": data.model_dump(mode="json", exclude={"sources", "dialogues"}),
        "sources": [source.model_dump(mode="json", exclude=_PLAN_ONLY) for source in data.sources],
    }
    fingerprints = {source.name: source.fingerprint() for source in data.sources}
    tokenizer = tokenizer_fingerprint(model.tokenizer)
    key = result_key("mix/tokens", section, {}, fingerprints=fingerprints, tokenizer=tokenizer)
    prefix = f"tokens/{key[:16]}"
    found = reuse(storage, prefix, stage="mix")
    if found:
        return found
    with _scratch_folder() as scratch:
        folder = scratch / "result"
        maker = DatasetMaker(data, _tokenizer(model, data, folder / "tokenizer"), folder=folder, scratch=scratch)
        for source in data.sources:
            maker.add(source)
        metrics, metadata = maker.finish()
        writer = write_result(storage, prefix=prefix, kind="tokens", stage="mix", key=key, parents={})
        writer.add_folder(folder)
        return writer.commit(metrics=metrics, metadata=metadata)


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
    with _scratch_folder() as scratch:
        writer = write_result(storage, prefix=prefix, kind="dialogues", stage="mix", key=key, parents={})
        path = scratch / "dialogues.jsonl"
        path.touch()
        sources = {source.name: _append_dialogues(source, path) for source in data.dialogues}
        writer.add(path.name, path)
        return writer.commit(
            metrics={"dialogues": sum(source["repeated"] for source in sources.values())},
            metadata={"sources": sources},
        )


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Lends a folder that is gone afterwards, and says so where the disk it is on is full."""
    with tempfile.TemporaryDirectory(prefix="lemur-mix-") as folder:
        try:
            yield Path(folder)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise StorageError(
                f"no space left in {folder} for files needed while mixing: make room there, or name a folder with "
                "more room in TMPDIR"
            ) from error


def _tokenizer(model: ModelSection, data: DataSection, folder: Path) -> Encoder:
    section = model.tokenizer
    if not isinstance(section, TrainedTokenizer):
        return load_tokenizer(section, folder)
    texts = sample_texts(
        data.sources,
        mixture_shares(data),
        sample_bytes=section.sample_bytes,
        first_uniform=data.heldout_fraction,
    )
    return train_tokenizer(section, texts, folder)


def _append_dialogues(source: Source, path: Path) -> dict[str, Any]:
    tally, lines = Tally(source.name), []
    with task(f"collect {source.name}", unit="dialogues") as bar:
        for record in tally.read(source):
            bar.advance()
            try:
                messages = as_messages(record.fields)
            except ValueError as error:
                tally.refuse(record.origin, str(error))
                continue
            line = {"messages": messages, "source": source.name, "origin": record.origin}
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    with path.open("a", encoding="utf-8") as file:
        for _ in range(int(source.weight)):
            file.writelines(lines)
    return {"dialogues": len(lines), "repeated": len(lines) * int(source.weight), **tally.metadata()}

"""Lemur's three steps of mixing as processes to be measured: `python -m benchmarks.data.ours STEP FOLDER`.

Each step is a process of its own, as it is in the pipeline.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STEPS = ("partition", "tokenize", "mix")
"""The steps, in order."""


def settings(
    tokenizer: Path, vocab_size: int, files: Sequence[Path], storage: Path | str, data: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what `main` reads: the three steps' sections.

    Args:
        tokenizer: Folder of the tokenizer.
        vocab_size: Its entries.
        files: The corpus.
        storage: Folder, or URI, of the results.
        data: Fields of the data section beside the source.
    """
    kind = "parquet" if files[0].suffix == ".parquet" else "jsonl"
    small = {"hidden_size": 64, "intermediate_size": 64, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1}
    return {
        "storage": str(storage),
        "model": {
            "start": {"kind": "random"},
            "architecture": {**small, "max_position": 4096},
            "tokenizer": {"kind": "pretrained", "name": str(tokenizer), "vocab_size": vocab_size},
        },
        "data": {
            "sources": [{"kind": kind, "name": "corpus", "root": [str(path) for path in files]}],
            "sequence_length": 4096,
            **data,
        },
    }


def main(step: str, folder: Path) -> None:
    """Runs one step and prints its figures; receipts wait in the folder for the next step.

    Args:
        step: One of `STEPS`, or `all` for one after another.
        folder: Holds `settings.json`.
    """
    if step == "all":
        for each in STEPS:
            subprocess.run([sys.executable, "-m", "benchmarks.data.ours", each, folder], check=True)
        return
    from lemur import stages
    from lemur.receipt import Receipt

    asked = json.loads((folder / "settings.json").read_text())
    common = {"name": "benchmark", "storage": asked["storage"], "data": asked["data"]}
    listed, made, mixture = (folder / f"{name}.json" for name in ("partitions", "documents", "tokens"))
    if step == "partition":
        partitioned = stages.partition(**common, model=asked["model"])
        partitioned.partitions.save(str(listed))
        figures: dict[str, Any] = dict(partitioned.partitions.metrics)
    elif step == "tokenize":
        receipts = stages.tokenize(**common, worker=0, partitions=Receipt.load(str(listed)))
        made.write_text(json.dumps([receipt.model_dump(mode="json") for receipt in receipts]))
        figures = {name: int(sum(one.metrics[name] for one in receipts)) for name in ("tokens", "bytes", "documents")}
    else:
        documents = [Receipt.model_validate(value) for value in json.loads(made.read_text())]
        mixed = stages.mix(**common, partitions=Receipt.load(str(listed)), documents=documents)
        mixed.tokens.save(str(mixture))
        figures = {"sources": mixed.tokens.metadata["sources"]}
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))

"""Which library encodes a run, found out in a process of its own: `python -m lemur.data.partitions.checking`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import get_args

from lemur.data.partitions.listing import LIST_NAME, PartitionList
from lemur.data.partitions.worker import WorkDescription
from lemur.data.reading.documents import Document, Tally, read_documents
from lemur.data.tokenizer import encoder_check
from lemur.data.tokenizer.encoder import EngineName
from lemur.errors import LemurError, error_classes
from lemur.lifeline import end_with_parent
from lemur.recipe import DataSection

_SAMPLED_DOCUMENTS = 50


def choose_engine(description: Path, numbers: Sequence[int]) -> EngineName:
    """Compares the encoders on documents of this run.

    Args:
        description: File with the step's `WorkDescription`.
        numbers: Partitions whose first documents are compared.

    Raises:
        LemurError: The tokenizer cannot be used, or a partition not be read; or the process ended without a word.
    """
    arguments = [str(os.getpid()), str(description), str(encoder_check.LINE_BYTES), *map(str, numbers)]
    command = [sys.executable, "-m", "lemur.data.partitions.checking", *arguments]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = ended.stdout.splitlines()
    message = json.loads(lines[-1]) if lines else {}
    if "engine" in message:
        return next(name for name in get_args(EngineName) if name == message["engine"])
    ending = f"the process that compares encoders ended with exit code {ended.returncode}; run again"
    raise error_classes().get(message.get("error", ""), LemurError)(message.get("message", ending))


def _sample(description: WorkDescription, listed: PartitionList, numbers: Sequence[int]) -> Iterator[Document]:
    sources = {source.name: source for source in DataSection.model_validate(description.data).sources}
    for partition in (listed.partitions[number] for number in numbers):
        documents = read_documents(sources[partition.source], Tally(), partition.partition, max_share=1)
        yield from islice(documents, _SAMPLED_DOCUMENTS)


def main() -> int:
    """Says which engine it is; returns 1 where the tokenizer cannot be used, having said why."""
    end_with_parent(int(sys.argv[1]))
    description = WorkDescription.model_validate_json(Path(sys.argv[2]).read_bytes())
    listed = PartitionList.model_validate_json((description.folder / LIST_NAME).read_bytes())
    try:
        choice = encoder_check.check_encoder(
            description.folder / "tokenizer",
            _sample(description, listed, list(map(int, sys.argv[4:]))),
            end_of_text_id=listed.end_of_text_id,
            line_bytes=int(sys.argv[3]),
        )
    except LemurError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        return 1
    print(json.dumps(choice._asdict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())

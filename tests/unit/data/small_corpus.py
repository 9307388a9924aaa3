"""A small corpus, the steps that mix it, and a reader of what they stored that knows nothing of lemur's."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from small_tokenizers import END, definition, end_id, save
from tokenizers import Tokenizer

from lemur.data.mixing.mixing import mix_tokens
from lemur.data.partitions.listing import list_partitions, read_partitions
from lemur.data.partitions.worker import WorkDescription, Worker
from lemur.data.tokenizer.encoder import EngineName
from lemur.receipt import Receipt
from lemur.recipe import DataSection, ModelSection

LENGTH = 32
"""Tokens in a sequence."""
WORDS = ("import", "return", "class", "yield", "value", "while", "print", "self", "little", "tokens", "one", "text")
HOSTILE = [
    "before <|endoftext|> after",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "<|endoftext|>",
    "Ünïcödé, 東京, 👩‍👩‍👧 and\r\n\ttabs\0\x01\x7f\u200b\ufeff",
    " " * 300 + "\r\n\r\n",
    "é",
]
"""Texts that say what a tokenizer means by itself, or that are easily changed on the way."""


def document(number: int, num_words: int = 12) -> str:
    return f"# file {number}\n" + " ".join(random.Random(number).choices(WORDS, k=num_words)) + "\n"


def write_lines(path: Path, texts: Iterable[str]) -> list[str]:
    """Writes documents as JSON lines, and returns them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = list(texts)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return texts


def write_corpus(folder: Path) -> dict[str, list[str]]:
    """Writes a source of three files and one of two, and returns each one's documents in order."""
    code = [write_lines(folder / f"code/{name}.jsonl", map(document, range(first, first + 40)))
            for name, first in (("a", 0), ("b", 40), ("c", 80))]  # fmt: skip
    code[1] += write_lines(folder / "code/b.jsonl", [*code[1], *HOSTILE])[-len(HOSTILE) :]
    text = [
        write_lines(folder / "text/a.jsonl", (document(number, 80) for number in range(1000, 1012))),
        write_lines(folder / "text/b.jsonl", (document(number) for number in range(1012, 1040))),
    ]
    return {"code": [*code[0], *code[1], *code[2]], "text": [*text[0], *text[1]]}


def save_tokenizer(folder: Path) -> ModelSection:
    """Saves a tokenizer as transformers does, and returns a model that takes it."""
    content = definition("bytes")
    content["decoder"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END["bytes"]}
    (save(content, folder) / "tokenizer_config.json").write_text(json.dumps(settings))
    return model(kind="pretrained", name=str(folder), vocab_size=len(content["model"]["vocab"]))


def model(**tokenizer: Any) -> ModelSection:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1}
    architecture = {**sizes, "max_position": 64}
    return ModelSection.model_validate(
        {"start": {"kind": "random"}, "architecture": architecture, "tokenizer": tokenizer}
    )


def section(corpus: Path | str, *, code: Any = None, text: Any = None, **changes: Any) -> DataSection:
    """Returns settings of a corpus: every file a partition, nothing held out; with changes, also to either source."""
    sources = [
        {"kind": "jsonl", "name": name, "group": name, "root": f"{corpus}/{name}", **(more or {})}
        for name, more in (("code", code), ("text", text))
    ]
    return DataSection.model_validate({
        "sources": sources, "groups": {"code": 10, "text": 1}, "sequence_length": LENGTH,
        "heldout_fraction": 0, "partition_bytes": 1, **changes,
    })  # fmt: skip


def tokenize_here(
    data: DataSection, partitions: Receipt, storage: str, work: Path, engine: EngineName = "fastokens"
) -> list[Receipt]:
    """Tokenizes all partitions within this process."""
    listed, folder = read_partitions(partitions, work)
    described = WorkDescription(storage=storage, folder=folder, engine=engine, data=data.model_dump(mode="json"))
    worker = Worker(described, lambda message: None)
    return [worker.make(number) for number in range(len(listed.partitions))]


class Made(NamedTuple):
    """What the steps made."""

    partitions: Receipt
    documents: list[Receipt]
    tokens: Receipt


def mix_here(tokenizer: ModelSection, data: DataSection, folder: Path) -> Made:
    """Takes all three steps within this process; the storage lies below the folder."""
    storage = str(folder / "storage")
    partitions = list_partitions(model=tokenizer, data=data, storage=storage)
    documents = tokenize_here(data, partitions, storage, folder / "work")
    return Made(partitions, documents, mix_tokens(data=data, partitions=partitions, documents=documents,
                                                  storage=storage))  # fmt: skip


class StoredPiece(NamedTuple):
    """A piece of a sequence."""

    partition: int
    start: int
    length: int
    document: int


class StoredMixture:
    """A mixture below a storage folder, read byte by byte as its layout is written down."""

    def __init__(self, receipt: Receipt) -> None:
        self.folder = path_of(receipt)
        self.index = json.loads((self.folder / "dataset.json").read_text())
        self.partitions: list[dict[str, Any]] = pq.read_table(self.folder / "partitions.parquet").to_pylist()
        self.end_of_text: int = self.index["end_of_text_id"]
        self._tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer/tokenizer.json"))

    def tokens(self, partition: int) -> npt.NDArray[Any]:
        folder = self.folder.parents[1] / self.partitions[partition]["documents"]
        return np.fromfile(folder / "tokens.bin", self.index["dtype"])

    def sequences(self, source: str) -> Iterator[list[StoredPiece]]:
        dtype = np.dtype([("start", "<u8"), ("length", "<u4"), ("document", "<u4")])
        pieces = np.fromfile(self.folder / f"sequences/{source}/pieces.bin", dtype).tolist()
        firsts = np.fromfile(self.folder / f"sequences/{source}/firsts.bin", "<u8").tolist()
        numbers = [number for number, row in enumerate(self.partitions) if row["source"] == source]
        of_sequence = [number for number in numbers for _ in range(self.partitions[number]["num_sequences"])]
        assert (len(of_sequence), firsts[-1]) == (len(firsts) - 1, len(pieces))
        for partition, first, following in zip(of_sequence, firsts[:-1], firsts[1:], strict=True):
            yield [StoredPiece(partition, *piece) for piece in pieces[first:following]]

    def texts(self, source: str) -> list[str]:
        """Returns the documents that the sequences of a source hold, put together again; each token stands once."""
        found: dict[tuple[int, int], list[tuple[int, list[int]]]] = {}
        for sequence in self.sequences(source):
            assert 0 < sum(piece.length for piece in sequence) <= self.index["sequence_length"]
            for partition, start, length, document in sequence:
                ids = self.tokens(partition)[start : start + length].tolist()
                assert len(ids) == length
                found.setdefault((partition, document), []).append((start, ids))
        return [self._text(sorted(pieces)) for _, pieces in sorted(found.items())]

    def heldout(self, source: str) -> list[dict[str, Any]]:
        return read_lines(self.folder / f"heldout/{source}.jsonl")

    def _text(self, pieces: Sequence[tuple[int, list[int]]]) -> str:
        begin = pieces[0][0]
        for start, ids in pieces:
            assert start == begin, "a token is missing, or stands twice"
            begin += len(ids)
        *ids, end = (token for _, part in pieces for token in part)
        assert end == self.end_of_text
        assert self.end_of_text not in ids
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text


def path_of(receipt: Receipt) -> Path:
    return Path(receipt.uri.removeprefix("file://"))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def documents_by_name(receipts: Iterable[Receipt]) -> dict[str, str]:
    """Returns the content digest of each result by where it stands."""
    return {receipt.uri.rpartition("/")[2]: receipt.digest for receipt in receipts}


END_OF_TEXT_ID = end_id(definition("bytes"))

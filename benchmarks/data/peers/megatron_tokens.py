"""megatron-core: IndexedDatasetBuilder fed by a pool of processes that tokenize, as its preprocess_data.py does.

Arguments: tokenizer.json, id of the end-of-text token, output folder, number of processes, JSONL files.
"""

import json
import sys
from multiprocessing import Pool

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
from tokenizers import Tokenizer

TOKENIZER, END_OF_TEXT, OUT, PROCESSES, *FILES = sys.argv[1:]
_STATE: dict[str, Tokenizer] = {}


def start() -> None:
    """Opens the tokenizer of a process."""
    _STATE["tokenizer"] = Tokenizer.from_file(TOKENIZER)


def encode(line: bytes) -> list[int]:
    """Returns the ids of one document."""
    text = json.loads(line)["text"]
    return [*_STATE["tokenizer"].encode(text, add_special_tokens=False).ids, int(END_OF_TEXT)]


if __name__ == "__main__":
    builder = IndexedDatasetBuilder(f"{OUT}/tokens.bin", dtype=np.uint16)
    total = 0
    with Pool(int(PROCESSES), start) as pool:
        for name in FILES:
            with open(name, "rb") as lines:
                for ids in pool.imap(encode, lines, 32):
                    builder.add_document(torch.tensor(ids, dtype=torch.int64), [len(ids)])
                    total += len(ids)
    builder.finalize(f"{OUT}/tokens.idx")
    print(json.dumps({"tokens": total}))

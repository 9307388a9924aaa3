"""Hugging Face datasets: load JSON, map to ids, map to blocks of 4,096, save.

Arguments: tokenizer.json, id of the end-of-text token, output folder, number of processes, JSONL files.
"""

import itertools
import json
import os
import sys
from typing import Any

from datasets import load_dataset
from tokenizers import Tokenizer

os.environ["TOKENIZERS_PARALLELISM"] = "false"
TOKENIZER, END_OF_TEXT, OUT, PROCESSES, *FILES = sys.argv[1:]
_LENGTH = 4096


def encode(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Returns the ids of a batch of documents."""
    encodings = Tokenizer.from_file(TOKENIZER).encode_batch_fast(batch["text"], add_special_tokens=False)
    return {"input_ids": [[*encoding.ids, int(END_OF_TEXT)] for encoding in encodings]}


def pack(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Returns blocks of the documents of a batch one after another; the last one of a batch is shorter."""
    ids = list(itertools.chain.from_iterable(batch["input_ids"]))
    return {"input_ids": [ids[start : start + _LENGTH] for start in range(0, len(ids), _LENGTH)]}


if __name__ == "__main__":
    processes = int(PROCESSES)
    loaded = load_dataset("json", data_files=FILES, split="train", cache_dir=f"{OUT}/cache")
    encoded = loaded.map(encode, batched=True, num_proc=processes, remove_columns=loaded.column_names)
    packed = encoded.map(pack, batched=True, num_proc=processes)
    packed.save_to_disk(f"{OUT}/packed", num_proc=processes)
    print(json.dumps({"tokens": sum(map(len, packed.with_format("numpy")["input_ids"]))}))

"""Plain `tokenizers`: encode_batch_fast in several processes, two-byte ids and the documents' ends in files.

Arguments: tokenizer.json, id of the end-of-text token, output folder, number of processes, JSONL files.
"""

import json
import os
import sys
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import orjson
from tokenizers import Tokenizer

os.environ["TOKENIZERS_PARALLELISM"] = "false"
TOKENIZER, END_OF_TEXT, OUT, PROCESSES, *FILES = sys.argv[1:]
_BATCH_BYTES = 2**20


def convert(name: str) -> int:
    """Tokenizes one file and returns its number of tokens."""
    tokenizer = Tokenizer.from_file(TOKENIZER)
    tokenizer.encode_special_tokens = True
    ends, num_tokens, batch, num_bytes = [], 0, [], 0
    with open(name, "rb") as lines, open(Path(OUT, Path(name).stem + ".bin"), "wb") as tokens:

        def write() -> int:
            written = 0
            for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                ids = [*encoding.ids, int(END_OF_TEXT)]
                written += len(ids)
                ends.append(num_tokens + written)
                tokens.write(np.array(ids, "<u2").data)
            batch.clear()
            return written

        for line in lines:
            batch.append(orjson.loads(line)["text"])
            num_bytes += len(line)
            if num_bytes > _BATCH_BYTES:
                num_tokens, num_bytes = num_tokens + write(), 0
        num_tokens += write()
    np.save(Path(OUT, Path(name).stem + ".ends.npy"), np.array(ends, np.uint64))
    return num_tokens


if __name__ == "__main__":
    with Pool(int(PROCESSES)) as pool:
        print(json.dumps({"tokens": sum(pool.imap_unordered(convert, FILES))}))

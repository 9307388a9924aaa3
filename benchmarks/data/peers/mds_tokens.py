"""mosaicml-streaming: MDSWriter of packed blocks of 4,096, a writer for each process.

Arguments: tokenizer.json, id of the end-of-text token, output folder, number of processes, JSONL files.
"""

import json
import os
import sys
import types
from importlib.machinery import ModuleSpec
from multiprocessing import Pool
from pathlib import Path


def _anything(attribute: str) -> type:
    if attribute.startswith("__"):
        raise AttributeError(attribute)
    return type(attribute, (), {})


# The library imports torchvision for vision datasets, and no build of it matches a torch for CPUs.
for _name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.datasets"):
    _module = sys.modules[_name] = types.ModuleType(_name)
    _module.__spec__ = ModuleSpec(_name, None)
    _module.__getattr__ = _anything  # type: ignore[method-assign]

import numpy as np  # noqa: E402
from streaming import MDSWriter  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

os.environ["TOKENIZERS_PARALLELISM"] = "false"
TOKENIZER, END_OF_TEXT, OUT, PROCESSES, *FILES = sys.argv[1:]
_LENGTH = 4096
_BATCH_DOCUMENTS = 64


def convert(name: str) -> int:
    """Tokenizes one file and returns its number of tokens; what does not fill a block is left out of it."""
    tokenizer = Tokenizer.from_file(TOKENIZER)
    waiting, num_tokens, batch = [], 0, []
    columns = {"tokens": f"ndarray:uint16:{_LENGTH}"}
    with open(name, "rb") as lines, MDSWriter(out=str(Path(OUT, Path(name).stem)), columns=columns) as writer:
        for line in [*lines, None]:
            if line is not None:
                batch.append(json.loads(line)["text"])
            if len(batch) == _BATCH_DOCUMENTS or line is None:
                for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                    waiting += [*encoding.ids, int(END_OF_TEXT)]
                    num_tokens += len(encoding.ids) + 1
                batch = []
                full = len(waiting) // _LENGTH * _LENGTH
                for start in range(0, full, _LENGTH):
                    writer.write({"tokens": np.array(waiting[start : start + _LENGTH], np.uint16)})
                waiting = waiting[full:]
    return num_tokens


if __name__ == "__main__":
    with Pool(int(PROCESSES)) as pool:
        print(json.dumps({"tokens": sum(pool.imap_unordered(convert, FILES))}))

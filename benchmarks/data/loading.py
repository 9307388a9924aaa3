"""A data loader over a mixture, as a process to be measured.

`python -m benchmarks.data.loading RECEIPT FOLDER BATCH_TOKENS WORKERS SECONDS`: the training stream is read from its
beginning with the dataset that pretraining uses, for some seconds or one pass, whichever ends first; and then again.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(receipt_path: str, folder: str, batch_tokens: int, num_workers: int, max_seconds: float) -> None:
    """Reads twice, and prints how many tokens came in how many seconds."""
    from torch.utils.data import DataLoader

    from lemur.dataset import open_dataset
    from lemur.receipt import Receipt
    from lemur.training.pretraining import Sequences

    tokens = open_dataset(Receipt.load(receipt_path), Path(folder), verify=False)
    sequences = Sequences(tokens, first=0, num_sequences=len(tokens), isolate_documents=True)
    batch_sequences = batch_tokens // tokens.sequence_length
    passes = []
    for _ in range(2):
        loader = DataLoader(sequences, batch_size=batch_sequences, num_workers=num_workers, drop_last=True)
        started = time.perf_counter()
        batches = iter(loader)
        next(batches)
        clock, num_sequences = time.perf_counter(), 0
        for batch in batches:
            num_sequences += len(batch["input_ids"])
            if time.perf_counter() - clock > max_seconds:
                break
        seconds = time.perf_counter() - clock
        num_tokens = num_sequences * tokens.sequence_length
        passes.append({"tokens": num_tokens, "seconds": seconds, "first_batch_seconds": clock - started})
    print(json.dumps({"passes": passes}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))

"""What reading the corpus alone costs, as a process to be measured: `python -m benchmarks.data.bare PROCESSES FILE…`.

Zstandard is decompressed, Parquet's text column is decoded, JSON Lines are parsed; nothing is done with the text.
"""

from __future__ import annotations

import json
import sys
from multiprocessing import Pool

_PIECE_BYTES = 2**20


def read(name: str) -> int:
    """Reads one file and returns how many bytes came out."""
    if name.endswith(".zst"):
        import zstandard

        with open(name, "rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
            return sum(map(len, iter(lambda: stream.read(_PIECE_BYTES), b"")))
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        with pq.ParquetFile(name) as opened:
            batches = opened.iter_batches(batch_size=1000, columns=["text"], use_threads=False)
            return sum(batch.nbytes for batch in batches)
    import orjson

    with open(name, "rb") as file:
        return sum(len(orjson.loads(line)["text"]) for line in file)


if __name__ == "__main__":
    with Pool(int(sys.argv[1])) as pool:
        print(json.dumps({"bytes": sum(pool.imap_unordered(read, sys.argv[2:]))}))

"""What each way of packing costs on the corpus' own documents."""

from __future__ import annotations

import time

import numpy as np

from benchmarks.data.bench import Bench
from benchmarks.data.tables import Table, middle

_LENGTHS = (2048, 4096, 8192)


def packing(bench: Bench) -> list[Table]:
    """Packs every partition of the corpus, as the mix step does."""
    from lemur.data.mixing.packing import pack

    partitions = [ends.astype(np.int64) for ends in bench.document_ends()]
    lengths = [np.diff(ends, prepend=0) for ends in partitions]
    num_documents = sum(map(len, lengths))
    table = Table(
        f"Packing: {num_documents:,} documents of {sum(int(one.sum()) for one in lengths) / 1e6:,.1f} M tokens",
        ["packing", "sequence length", "padding", "documents cut", "M documents/s"],
    )
    for packing_name in ("concatenate", "best_fit"):
        for length in _LENGTHS:
            rates = []
            for _ in range(bench.repeats):
                started = time.perf_counter()
                packed = [
                    pack(
                        (ends - sizes).astype(np.uint64),
                        sizes,
                        np.arange(len(sizes), dtype=np.uint32),
                        sequence_length=length,
                        packing=packing_name,
                    )
                    for ends, sizes in zip(partitions, lengths, strict=True)
                ]
                rates.append(num_documents / (time.perf_counter() - started) / 1e6)
            padding = sum(one.num_padding_tokens for one in packed)
            share = padding / (padding + sum(one.num_tokens for one in packed))
            cut = sum(one.num_cut_documents for one in packed) / num_documents
            table.add(packing_name, length, f"{share:.3%}", f"{cut:.1%}", middle(rates))
            table.measurements.append(
                {"packing": packing_name, "length": length, "padding": share, "cut": cut, "rates": rates}
            )
    table.notes.append(f"{len(partitions)} partitions, each packed by itself; a few long documents are always cut.")
    return [table]

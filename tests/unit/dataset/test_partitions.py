"""The table of partitions."""

from __future__ import annotations

import pickle
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemur.dataset import PARTITIONS_NAME, PartitionRow, PartitionTable, write_partitions
from lemur.errors import IntegrityError

_ROWS = st.lists(
    st.builds(
        PartitionRow,
        source=st.sampled_from(["code", "text", "books"]),
        documents=st.text("0123456789abcdef", min_size=16, max_size=16).map("documents/{}".format),
        digest=st.text("0123456789abcdef", min_size=64, max_size=64),
        num_sequences=st.integers(0, 3),
        num_tokens=st.integers(0, 2**40),
        num_documents=st.integers(0, 2**40),
    ),
    max_size=30,
)


@settings(max_examples=50, deadline=None)
@given(rows=_ROWS)
def test_rows_come_back_and_each_sequence_finds_its_partition(rows: list[PartitionRow]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_partitions(Path(folder), rows)
        table = PartitionTable(Path(folder))

        assert [table.row(number) for number in range(len(table))] == rows
        for source in {row.source for row in rows}:
            expected = [
                number for number, row in enumerate(rows) if row.source == source for _ in range(row.num_sequences)
            ]
            assert [table.locate(source, sequence) for sequence in range(len(expected))] == expected


def test_a_copy_in_another_process_reads_the_file_again(tmp_path: Path) -> None:
    rows = [PartitionRow("code", f"documents/{number:016x}", "a" * 64, 2, 3, 4) for number in range(1000)]
    write_partitions(tmp_path, rows)

    copied = pickle.dumps(PartitionTable(tmp_path))

    assert len(copied) < 1000
    assert pickle.loads(copied).row(999) == rows[999]


@pytest.mark.parametrize("content", [None, b"", b"PAR1 no table PAR1"])
def test_what_is_no_table_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / PARTITIONS_NAME).write_bytes(content)

    with pytest.raises(IntegrityError, match=r"partitions\.parquet is not a table of partitions"):
        PartitionTable(tmp_path)

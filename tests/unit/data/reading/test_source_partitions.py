"""Partitions: whole files in order, each known by its own files, on this machine and in object storage."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from lemur.data.reading import source_files
from lemur.data.reading.file_based import FileBasedSource
from lemur.data.source import Partition, Record, Source, SourceFile, Unreadable
from lemur.errors import RecipeError, StorageError
from lemur.recipe import DataSection
from lemur.storage import open_storage

if TYPE_CHECKING:
    from conftest import S3Server

ROWS = [{"text": f"document {number}\nwith ünïcode", "licence": "mit"} for number in range(20)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
KINDS = ("jsonl", "parquet", "files")


def source(**fields: Any) -> Source:
    data = DataSection.model_validate({"sources": [{"name": "code", **fields}], "sequence_length": 8})
    return data.sources[0]


def write_corpus(folder: Path) -> None:
    """Writes files of every format, in folders, some of them hidden."""
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for name in ("b", "deep/er/a", "deep/c", ".hidden/d"):
        (folder / f"{name}.jsonl").write_bytes(LINES)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(LINES))
        (folder / f"{name}.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(LINES))
        (folder / f"{name}.py").write_text(f"name = {name!r}\n")
        pq.write_table(pa.Table.from_pylist(ROWS), folder / f"{name}.parquet")


def in_parts(found: Source, partitions: list[Partition]) -> list[Record | Unreadable]:
    return [record for partition in partitions for record in found.partition_records(partition)]


def names(partitions: list[Partition]) -> list[list[str]]:
    return [[file.name for file in partition.files] for partition in partitions]


class SizesSource(FileBasedSource):
    """Files that have sizes and nothing else."""

    kind: Literal["sizes"]
    sizes: list[int]
    """One for each file."""

    def files(self) -> list[SourceFile]:
        """Returns the files."""
        return [SourceFile(f"{index:05}", "s3://bucket/file", size) for index, size in enumerate(self.sizes)]

    def read(self, file: SourceFile) -> Iterator[Record]:
        """Yields nothing."""
        return iter(())


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.integers(1, 100))
def test_partitions_are_all_files_in_order_as_full_as_whole_files_allow(sizes: list[int], most: int) -> None:
    found = SizesSource(kind="sizes", name="code", sizes=sizes)

    partitions = found.partitions(most)

    assert [file for partition in partitions for file in partition.files] == found.files()
    assert len({partition.fingerprint for partition in partitions}) == len(partitions)
    for partition, following in zip(partitions, [*partitions[1:], None], strict=True):
        assert partition.estimated_bytes == sum(file.size_bytes for file in partition.files)
        assert partition.estimated_bytes <= most or len(partition.files) == 1
        if following:
            assert partition.estimated_bytes + following.files[0].size_bytes > most


@pytest.mark.parametrize("kind", KINDS)
def test_partitions_read_one_after_another_are_the_source(kind: str, tmp_path: Path) -> None:
    write_corpus(tmp_path)
    found = source(kind=kind, root=str(tmp_path))
    whole = found.partitions(10**9)
    single = found.partitions(1)

    assert len(whole) == 1
    assert len(single) == len(whole[0].files) >= 3
    assert sum(partition.estimated_bytes or 0 for partition in single) == found.estimated_bytes()
    for partitions in (whole, single, found.partitions(2500)):
        assert in_parts(found, partitions) == list(found.records())


def test_what_is_not_made_of_files_is_one_partition() -> None:
    found = source(kind="expressions", num_dialogues=20)

    (partition,) = found.partitions(1)

    assert partition == ((), found.fingerprint(), found.estimated_bytes())
    assert list(found.partition_records(partition)) == list(found.records())


def test_the_standard_library_has_partitions_of_modules() -> None:
    found = source(kind="python_stdlib")

    partitions = found.partitions(2**21)

    assert 4 <= len(partitions) <= 12
    assert sum(len(partition.files) for partition in partitions) == len(list(found.records()))


@pytest.mark.parametrize("digested_bytes", [2**30, 3])
def test_a_change_shows_in_the_fingerprint_of_its_partition_alone(
    digested_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_files, "DIGESTED_BYTES", digested_bytes)
    for name in "abcd":
        (tmp_path / f"{name}.py").write_text("x = 1\n")
    found = source(kind="files", root=str(tmp_path))

    def fingerprints() -> list[str]:
        return [partition.fingerprint for partition in found.partitions(12)]

    first = fingerprints()
    (tmp_path / "c.py").write_text("x = 2\n")
    os.utime(tmp_path / "c.py", ns=(1, 1))
    changed = fingerprints()
    (tmp_path / "e.py").write_text("x = 1\n")

    assert len(first) == 2
    assert changed[0] == first[0]
    assert changed[1] != first[1]
    assert fingerprints()[:2] == changed
    assert len(fingerprints()) == 3


def test_partitions_of_a_hundred_gigabytes_are_made_without_reading_them(tmp_path: Path) -> None:
    for number in range(1000):
        with (tmp_path / f"{number:04}.jsonl").open("wb") as file:
            file.truncate(10**8)  # A hole: there is nothing on the disk, but a hundred megabytes to read.

    partitions = source(kind="jsonl", root=str(tmp_path)).partitions(2**28)

    assert [len(partition.files) for partition in partitions] == [2] * 500
    assert len({partition.fingerprint for partition in partitions}) == 500


def test_a_file_that_changed_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES)
    found = source(kind="jsonl", root=str(tmp_path))
    (partition,) = found.partitions(10**9)
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(LINES)

    with pytest.raises(RecipeError, match=rf"a\.jsonl has changed.*had {len(LINES):,} bytes"):
        list(found.partition_records(partition))


def test_a_pipe_among_the_files_is_passed_over_and_a_link_to_nowhere_is_unreadable(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "link.py").symlink_to(tmp_path / "nowhere")
    (tmp_path / "a.py").write_text("x = 1\n")
    found = source(kind="files", root=str(tmp_path))

    assert [record.origin for record in found.records()] == ["a.py", "link.py"]
    assert list(found.records())[1] == Unreadable("link.py", "No such file or directory")
    for kind in ("jsonl", "parquet"):
        with pytest.raises(RecipeError, match=r"link\.py cannot be read: No such file"):
            list(source(kind=kind, root=str(tmp_path), patterns=["link.py"]).records())


def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/b\xff.py")).write_text("x = 1\n")

    with pytest.raises(RecipeError, match="is not UTF-8"):
        source(kind="files", root=str(tmp_path)).partitions(100)


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    s3.use(monkeypatch)
    return s3.new_bucket()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, here empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def upload(folder: Path, uri: str) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            open_storage(uri).upload(path.relative_to(folder).as_posix(), path)


def test_objects_are_read_as_files_are(bucket: str, tmp_path: Path, temporary: Path) -> None:
    write_corpus(tmp_path / "corpus")
    upload(tmp_path / "corpus", f"{bucket}/deep/corpus")
    open_storage(f"{bucket}/deep/corpus-of-another").write("x.jsonl", LINES)

    for kind in KINDS:
        here = source(kind=kind, root=str(tmp_path / "corpus"))
        there = source(kind=kind, root=f"{bucket}/deep/corpus", exclude=["deep/c.*"])
        here_without = source(kind=kind, root=str(tmp_path / "corpus"), exclude=["deep/c.*"])
        assert list(source(kind=kind, root=f"{bucket}/deep/corpus/").records()) == list(here.records())
        assert list(there.records()) == list(here_without.records())
        for size in (1, 10**9):
            partitions = there.partitions(size)
            assert names(partitions) == names(here_without.partitions(size))
            assert in_parts(there, partitions) == list(here_without.records())
        if kind != "parquet":
            assert there.estimated_bytes() == here_without.estimated_bytes()
    assert not list(temporary.iterdir())


def test_an_object_is_on_the_disk_only_while_it_is_read(bucket: str, temporary: Path) -> None:
    storage = open_storage(bucket)
    for number in range(30):
        storage.write(f"{number:02}.py", f"x = {number}\n".encode())
    records = source(kind="files", root=bucket).records()

    found = []
    for record in records:
        found.append(record.fields["text"])
        assert len(list(temporary.glob("*/*"))) <= 9
    assert found == [f"x = {number}\n" for number in range(30)]
    assert not list(temporary.iterdir())

    records = source(kind="files", root=bucket).records()
    next(records)
    records.close()
    assert not list(temporary.iterdir())


def test_the_fingerprint_of_objects_follows_their_content(bucket: str) -> None:
    storage = open_storage(bucket)
    storage.write("data/a.jsonl", b'{"text": "one"}\n')
    storage.write("data/b.jsonl", b'{"text": "one"}\n')
    found = source(kind="jsonl", root=f"{bucket}/data")
    first, first_of_all = found.partitions(1), found.fingerprint()
    storage.write("data/b.jsonl", b'{"text": "two"}\n')

    changed = found.partitions(1)

    assert len(changed) == len(first) == 2
    assert changed[0].fingerprint == first[0].fingerprint
    assert changed[1].fingerprint != first[1].fingerprint
    assert found.fingerprint() != first_of_all


def test_roots_may_be_folders_prefixes_and_single_objects(bucket: str, tmp_path: Path) -> None:
    storage = open_storage(bucket)
    storage.write("one/a.py", b"a")
    storage.write("two/b.py", b"b")
    (tmp_path / "c.py").write_text("c")
    roots = [f"{bucket}/two/b.py", f"{bucket}/one", str(tmp_path), (tmp_path / "c.py").as_uri()]
    found = source(kind="files", root=roots)

    records = list(found.records())

    assert [record.fields["text"] for record in records if isinstance(record, Record)] == ["b", "a", "c", "c"]
    assert records[1].origin == f"{bucket}/one/a.py"
    assert in_parts(found, found.partitions(2)) == records


def test_what_is_not_in_object_storage_is_named(bucket: str) -> None:
    with pytest.raises(RecipeError, match=rf"'code' has no files: there is no object {bucket}/nowhere, and none below"):
        source(kind="jsonl", root=f"{bucket}/nowhere").partitions(100)
    with pytest.raises(StorageError, match="no bucket 'no-such-bucket'"):
        source(kind="jsonl", root="s3://no-such-bucket/x").fingerprint()
    open_storage(bucket).write("other/notes.txt", b"plain text")
    with pytest.raises(RecipeError, match=r"none below it matches \*\*/\*\.jsonl"):
        source(kind="jsonl", root=f"{bucket}/other").fingerprint()
    open_storage(bucket).write("a.jsonl.gz", b"plain text")
    with pytest.raises(RecipeError, match=r"^a\.jsonl\.gz is no gzip file"):
        list(source(kind="jsonl", root=bucket).records())

"""Sources of records: every format, and what happens to broken input."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from lemur.data.reading import source_files
from lemur.data.reading.documents import Tally, read_documents
from lemur.data.source import Record, Source, Unreadable
from lemur.errors import RecipeError
from lemur.recipe import DataSection

ROWS = [{"text": f"document {number}\nwith ünïcode"} for number in range(20)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def source(**fields: Any) -> Source:
    data = DataSection.model_validate({"sources": [{"name": "code", **fields}], "sequence_length": 8})
    return data.sources[0]


def texts(source: Source) -> list[str]:
    return [document.text for document in read_documents(source, Tally())]


def unreadable(source: Source) -> list[Unreadable]:
    return [record for record in source.records() if isinstance(record, Unreadable)]


def write_zstandard(path: Path, data: bytes) -> None:
    half = len(data) // 2
    compress = zstandard.ZstdCompressor().compress
    path.write_bytes(compress(data[:half]) + compress(data[half:]))


def write_parquet(path: Path, data: bytes) -> None:
    rows = [json.loads(line) for line in data.splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)


WRITERS: dict[str, tuple[str, Callable[[Path, bytes], Any]]] = {
    "part.jsonl": ("jsonl", Path.write_bytes),
    "part.jsonl.gz": ("jsonl", lambda path, data: path.write_bytes(gzip.compress(data))),
    "part.jsonl.zst": ("jsonl", write_zstandard),
    "part.parquet": ("parquet", write_parquet),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_the_same_documents_with_their_place(name: str, tmp_path: Path) -> None:
    kind, write = WRITERS[name]
    (tmp_path / "deep" / "er").mkdir(parents=True)
    write(tmp_path / "deep" / "er" / name, LINES)

    found = source(kind=kind, root=str(tmp_path))
    records = list(found.records())

    assert [record.fields for record in records if isinstance(record, Record)] == ROWS
    assert records[2].origin == (f"deep/er/{name}#2" if kind == "parquet" else f"deep/er/{name}:3")
    assert found.estimated_bytes() == pytest.approx(len(LINES), rel=0.7)


@pytest.mark.parametrize("name", WRITERS)
def test_a_text_can_stand_in_any_field(name: str, tmp_path: Path) -> None:
    kind, write = WRITERS[name]
    write(tmp_path / name, LINES.replace(b'"text"', b'"body"'))

    assert texts(source(kind=kind, root=str(tmp_path), text_field="body")) == [row["text"] for row in ROWS]


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_breaks_off_is_one_unreadable_record_and_the_next_file_is_read(name: str, tmp_path: Path) -> None:
    kind, write = WRITERS[name]
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / name, LINES)
    broken = tmp_path / "a" / name
    broken.write_bytes(broken.read_bytes()[:-20])

    found = source(kind=kind, root=str(tmp_path))

    assert [record.origin.startswith(f"a/{name}") for record in unreadable(found)] == [True]
    assert texts(found)[-20:] == [row["text"] for row in ROWS]


@pytest.mark.parametrize("name", ["part.jsonl.gz", "part.jsonl.zst", "part.parquet"])
def test_a_file_of_another_format_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"plain text")

    with pytest.raises(RecipeError, match=name):
        texts(source(kind=WRITERS[name][0], root=str(tmp_path)))


def test_lines_that_are_no_documents_are_counted_with_their_place(tmp_path: Path) -> None:
    bad = [b"{broken", b'{"text": "\xff"}', b"[1]", b'{"body": "x"}', b'{"text": 3}', b'{"text": "\\ud800"}']
    (tmp_path / "a.jsonl").write_bytes(LINES + b"\n".join(bad) + b"\n\n" + LINES)
    tally = Tally()

    documents = list(read_documents(source(kind="jsonl", root=str(tmp_path)), tally))

    assert len(documents) == 40
    assert [entry.origin for entry in tally.first_unreadable] == [f"a.jsonl:{line}" for line in range(21, 27)]
    reasons = " | ".join(entry.reason for entry in tally.first_unreadable)
    for part in ("not JSON", "not UTF-8 at byte 10", "list where an object", "fields body", "text_field", "surrogate"):
        assert part in reasons


def test_more_than_one_bad_record_in_a_thousand_stops_the_run_and_names_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{\n" * 11 + LINES)

    with pytest.raises(RecipeError, match=r"'code': 11 of 31 records cannot be read.*a\.jsonl:1 \(not JSON"):
        texts(source(kind="jsonl", root=str(tmp_path)))
    (tmp_path / "a.jsonl").write_bytes(b"{\n" * 11 + LINES * 550)
    assert len(texts(source(kind="jsonl", root=str(tmp_path)))) == 11_000


def test_a_wrong_text_field_is_noticed_before_all_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES * 200)

    with pytest.raises(RecipeError, match="1,000 of 1,000 records"):
        texts(source(kind="jsonl", root=str(tmp_path / "a.jsonl"), text_field="content"))


def test_parquet_without_a_column_of_text_lists_the_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", b'{"body": "x", "id": 3}')

    with pytest.raises(RecipeError, match=r"no column 'text'.*it has body, id; set text_field"):
        texts(source(kind="parquet", root=str(tmp_path)))


def test_parquet_with_bytes_that_are_no_text_loses_only_those_rows(tmp_path: Path) -> None:
    column = pa.array([b"good", b"b\xffd", b"fine"]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    found = source(kind="parquet", root=str(tmp_path))

    assert texts(found) == ["good", "fine"]
    assert [entry.origin for entry in unreadable(found)] == ["a.parquet#1"]


def test_files_are_chosen_by_globs_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.py", "a/z.py", "a/test/t.py", "a/notes.md", ".git/x.py", "a/test.py", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)

    def chosen(**fields: Any) -> list[str]:
        return texts(source(kind="files", root=str(tmp_path), **fields))

    assert chosen() == ["a/notes.md", "a/test.py", "a/test/t.py", "a/z.py", "b.py", "c.txt"]
    assert chosen(patterns=["**/*.py"], exclude=["**/test/**"]) == ["a/test.py", "a/z.py", "b.py"]
    assert chosen(patterns=["*.py"]) == ["b.py"]
    assert chosen(patterns=["**/*.py"], max_bytes=21) == ["a/test.py", "a/test/t.py"]


def test_several_roots_give_one_source(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "same.py").write_text(name)
    found = source(kind="files", root=[str(tmp_path / "one"), str(tmp_path / "two" / "same.py")])

    assert texts(found) == ["one", "two"]
    assert len({record.origin for record in found.records()}) == 2


def test_a_file_that_is_no_text_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"ok = 1\n")
    (tmp_path / "b.py").write_bytes(b"name = '\xe9'\n")

    assert unreadable(source(kind="files", root=str(tmp_path))) == [("b.py", "not UTF-8 at byte 8")]


def test_a_root_without_files_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'code' has no files.*nowhere does not exist"):
        source(kind="files", root=str(tmp_path / "nowhere")).fingerprint()
    with pytest.raises(RecipeError, match=r"no file below it matches \*\*/\*\.jsonl"):
        source(kind="jsonl", root=str(tmp_path)).estimated_bytes()


def test_a_fingerprint_follows_content_not_place_or_time(tmp_path: Path) -> None:
    def fingerprint(folder: str, text: str, name: str = "a.py") -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / name).write_text(text)
        return source(kind="files", root=str(tmp_path / folder)).fingerprint()

    first = fingerprint("one", "x = 1")
    os.utime(tmp_path / "one" / "a.py", (1, 1))

    assert first == fingerprint("two", "x = 1")
    assert len({first, fingerprint("two", "x = 2"), fingerprint("three", "x = 1", name="b.py")}) == 3


def test_large_collections_are_known_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_files, "DIGESTED_BYTES", 3)
    path = tmp_path / "a.py"
    path.write_text("x = 1")
    found = source(kind="files", root=str(path))
    first = found.fingerprint()

    os.utime(path, (1, 1))

    assert found.fingerprint() != first


def test_huggingface_reads_a_local_folder_and_files_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(LINES)
    folder = source(kind="huggingface", dataset=str(tmp_path))
    files = source(kind="huggingface", dataset="json", data_files=[str(tmp_path / "train.jsonl")])

    for found in (folder, files):
        assert texts(found) == [row["text"] for row in ROWS]
        assert found.estimated_bytes() == len(LINES)
    assert folder.fingerprint() == source(kind="huggingface", dataset=str(tmp_path)).fingerprint()
    (tmp_path / "train.jsonl").write_bytes(LINES * 2)
    assert folder.fingerprint() != files.fingerprint()


def test_huggingface_reads_each_data_file_as_a_partition(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"train-{number:05d}.jsonl").write_bytes(b'{"text": "file %d"}\n' % number * 2)
    found = source(kind="huggingface", dataset=str(tmp_path))
    partitions = found.partitions(1)

    assert [[file.name for file in partition.files] for partition in partitions] == [
        ["train-00000.jsonl"],
        ["train-00001.jsonl"],
        ["train-00002.jsonl"],
    ]
    records = [list(found.partition_records(partition)) for partition in partitions]
    assert [record.fields["text"] for record in records[1]] == ["file 1", "file 1"]
    assert [record.origin for record in records[2]] == ["train-00002.jsonl#0", "train-00002.jsonl#1"]
    assert [record for part in records for record in part] == list(found.records())
    before = [partition.fingerprint for partition in partitions]
    (tmp_path / "train-00001.jsonl").write_bytes(b'{"text": "another"}\n')
    after = [partition.fingerprint for partition in found.partitions(1)]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, True]


def test_huggingface_names_a_dataset_or_row_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(LINES)

    with pytest.raises(RecipeError, match="cannot be opened"):
        texts(source(kind="huggingface", dataset=str(tmp_path), split="nonesuch"))
    (tmp_path / "train.jsonl").write_bytes(b"{broken")
    with pytest.raises(RecipeError, match="cannot be"):
        texts(source(kind="huggingface", dataset=str(tmp_path)))


def test_the_standard_library_is_code_and_its_documentation_is_text() -> None:
    code = source(kind="python_stdlib")
    names = {record.origin for record in code.records()}
    documentation = source(kind="python_docs")
    origins = [record.origin for record in documentation.records()]

    assert {"argparse.py", "json/decoder.py"} <= names
    assert not any(name.startswith(("test/", "site-packages/", "encodings/", "pydoc_data/")) for name in names)
    assert "pydoc_data.topics#if" in origins
    assert "METADATA#pydantic" in origins
    assert not any("lemur" in origin for origin in origins)
    for found in (code, documentation):
        assert found.estimated_bytes() == sum(len(text.encode()) for text in texts(found))
        assert found.fingerprint() == found.fingerprint()


def test_a_name_that_could_be_no_folder_is_refused() -> None:
    with pytest.raises(ValidationError, match="name"):
        source(kind="python_docs", name="../escape")

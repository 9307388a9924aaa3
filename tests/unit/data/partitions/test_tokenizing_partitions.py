"""Tokenizing partitions in worker processes: the same whoever does it, and nothing twice."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from small_corpus import (
    Made,
    StoredMixture,
    document,
    documents_by_name,
    mix_here,
    path_of,
    section,
    write_corpus,
    write_lines,
)
from small_steps import CHANGES, Steps, children

from lemur.data.partitions import workers
from lemur.data.partitions.workers import tokenize_partitions
from lemur.errors import RecipeError
from lemur.receipt import MANIFEST_NAME, Receipt
from lemur.recipe import ModelSection
from lemur.results import fetch, read_manifest
from lemur.storage import open_storage

if TYPE_CHECKING:
    from conftest import S3Server

pytestmark = pytest.mark.usefixtures("two_processes")

REAL_CORES = workers._cores


@pytest.fixture(scope="module")
def expected(tokenizer: ModelSection, shared_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What one process makes of the corpus, one partition after another."""
    return mix_here(tokenizer, section(shared_corpus, **CHANGES), tmp_path_factory.mktemp("expected"))


@pytest.fixture
def steps(tokenizer: ModelSection, shared_corpus: Path, tmp_path: Path) -> Steps:
    return Steps(tokenizer, shared_corpus, str(tmp_path / "storage"))


def written(*receipts: Receipt) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for receipt in receipts for path in path_of(receipt).iterdir()}


@pytest.mark.parametrize("num_processes", [1, 3])
def test_the_number_of_processes_shows_in_nothing(
    steps: Steps, expected: Made, scratch: Path, monkeypatch: pytest.MonkeyPatch, num_processes: int
) -> None:
    monkeypatch.setattr(workers, "_cores", lambda: num_processes)

    documents = steps.tokenize()

    assert [receipt.key for receipt in documents] == [receipt.key for receipt in expected.documents]
    assert documents_by_name(documents) == documents_by_name(expected.documents)
    assert steps.mix(documents).digest == expected.tokens.digest
    assert children() == []


def test_steps_side_by_side_make_their_parts_whichever_engine_each_has(
    steps: Steps,
    expected: Made,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    documents = steps.tokenize(1, num_workers=2)
    assert [receipt.key for receipt in documents] == [receipt.key for receipt in expected.documents[1::2]]

    # Found by the processes before the real one.
    (tmp_path / "refusing").mkdir()
    (tmp_path / "refusing" / "fastokens.py").write_text(
        "class Tokenizer:\n    @staticmethod\n    def from_json_str(text):\n        raise ValueError('not today')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "refusing"))
    documents += steps.tokenize(0, num_workers=2)

    assert "encoded with tokenizers, which is slower, since fastokens cannot load this tokenizer" in (
        capfd.readouterr().err
    )
    assert documents_by_name(documents) == documents_by_name(expected.documents)
    assert steps.mix(documents, num_workers=2).digest == expected.tokens.digest


def test_only_what_is_missing_damaged_or_new_is_tokenized(
    tokenizer: ModelSection, expected: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(path_of(expected.tokens).parents[1], tmp_path / "storage")
    write_corpus(tmp_path / "corpus")
    steps = Steps(tokenizer, tmp_path / "corpus", str(tmp_path / "storage"))
    before = steps.tokenize()
    assert "tokenize: unchanged, 5 of 5 partitions" in capsys.readouterr().err
    assert [receipt.key for receipt in before] == [receipt.key for receipt in expected.documents]
    times = written(*before)

    (path_of(before[0]) / "ends.npy").unlink()
    os.truncate(path_of(before[2]) / "tokens.bin", 100)
    (path_of(before[3]) / MANIFEST_NAME).write_text("no manifest")
    write_lines(tmp_path / "corpus/code/d.jsonl", [document(900)])
    after = steps.tokenize()

    notes = capsys.readouterr().err
    assert "tokenize: unchanged, 2 of 6 partitions" in notes
    assert "ends.npy is damaged or missing; making the result anew" in notes
    assert [receipt.digest for receipt in after[:3] + after[4:]] == [receipt.digest for receipt in before]
    assert all(fetch(receipt, tmp_path / "unused") for receipt in after)
    changed = {path.parent.name for path, time_ns in times.items() if path.stat().st_mtime_ns != time_ns}
    assert changed == {before[number].uri.rpartition("/")[2] for number in (0, 2, 3)}


def test_a_damaged_object_that_a_reader_found_is_made_anew(
    tokenizer: ModelSection, shared_corpus: Path, expected: Made, tmp_path: Path
) -> None:
    shutil.copytree(path_of(expected.tokens).parents[1], tmp_path / "storage")
    steps = Steps(tokenizer, shared_corpus, str(tmp_path / "storage"))
    receipt = steps.tokenize()[1]
    path = path_of(receipt) / "tokens.bin"
    whole = path.read_bytes()
    path.write_bytes(b"\xff\xff" + whole[2:])
    (path_of(receipt) / "damaged.json").write_text('["tokens.bin"]')

    assert steps.tokenize()[1].digest == receipt.digest
    assert path.read_bytes() == whole
    assert not (path_of(receipt) / "damaged.json").exists()


def test_a_file_that_changes_between_the_steps_is_noticed(tokenizer: ModelSection, tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus")
    steps = Steps(tokenizer, tmp_path / "corpus", str(tmp_path / "storage"))
    data, partitions = section(tmp_path / "corpus", **CHANGES), steps.partition()
    with (tmp_path / "corpus/text/b.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')

    with pytest.raises(RecipeError, match=r"text/b\.jsonl has changed since its source was listed"):
        tokenize_partitions(data=data, partitions=partitions, storage=steps.storage, worker=0)


def test_sources_and_results_in_object_storage_give_what_local_ones_give(
    tokenizer: ModelSection, shared_corpus: Path, expected: Made, s3: S3Server, tmp_path: Path, scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    s3.use(monkeypatch)
    bucket = s3.new_bucket()
    storage = open_storage(bucket)
    for path in shared_corpus.rglob("*.jsonl"):
        storage.upload(f"corpus/{path.relative_to(shared_corpus).as_posix()}", path)
    steps = Steps(tokenizer, f"{bucket}/corpus", f"{bucket}/storage")

    documents = steps.tokenize()
    mixed = steps.mix(documents)

    assert [receipt.digest for receipt in documents] == [receipt.digest for receipt in expected.documents]

    def objects(receipt: Receipt) -> dict[str, str]:
        # Keys, and so the names in the table of partitions, say where a source is known from.
        stored = {one.name: one.sha256 for one in read_manifest(receipt.uri).objects}
        return {name: digest for name, digest in stored.items() if name != "partitions.parquet"}

    assert objects(mixed) == objects(expected.tokens)
    assert mixed.metadata["sources"] == expected.tokens.metadata["sources"]
    assert steps.tokenize() == documents
    assert StoredMixture(expected.tokens).heldout("code")


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8)]
)
def test_there_are_no_more_processes_than_a_container_is_granted_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    monkeypatch.setattr(workers, "_CPU_LIMIT", tmp_path / "cpu.max")
    assert REAL_CORES() == 8

    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert REAL_CORES() == cores

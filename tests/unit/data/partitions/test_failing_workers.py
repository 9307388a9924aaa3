"""Workers that cannot go on: one clear error, nothing left behind, and the next run finishes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_corpus import document, documents_by_name, section, tokenize_here, write_corpus, write_lines
from small_steps import CHANGES, Steps, children

from lemur.data.partitions import workers
from lemur.data.partitions.listing import read_partitions
from lemur.data.partitions.workers import tokenize_partitions
from lemur.errors import LemurError, RecipeError, StorageError
from lemur.receipt import MANIFEST_NAME
from lemur.recipe import ModelSection

pytestmark = pytest.mark.usefixtures("two_processes")

LARGE = [document(number, 3000) for number in range(150)]
"""A partition that takes a second or so."""


def when(is_so: Callable[[], Any], then: Callable[[], None]) -> threading.Thread:
    """Does something as soon as a condition holds, beside what goes on."""

    def watch() -> None:
        while not is_so():
            time.sleep(0.005)
        then()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("moment", ["", "lemur-mix-*/lemur-mix-*/tokens.bin"], ids=["at its start", "at work"])
def test_a_killed_worker_is_one_error_that_names_its_partition_and_the_next_run_finishes(
    tokenizer: ModelSection, corpus: Path, scratch: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(corpus / "code/a.jsonl", LARGE)
    steps = Steps(tokenizer, corpus, str(corpus.parent / "storage"))
    monkeypatch.setattr(workers, "_cores", lambda: 1)
    killer = when(
        lambda: children() and (not moment or list(scratch.glob(moment))),
        lambda: os.kill(children()[0], signal.SIGKILL),
    )

    with pytest.raises(LemurError) as caught:
        steps.tokenize()

    killer.join()
    assert str(caught.value) == (
        "the process that tokenized partition 0 of source 'code' (a.jsonl) was killed by signal 9; most likely memory "
        "ran out: give the step more, or mix with fewer cores; run again: finished partitions are kept"
    )
    assert children() == list(scratch.glob("lemur-*")) == []
    unbroken = tokenize_here(section(corpus, **CHANGES), steps.partition(), steps.storage + "-unbroken", corpus)
    assert documents_by_name(steps.tokenize()) == documents_by_name(unbroken)


def test_a_worker_that_ends_when_it_has_nothing_left_to_do_is_no_error(
    tokenizer: ModelSection, corpus: Path, scratch: Path
) -> None:
    steps = Steps(tokenizer, corpus, str(corpus.parent / "storage"))
    partitions = steps.partition(num_workers=4)
    first_prefix = read_partitions(partitions, corpus)[0].partitions[0].prefix

    def kill_the_first_to_finish() -> None:
        first, second = sorted(children())
        os.kill(second, signal.SIGSTOP)
        while not (corpus.parent / "storage" / first_prefix / MANIFEST_NAME).exists():
            time.sleep(0.005)
        time.sleep(0.3)
        os.kill(first, signal.SIGKILL)
        time.sleep(0.1)
        os.kill(second, signal.SIGCONT)

    killer = when(lambda: len(children()) == 2, kill_the_first_to_finish)
    documents = tokenize_partitions(
        data=section(corpus, **CHANGES, num_workers=4),
        partitions=partitions,
        storage=steps.storage,
        worker=0,
    )

    killer.join()
    assert [receipt.metadata["source"] for receipt in documents] == ["code", "text"]


def test_a_worker_that_cannot_even_start_is_an_error(
    tokenizer: ModelSection, shared_corpus: Path, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(tokenizer, shared_corpus, str(tmp_path / "storage"))
    steps.partition()
    monkeypatch.setattr("sys.executable", "/bin/false")

    with pytest.raises(LemurError, match="compares encoders ended with exit code 1; run again"):
        steps.tokenize()
    monkeypatch.setattr(workers, "choose_engine", lambda description, numbers: "fastokens")
    with pytest.raises(LemurError, match=r"tokenized partition \d of source 'code' .* exit code 1; run again"):
        steps.tokenize()


def test_a_partition_that_cannot_be_read_ends_the_step_and_finished_ones_are_kept(
    tokenizer: ModelSection, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_corpus(tmp_path / "corpus")
    (tmp_path / "corpus/code/c.jsonl").write_text("{broken\n" * 1001)
    steps = Steps(tokenizer, tmp_path / "corpus", str(tmp_path / "storage"))
    monkeypatch.setattr(workers, "_cores", lambda: 1)

    with pytest.raises(RecipeError, match=r"source 'code': 1,000 of 1,000 records cannot be read.*c\.jsonl:1 \(not"):
        steps.tokenize()

    assert len(list((tmp_path / "storage/documents").glob(f"*/{MANIFEST_NAME}"))) == 2
    assert children() == []
    write_corpus(tmp_path / "corpus")
    capsys.readouterr()
    assert len(steps.tokenize()) == 5
    assert "tokenize: unchanged, 2 of 5 partitions" in capsys.readouterr().err


def test_a_full_scratch_disk_is_one_clear_error_and_the_next_run_finishes(
    tokenizer: ModelSection, small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_corpus(tmp_path / "corpus")
    # Three tokens of two bytes for each letter.
    write_lines(tmp_path / "corpus/code/b.jsonl", (f"{number}{'東' * 10_000}" for number in range(50)))
    steps = Steps(tokenizer, tmp_path / "corpus", str(tmp_path / "storage"))
    steps.partition()
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))

    with pytest.raises(StorageError, match=r"no space left in .*small/lemur-mix-.*TMPDIR"):
        steps.tokenize()

    assert not list(small_disk.iterdir())
    monkeypatch.setattr("tempfile.tempdir", None)
    assert steps.mix(steps.tokenize()).metrics["documents"] > 0

"""Tokenizing and mixing that are killed: nothing half-made counts, nothing goes on, and the next run finishes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
from small_corpus import document, mix_here, section, write_lines

from lemur.data.partitions.listing import list_partitions
from lemur.receipt import MANIFEST_NAME, Receipt
from lemur.recipe import DataSection, ModelSection
from lemur.results import fetch, read_manifest

SCRIPT = """
import sys
from lemur.data.tokenizer import encoder_check
from lemur.data.mixing.mixing import mix_tokens
from lemur.data.partitions.workers import tokenize_partitions
from lemur.receipt import Receipt
from lemur.recipe import DataSection

encoder_check.LINE_BYTES = 20_000
data, partitions = DataSection.model_validate_json(sys.argv[1]), Receipt.load(sys.argv[2])
print("begins", flush=True)
documents = tokenize_partitions(data=data, partitions=partitions, storage=sys.argv[3], worker=0)
mix_tokens(data=data, partitions=partitions, documents=documents, storage=sys.argv[3]).save(sys.argv[4])
"""


class Step(NamedTuple):
    """Tokenizing and mixing in a process of its own."""

    data: DataSection
    folder: Path

    @property
    def storage(self) -> Path:
        return self.folder / "storage"

    @property
    def tokens(self) -> Path:
        return self.folder / "tokens.json"

    def start(self) -> subprocess.Popen[bytes]:
        """Starts it, and returns when all is imported and the work begins."""
        arguments = [self.data.model_dump_json(), self.folder / "partitions.json", self.storage, self.tokens]
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments], stdout=subprocess.PIPE, env=environment)
        assert process.stdout
        assert process.stdout.readline() == b"begins\n"
        return process

    def workers(self) -> list[int]:
        """Returns the worker processes: what they are told lies below the folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                command = path.read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if b"lemur.data.partitions.worker" in command and str(self.folder).encode() in command:
                found.append(int(path.parent.name))
        return found

    def num_files(self) -> int:
        return sum(1 for kind in ("documents", "tokens") for _ in self.storage.glob(f"{kind}/*/**/*"))

    def is_alone_soon(self) -> bool:
        deadline = time.monotonic() + 10
        while self.workers() and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.workers()


@pytest.fixture
def step(tokenizer: ModelSection, shared_corpus: Path, tmp_path: Path) -> Step:
    made = Step(section(shared_corpus, heldout_fraction=0.2), tmp_path)
    receipt = list_partitions(model=tokenizer, data=made.data, storage=str(made.storage))
    receipt.save(tmp_path / "partitions.json")
    return made


def ends(process: subprocess.Popen[bytes]) -> int:
    process.communicate(timeout=60)
    return process.returncode


def test_killed_at_any_moment_it_leaves_no_process_and_the_next_run_makes_what_an_unbroken_one_makes(
    step: Step, tokenizer: ModelSection, tmp_path: Path
) -> None:
    unbroken = mix_here(tokenizer, step.data, tmp_path / "unbroken").tokens
    # As many files as there are in storage, whole and unfinished ones, when it is killed; some sixty in the end.
    for num_files in sorted(random.Random(15).sample(range(55), 4)):
        process = step.start()
        while step.num_files() < num_files:
            assert process.poll() is None
        process.kill()
        ends(process)
        assert step.is_alone_soon()
        for manifest in step.storage.rglob(MANIFEST_NAME):
            assert fetch(read_manifest(str(manifest.parent)).receipt(str(manifest.parent)), tmp_path)

    assert ends(step.start()) == 0
    assert Receipt.load(step.tokens).digest == unbroken.digest
    assert not list(step.storage.rglob(".lemur-partial-*"))


def test_workers_end_with_a_step_that_is_killed_and_do_not_finish_what_they_do(
    tokenizer: ModelSection, tmp_path: Path
) -> None:
    # Enough to be at work for a while.
    write_lines(tmp_path / "corpus/code/a.jsonl", [document(1, 3000)] * 1200)
    write_lines(tmp_path / "corpus/text/a.jsonl", [document(1, 3000)] * 1200)
    step = Step(section(tmp_path / "corpus"), tmp_path)
    list_partitions(model=tokenizer, data=step.data, storage=str(step.storage)).save(tmp_path / "partitions.json")
    process = step.start()
    while not list(tmp_path.glob("lemur-mix-*/lemur-mix-*/tokens.bin")):
        assert process.poll() is None
    process.kill()
    ends(process)

    assert step.is_alone_soon()
    assert step.num_files() == 0


def test_ctrl_c_ends_the_step_and_its_workers_without_a_word_from_them(step: Step, tmp_path: Path) -> None:
    with (tmp_path / "errors").open("w") as errors:
        arguments = [step.data.model_dump_json(), tmp_path / "partitions.json", step.storage, step.tokens]
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, *arguments],
            stderr=errors,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            start_new_session=True,
        )
        while not (workers := step.workers()) or not list(step.storage.glob("documents/*")):
            assert process.poll() is None
        # The step itself hears of it last.
        os.kill(process.pid, signal.SIGSTOP)
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.3)
        assert set(step.workers()) >= set(workers)
        os.kill(process.pid, signal.SIGCONT)
        ends(process)

    assert process.returncode != 0
    assert step.is_alone_soon()
    assert (tmp_path / "errors").read_text().count("KeyboardInterrupt") == 1
    assert not list(tmp_path.glob("lemur-mix-*"))

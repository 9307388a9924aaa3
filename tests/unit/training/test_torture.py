"""A run of two processes survives whatever is done to it, and ends as one that nothing was done to.

`LEMUR_TORTURE_ROUNDS` and `LEMUR_TORTURE_OUTAGE_SECONDS` make it longer, `LEMUR_TORTURE_SEED` another one.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_training import SEQUENCE_LENGTH, losses_of, make_tokens, pretrain_section, weights_of
from torture import RestartedServer, Torture, Tortured, job
from transformers import PreTrainedTokenizerFast

from lemur.receipt import Receipt
from lemur.recipe import ModelSection
from lemur.results import find_result
from lemur.storage import open_storage

NUM_ROUNDS = int(os.environ.get("LEMUR_TORTURE_ROUNDS", "8"))
OUTAGE_SECONDS = float(os.environ.get("LEMUR_TORTURE_OUTAGE_SECONDS", "3"))
SEED = int(os.environ.get("LEMUR_TORTURE_SEED", "0"))
MOST_STEPS = 12


@pytest.fixture
def server() -> Iterator[RestartedServer]:
    folder = Path(tempfile.mkdtemp(prefix="s3-"))
    server = RestartedServer(folder)
    server.start()
    yield server
    server.kill()
    shutil.rmtree(folder)


@pytest.mark.timeout(300 + 120 * NUM_ROUNDS)
def test_a_run_that_is_broken_again_and_again_ends_as_an_unbroken_one(
    server: RestartedServer,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    model: ModelSection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in server.server.environment.items():
        monkeypatch.setenv(name, value)
    storage = server.server.new_bucket()
    tokens = make_tokens(storage, tokenizer, texts)
    num_steps = NUM_ROUNDS * (MOST_STEPS + 20)
    section = pretrain_section(tokens=num_steps * 8 * SEQUENCE_LENGTH, checkpoint_every_steps=5, warmup_steps=5)
    unbroken = _unbroken(tmp_path, server, tokens, model, section, num_steps)

    run = Tortured(tmp_path / "broken", job(storage, tokens, model, section), server.server.environment, num_steps)
    began = time.monotonic()
    run.launch()
    torture = Torture(run, storage, server, random.Random(SEED), outage_seconds=OUTAGE_SECONDS)
    done = []
    for broken in torture.go(NUM_ROUNDS, most_steps=MOST_STEPS):
        done.append(broken)
        how = "by itself" if broken.by_itself else "with one command"
        where = "without stopping" if broken.resumed_at is None else f"from step {broken.resumed_at}"
        print(f"{broken.kind} after step {broken.at_step}: went on {where} {how}, {broken.seconds:.1f} s")
    run.wait_for_end({0})
    print(f"{len(done)} breaks, {len(run.attempts())} attempts, {time.monotonic() - began:.0f} s")

    made = _base(storage)
    assert weights_of(made) == weights_of(unbroken)
    assert losses_of(made) == losses_of(unbroken)
    assert len(done) == NUM_ROUNDS
    # No break costs more than what was done since the newest whole checkpoint, and the one that a bit was flipped in.
    for broken in done:
        if broken.resumed_at is not None:
            most_lost = 25 if broken.kind == "a bit flipped" else 20
            assert broken.at_step - broken.resumed_at < most_lost, broken


def _unbroken(
    folder: Path, server: RestartedServer, tokens: Receipt, model: ModelSection, section: object, num_steps: int
) -> Receipt:
    """Returns the model of a run that nothing is done to."""
    storage = server.server.new_bucket()
    run = Tortured(folder / "unbroken", job(storage, tokens, model, section), server.server.environment, num_steps)
    run.launch()
    run.wait_for_end({0})
    return _base(storage)


def _base(storage: str) -> Receipt:
    prefixes = {found.name.rpartition("/")[0] for found in open_storage(storage).list()}
    receipts = [find_result(storage, prefix) for prefix in prefixes if prefix.startswith("checkpoints/")]
    (base,) = [receipt for receipt in receipts if receipt and receipt.metadata["role"] == "base"]
    return base

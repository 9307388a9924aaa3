"""Dialogues as training data: encoded once for each machine, and read in an order that the seed decides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from lemur.errors import TrainingError
from lemur.progress import task
from lemur.training.dialogues.chatml import encode_dialogue

IGNORED_LABEL = -100
"""Label of a token that the loss is not on."""
_SCHEMA = pa.schema({"input_ids": pa.list_(pa.int32()), "labels": pa.list_(pa.int32())})
_DIALOGUES_AT_ONCE = 1000


class EncodedCounts(NamedTuple):
    """How the dialogues fared."""

    dialogues: int
    """Dialogues that are trained on."""
    cut: int
    """Of those, the ones longer than the limit, whose end was cut off."""
    without_answer: int
    """Dialogues left out, because no assistant speaks in what remains."""
    learned_tokens: int
    """Tokens in one pass that the loss is on."""


def encode_dialogues(
    source: Path, destination: Path, tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> EncodedCounts:
    """Writes an Arrow file with `input_ids` and `labels` of each dialogue.

    Args:
        source: `dialogues.jsonl`.
        destination: File to write.
        tokenizer: A prepared tokenizer.
        max_length: Longest dialogue in tokens; what is beyond is cut off at the end.

    Raises:
        TrainingError: No dialogue holds anything to learn.
    """
    num_dialogues = num_cut = num_without = num_learned = 0
    rows: list[dict[str, npt.NDArray[np.int32]]] = []
    with (
        task("encode dialogues", unit="dialogues") as bar,
        pa.OSFile(str(destination), "wb") as file,
        pa.ipc.new_stream(file, _SCHEMA) as writer,
    ):
        for messages in _messages(source):
            bar.advance()
            token_ids, learned = encode_dialogue(tokenizer, messages)
            is_cut = len(token_ids) > max_length
            token_ids, learned = token_ids[:max_length], learned[:max_length]
            if not learned.any():
                num_without += 1
                continue
            num_dialogues, num_cut = num_dialogues + 1, num_cut + is_cut
            num_learned += int(learned.sum())
            rows.append({"input_ids": token_ids, "labels": np.where(learned, token_ids, IGNORED_LABEL)})
            if len(rows) == _DIALOGUES_AT_ONCE:
                writer.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))
                rows.clear()
        writer.write_batch(pa.RecordBatch.from_pylist(rows, _SCHEMA))
    if not num_dialogues:
        raise TrainingError(
            f"none of the {num_without} dialogues has an answer of an assistant within its first {max_length} tokens; "
            "look at data.dialogues, or raise finetune.max_length"
        )
    return EncodedCounts(num_dialogues, num_cut, num_without, num_learned)


def training_order(
    lengths: npt.NDArray[np.int64], *, num_steps: int, batch_dialogues: int, seed: int
) -> npt.NDArray[np.int64]:
    """Returns the dialogues of a whole run, step after step.

    Each pass is a permutation of its own, so that what a step learns from is chance alone. Within a step dialogues
    stand by length, so that the micro batches that a step is made of have little padding. The order depends on the
    arguments alone, not on the number of processes.

    Args:
        lengths: Tokens of each dialogue, [dialogues].
        num_steps: Optimizer steps of the run.
        batch_dialogues: Dialogues in a step.
        seed: Seed of the permutations.

    Returns:
        Numbers of dialogues, [num_steps * batch_dialogues].
    """
    num_needed = num_steps * batch_dialogues
    num_passes = -(-num_needed // len(lengths))
    passes = [np.random.default_rng([seed, number]).permutation(len(lengths)) for number in range(num_passes)]
    order = np.concatenate(passes)[:num_needed]
    steps = order.reshape(num_steps, batch_dialogues)
    by_length = np.argsort(lengths[steps], axis=1, kind="stable")
    return np.take_along_axis(steps, by_length, axis=1).reshape(-1)


def _messages(source: Path) -> Iterator[list[dict[str, str]]]:
    with source.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)["messages"]

"""Dialogues as training data: encoded once for each machine, into files that all its processes map into memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from lemur.errors import TrainingError
from lemur.progress import task
from lemur.training.dialogues.chatml import DialogueEncoder, EncodedDialogue

_TOKENS_NAME, _LEARNED_NAME = "tokens.bin", "learned.bin"
_STARTS_NAME, _LINES_NAME, _COUNTS_NAME = "starts.npy", "lines.npy", "counts.json"
_TOKEN, _LEARNED = np.dtype("<i4"), np.dtype("?")
_DIALOGUES_AT_ONCE = 512


class EncodedCounts(NamedTuple):
    """How the dialogues fared."""

    dialogues: int
    """Dialogues that are trained on."""
    tokens: int
    """Their tokens."""
    learned_tokens: int
    """Tokens of those that the loss is on."""
    cut: int
    """Dialogues of those that lost turns at their end, because they were too long."""
    turns_dropped: int
    """Turns that they lost."""
    tokens_dropped: int
    """Tokens of those turns."""
    too_long: int
    """Dialogues left out, because not even the first answer of the assistant ends within the limit."""


class EncodedDialogues:
    """Encoded dialogues in a folder, mapped into memory.

    Args:
        folder: Where `encode_dialogues` has written them.
    """

    def __init__(self, folder: Path) -> None:
        self._token_ids: npt.NDArray[np.int32] = np.memmap(folder / _TOKENS_NAME, _TOKEN, mode="r")
        self._learned: npt.NDArray[np.bool_] = np.memmap(folder / _LEARNED_NAME, _LEARNED, mode="r")
        self._starts: npt.NDArray[np.int64] = np.load(folder / _STARTS_NAME)
        self._lines: npt.NDArray[np.int64] = np.load(folder / _LINES_NAME)
        self.counts = EncodedCounts(**json.loads((folder / _COUNTS_NAME).read_text(encoding="utf-8")))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each, [dialogues]."""
        return np.diff(self._starts)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """Returns token ids and which of them are learned, both [length]."""
        part = slice(self._starts[number], self._starts[number + 1])
        return self._token_ids[part], self._learned[part]

    def origins(self, numbers: Sequence[int]) -> list[str]:
        """Returns where dialogues come from: the line of the file of dialogues, from 1."""
        return [f"line {self._lines[number] + 1:,} of dialogues.jsonl" for number in numbers]


def encode_dialogues(
    source: Path, folder: Path, tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> EncodedDialogues:
    """Encodes a file of dialogues into a folder.

    Args:
        source: `dialogues.jsonl`.
        folder: Folder to write, made where it is missing.
        tokenizer: A prepared tokenizer.
        max_length: Longest dialogue in tokens; a longer one loses turns at its end, until it fits and ends with an
            answer of the assistant.

    Raises:
        TrainingError: No dialogue fits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    encoder = DialogueEncoder(tokenizer)
    starts, lines, counts = [0], list[int](), dict.fromkeys(EncodedCounts._fields, 0)
    first = 0
    with (
        task("encode dialogues", unit="dialogues") as bar,
        (folder / _TOKENS_NAME).open("wb") as tokens_file,
        (folder / _LEARNED_NAME).open("wb") as learned_file,
    ):
        for dialogues in _batches(source):
            for line, whole in enumerate(encoder.encode(dialogues), start=first):
                length, num_dropped = cut_at_a_turn(whole, max_length)
                if not length:
                    counts["too_long"] += 1
                    continue
                counts["cut"] += num_dropped > 0
                counts["turns_dropped"] += num_dropped
                counts["tokens_dropped"] += len(whole.token_ids) - length
                counts["learned_tokens"] += int(whole.learned[:length].sum())
                tokens_file.write(whole.token_ids[:length].astype(_TOKEN).tobytes())
                learned_file.write(whole.learned[:length].astype(_LEARNED).tobytes())
                starts.append(starts[-1] + length)
                lines.append(line)
            first += len(dialogues)
            bar.advance(len(dialogues))
    if len(starts) == 1:
        raise TrainingError(
            f"none of the {counts['too_long']:,} dialogues has an answer of the assistant that ends within "
            f"{max_length} tokens; look at data.dialogues, or raise finetune.max_length"
        )
    counts |= {"dialogues": len(starts) - 1, "tokens": starts[-1]}
    np.save(folder / _STARTS_NAME, np.array(starts, np.int64))
    np.save(folder / _LINES_NAME, np.array(lines, np.int64))
    (folder / _COUNTS_NAME).write_text(json.dumps(counts), encoding="utf-8")
    return EncodedDialogues(folder)


def cut_at_a_turn(dialogue: EncodedDialogue, max_length: int) -> tuple[int, int]:
    """Returns how many tokens of a dialogue stay, and how many turns at its end go.

    The beginning stays, and so does the system message. What stays ends with an answer of the assistant, since what
    comes after the last answer teaches nothing.

    Args:
        dialogue: The whole dialogue.
        max_length: Longest that is wanted, in tokens.

    Returns:
        Tokens and turns; 0 tokens where not even the first answer fits.
    """
    stops = np.flatnonzero(dialogue.answers & (dialogue.turn_ends <= max_length))
    if not len(stops):
        return 0, len(dialogue.turn_ends)
    return int(dialogue.turn_ends[stops[-1]]), len(dialogue.turn_ends) - 1 - int(stops[-1])


def _batches(source: Path) -> Iterator[list[dict[str, Any]]]:
    with source.open(encoding="utf-8") as file:
        while batch := [json.loads(line) for line in islice(file, _DIALOGUES_AT_ONCE)]:
            yield batch

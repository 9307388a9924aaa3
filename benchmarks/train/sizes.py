"""Models and batches that are measured."""

from __future__ import annotations

from dataclasses import dataclass

from lemur.model_size import count_parameters
from lemur.recipe import Architecture


@dataclass(frozen=True)
class Size:
    """A Llama, and how much of what it is trained on at a time."""

    name: str
    """What the command line calls it."""
    architecture: Architecture
    """Its sizes."""
    vocab_size: int
    """Entries of its tokenizer."""
    sequence_length: int
    """Tokens of a sequence in pretraining, and of the longest dialogue and a pack in tuning."""
    batch_sequences: int
    """Sequences in one optimizer step of pretraining."""
    micro_batch_sequences: int
    """Sequences, or packs of dialogues, that a device handles at a time."""
    batch_dialogues: int
    """Dialogues in one optimizer step of tuning."""
    micro_batch_dialogues: int
    """Dialogues that a device handles at a time where each has a row of its own, padded to the longest."""
    median_dialogue: int
    """Tokens of the dialogue that half of all are shorter than."""
    corpus_bytes: int
    """Text that pretraining reads."""

    @property
    def num_parameters(self) -> int:
        """Its parameters."""
        return count_parameters(self.architecture, self.vocab_size).total


def _architecture(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, *, max_position: int, tied: bool = False
) -> Architecture:
    return Architecture(
        hidden_size=hidden,
        intermediate_size=inner,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        max_position=max_position,
        tie_embeddings=tied,
    )


SIZES = {
    size.name: size
    for size in (
        Size(
            "tiny",
            _architecture(32, 64, 2, 4, 2, max_position=128),
            vocab_size=512,
            sequence_length=128,
            batch_sequences=4,
            micro_batch_sequences=2,
            batch_dialogues=8,
            micro_batch_dialogues=4,
            median_dialogue=24,
            corpus_bytes=200_000,
        ),
        Size(
            "20m",
            _architecture(384, 1024, 8, 6, 6, max_position=2048),
            vocab_size=8192,
            sequence_length=1024,
            batch_sequences=8,
            micro_batch_sequences=2,
            batch_dialogues=16,
            micro_batch_dialogues=4,
            median_dialogue=160,
            corpus_bytes=4_000_000,
        ),
        # The sizes of Llama 3.2 with a smaller vocabulary: Llama 2's.
        Size(
            "1b",
            _architecture(2048, 8192, 16, 32, 8, max_position=4096),
            vocab_size=32_000,
            sequence_length=4096,
            batch_sequences=32,
            micro_batch_sequences=8,
            batch_dialogues=256,
            micro_batch_dialogues=8,
            median_dialogue=400,
            corpus_bytes=40_000_000,
        ),
        Size(
            "3b",
            _architecture(3072, 8192, 28, 24, 8, max_position=4096),
            vocab_size=32_000,
            sequence_length=4096,
            batch_sequences=16,
            micro_batch_sequences=1,
            batch_dialogues=128,
            micro_batch_dialogues=2,
            median_dialogue=400,
            corpus_bytes=20_000_000,
        ),
    )
}
"""By name. `20m` is for processors, `1b` and `3b` for a GPU with 80 GB, `tiny` for the test of this benchmark."""

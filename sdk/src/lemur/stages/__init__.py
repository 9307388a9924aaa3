"""The stages of a run: each takes its section of the recipe and receipts, and returns receipts.

This is what a pipeline's components call. A stage validates its section, looks whether the result already
exists, and otherwise lets its room of the library make it.
"""

from lemur.stages.envelope import hand_over, hand_over_all, take, take_all
from lemur.stages.making import finetune, mix, partition, pretrain, tokenize
from lemur.stages.releasing import publish, serve
from lemur.stages.scoring import evaluate, gate

__all__ = [
    "evaluate",
    "finetune",
    "gate",
    "hand_over",
    "hand_over_all",
    "mix",
    "partition",
    "pretrain",
    "publish",
    "serve",
    "take",
    "take_all",
    "tokenize",
]

"""Data and settings small enough that a training job takes seconds."""

from __future__ import annotations

import io
import json
import random
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from forked import ForkedBackend
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lemur.data.mixing.packing import pack
from lemur.dataset import (
    BLOCK_BYTES,
    INDEX_NAME,
    DatasetIndex,
    PartitionRow,
    SourceIndex,
    write_partitions,
    write_sequences,
)
from lemur.dataset.layout import BLOCKS_NAME, ENDS_NAME, ORIGINS_NAME, TOKENS_NAME
from lemur.receipt import Receipt, digest_of
from lemur.recipe import FinetuneSection, HardwareSection, ModelSection, PretrainSection
from lemur.results import write_result
from lemur.storage import open_storage
from lemur.training.backend import Backend

SEQUENCE_LENGTH = 32
END_OF_TEXT = "<|endoftext|>"
Messages = list[dict[str, str]]


def make_texts() -> list[str]:
    """Returns a few hundred little functions."""
    chosen = random.Random(0)
    names = ["alpha", "beta", "gamma", "delta"]
    return [f"def {name}(x):\n    return x + {chosen.randrange(10)}\n" for name in chosen.choices(names, k=400)]


def make_tokenizer(texts: list[str], vocab_size: int = 320) -> PreTrainedTokenizerFast:
    """Learns a byte-level BPE with an end-of-text token and nothing of ChatML."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=learner, eos_token=END_OF_TEXT)


def make_tokens(
    storage: str, tokenizer: PreTrainedTokenizerFast, texts: list[str], max_epochs: float | None = None
) -> Receipt:
    """Makes a token mixture as tokenizing and mixing store it: two partitions, whose last sequences are padded."""
    key = digest_of({"tokens": max_epochs})
    writer = write_result(storage, prefix=f"tokens/{key[:16]}", kind="tokens", stage="mix", key=key, parents={})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        packed, rows = [], []
        for part in (texts[:250], texts[250:]):
            lengths, documents = _make_documents(storage, tokenizer, part)
            starts = (np.cumsum(lengths) - lengths).astype(np.uint64)
            laid = pack(
                starts,
                lengths,
                np.arange(len(lengths), dtype=np.uint32),
                sequence_length=SEQUENCE_LENGTH,
                packing="concatenate",
            )
            packed.append(laid)
            prefix = documents.uri.removeprefix(f"{storage}/")
            counts = (len(laid.firsts) - 1, int(lengths.sum()), len(lengths))
            rows.append(PartitionRow("code", prefix, documents.digest, *counts))
        num_sequences = sum(write_sequences(folder, "code", packed))
        write_partitions(folder, rows)
        source = SourceIndex(
            name="code",
            group=None,
            weight=1.0,
            max_epochs=max_epochs,
            num_sequences=num_sequences,
            num_tokens=sum(row.num_tokens for row in rows),
            num_documents=len(texts),
        )
        index = DatasetIndex(
            dtype="<u2",
            sequence_length=SEQUENCE_LENGTH,
            packing="concatenate",
            vocab_size=len(tokenizer),
            end_of_text_id=tokenizer.eos_token_id,
            seed=0,
            sources=[source],
        )
        (folder / INDEX_NAME).write_text(index.model_dump_json())
        tokenizer.save_pretrained(folder / "tokenizer")
        writer.add_folder(folder)
        return writer.commit(metadata={"vocab_size": len(tokenizer), "sequence_length": SEQUENCE_LENGTH})


def _make_documents(
    storage: str, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> tuple[npt.NDArray[np.int64], Receipt]:
    """Stores one partition's documents; returns their lengths in tokens too."""
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    tokens = np.concatenate(ids).astype("<u2").tobytes()
    blocks = [zlib.crc32(tokens[start : start + BLOCK_BYTES]) for start in range(0, len(tokens), BLOCK_BYTES)]
    checksums = io.BytesIO()
    np.save(checksums, np.array(blocks, np.uint32))
    key = digest_of(texts)
    prefix = f"documents/{key[:16]}"
    writer = write_result(storage, prefix=prefix, kind="documents", stage="tokenize", key=key, parents={})
    writer.add_bytes(TOKENS_NAME, tokens)
    writer.add_bytes(BLOCKS_NAME, checksums.getvalue())
    lengths = np.array([len(document) for document in ids])
    ends, origins = io.BytesIO(), io.BytesIO()
    np.save(ends, lengths.cumsum().astype(np.uint64))
    writer.add_bytes(ENDS_NAME, ends.getvalue())
    names = pa.array([f"functions.py:{line + 1}" for line in range(len(texts))])
    pq.write_table(pa.table({"origin": names}), origins)
    writer.add_bytes(ORIGINS_NAME, origins.getvalue())
    return lengths, writer.commit()


def sums(num_dialogues: int) -> list[Messages]:
    """Returns dialogues about little sums, of different lengths."""
    chosen, dialogues = random.Random(1), []
    for _ in range(num_dialogues):
        left, right = chosen.randrange(10), chosen.randrange(10)
        question = f"{left} + {right}" + "?" * chosen.randrange(1, 9)
        dialogues.append([{"role": "user", "content": question}, {"role": "assistant", "content": str(left + right)}])
    return dialogues


def make_dialogues(storage: str, dialogues: list[Messages]) -> Receipt:
    """Makes a collection of dialogues as mixing stores it."""
    lines = [{"messages": messages, "source": "sums", "origin": "sums:1"} for messages in dialogues]
    key = digest_of(lines)
    prefix = f"dialogues/{key[:16]}"
    writer = write_result(storage, prefix=prefix, kind="dialogues", stage="mix", key=key, parents={})
    writer.add_bytes("dialogues.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    return writer.commit(metadata={"sources": {"sums": {"dialogues": len(lines)}}})


def model_section(vocab_size: int, **changes: Any) -> ModelSection:
    """Two layers of width 32, drawn at random."""
    architecture = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "max_position": 64,
    }
    settings = {
        "start": {"kind": "random", "seed": 3},
        "architecture": architecture,
        "tokenizer": {"kind": "train", "vocab_size": vocab_size},
    }
    return ModelSection.model_validate({**settings, **changes})


def pretrain_section(**changes: Any) -> PretrainSection:
    """Twelve steps of eight sequences, in float32, with a checkpoint after every fourth."""
    settings = {
        "tokens": 12 * 8 * SEQUENCE_LENGTH,
        "batch_tokens": 8 * SEQUENCE_LENGTH,
        "micro_batch_sequences": 2,
        "learning_rate": 0.01,
        "warmup_steps": 2,
        "precision": "float32",
        "checkpoint_every_steps": 4,
        "log_every_steps": 3,
    }
    return PretrainSection.model_validate({**settings, **changes})


def finetune_section(**changes: Any) -> FinetuneSection:
    """Thirty steps of sixteen dialogues, in float32, with a checkpoint after every tenth."""
    settings = {
        "epochs": 5,
        "batch_dialogues": 16,
        "micro_batch_dialogues": 4,
        "max_length": 64,
        "learning_rate": 0.02,
        "precision": "float32",
        "checkpoint_every_steps": 10,
        "log_every_steps": 4,
    }
    return FinetuneSection.model_validate({**settings, **changes})


def hardware_section(backend: Backend | None = None, **changes: Any) -> HardwareSection:
    """This machine, with one process that is forked, where no other backend is given."""
    settings = {
        "backend": {"kind": "local"},
        "accelerator": {"name": "cpu", "memory_bytes": 2**33, "peak_flops": 1e11},
    }
    section = HardwareSection.model_validate({**settings, **changes})
    return section.model_copy(update={"backend": backend or ForkedBackend()})


def weights_of(receipt: Receipt) -> bytes:
    """Returns the stored weights of a model."""
    return open_storage(receipt.uri).read("model.safetensors")


def losses_of(receipt: Receipt) -> list[float]:
    """Returns the loss curve of a model."""
    lines = open_storage(receipt.uri).read("metrics.jsonl").decode().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def folder_of(receipt: Receipt) -> Path:
    """Returns where a result's files are."""
    folder = open_storage(receipt.uri).local_path()
    assert folder
    return folder

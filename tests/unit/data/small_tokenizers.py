"""Small tokenizers of both kinds, as the content of a `tokenizer.json` that a test may change."""

from __future__ import annotations

import copy
import functools
import json
import string
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from lemur.data.tokenizer.making import SPLIT_PATTERN

END = {"bytes": "<|endoftext|>", "llama": "</s>"}
TEXTS = [
    *(f"def function_{number}(value):\n    return value + {number * 37}\n" for number in range(60)),
    "Ünïcödé, 東京, and\r\n\ttabs; the END. 'Tis the user's own text, isn't it?  Two  spaces.",
    "the quick brown fox jumps over the lazy dog while classes inherit methods " * 3,
]
_METASPACES = [(scheme, split) for scheme in ("always", "first", "never") for split in (False, True)]
KINDS = ["bytes", "llama", *(f"llama {scheme}{' split' * split}" for scheme, split in _METASPACES)]


@functools.cache
def byte_level() -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    special = [END["bytes"], "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    return content


@functools.cache
def llama(alphabet: str = string.printable) -> dict[str, Any]:
    """Returns a tokenizer as Llama 2's was published: bytes to fall back to, and a space before every text."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=special + [f"<0x{byte:02X}>" for byte in range(256)],
        initial_alphabet=list(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in special]
    content["pre_tokenizer"] = None
    return content


def definition(kind: str) -> dict[str, Any]:
    """Returns the content of a `tokenizer.json` that a test may change."""
    content = copy.deepcopy(byte_level() if kind == "bytes" else llama())
    if kind.startswith("llama "):
        _, scheme, *split = kind.split()
        content["normalizer"] = None
        content["pre_tokenizer"] = {
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": bool(split)
        }  # fmt: skip
    return content


def add_token(content: dict[str, Any], text: str, **flags: bool) -> int:
    number: int = 1 + max([*content["model"]["vocab"].values(), *(token["id"] for token in content["added_tokens"])])
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    content["added_tokens"].append({"id": number, "content": text, **off, **flags})
    return number


def end_id(content: dict[str, Any]) -> int:
    (number,) = (token["id"] for token in content["added_tokens"] if token["content"] in END.values())
    return int(number)


def save(content: dict[str, Any], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def joining_end() -> dict[str, Any]:
    """Returns a tokenizer whose merges build the end-of-text token from ordinary text."""
    content = definition("llama")
    vocabulary = {"<unk>": 0, "<": 1, "/": 2, "s": 3, ">": 4, "</": 5, "s>": 6, "</s>": 7, "▁": 8, "a": 9}
    content["model"] |= {"vocab": vocabulary, "merges": [["<", "/"], ["s", ">"], ["</", "s>"]]}
    content["added_tokens"] = []
    content["normalizer"] = None
    add_token(content, "</s>", special=True)
    content["added_tokens"][0]["id"] = 7
    return content

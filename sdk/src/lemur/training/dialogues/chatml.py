"""ChatML as Lemur was tuned with it, token for token.

A turn is `<|im_start|>role`, a newline, the stripped content, `<|im_end|>` and a newline; the loss is on what the
assistant says, `<|im_end|>` and the newline after it included. Where a tokenizer begins every text with a token
(Llama's `<s>`), so does a dialogue. (OpenLemur/Lemur, `xchat/train/train.py`.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

PAD, START, END = "<pad>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, START, END, "<|im_sep|>", "<|diff_marker|>")
"""Added in this order, so that Llama 2's 32,000 entries become 32,005 and `<|im_end|>` is 32,002."""

_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}{{- message['content'] | trim + '<|im_end|>\\n' -}}{%- endgeneration -%}"
    "{%- else -%}"
    "{{- message['content'] | trim + '<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


class EncodedDialogue(NamedTuple):
    """A dialogue as the model reads it."""

    token_ids: npt.NDArray[np.int32]
    """Token ids, [length]."""
    learned: npt.NDArray[np.bool_]
    """Which tokens the loss is on, [length]."""


class _Piece(NamedTuple):
    text: str
    is_markup: bool
    is_learned: bool


def prepare_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Gives a tokenizer what ChatML needs: its tokens, the template, `<|im_end|>` as the end, `<pad>` as padding."""
    present = tokenizer.get_vocab()
    missing = [token for token in SPECIAL_TOKENS if token not in present]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing], special_tokens=True)
    tokenizer.add_special_tokens({"extra_special_tokens": list(SPECIAL_TOKENS[1:])}, replace_extra_special_tokens=False)
    tokenizer.pad_token, tokenizer.padding_side = PAD, "right"
    begins_with = "{{- bos_token -}}" if _beginning(tokenizer) else ""
    tokenizer.chat_template = begins_with + _TEMPLATE
    # After the beginning was looked up: some tokenizers build what they add around a text from these.
    tokenizer.eos_token = END


def encode_dialogue(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]]) -> EncodedDialogue:
    """Encodes a dialogue, with a mask of what the assistant says.

    What someone says is text, whatever it holds: a `<|im_end|>` that a user typed is spelt out and ends nothing.

    Args:
        tokenizer: A tokenizer that `prepare_tokenizer` has prepared.
        messages: Turns with `role` and `content`.
    """
    pieces = [piece for message in messages for piece in _turn(message)]
    beginning = _beginning(tokenizer)
    markup = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    if any(token in piece.text for piece in pieces if not piece.is_markup for token in markup):
        parts = [_encode_piece(tokenizer, piece) for piece in pieces]
        token_ids = np.concatenate([part.token_ids for part in parts])
        learned = np.concatenate([part.learned for part in parts])
    else:
        token_ids, learned = _encode_whole(tokenizer, pieces)
    return EncodedDialogue(
        np.concatenate([np.array(beginning, np.int32), token_ids]),
        np.concatenate([np.zeros(len(beginning), np.bool_), learned]),
    )


def _turn(message: Mapping[str, str]) -> Iterable[_Piece]:
    is_learned = message["role"] == "assistant"
    yield _Piece(f"{START}{message['role']}\n", is_markup=True, is_learned=False)
    yield _Piece(message["content"].strip(), is_markup=False, is_learned=is_learned)
    yield _Piece(f"{END}\n", is_markup=True, is_learned=is_learned)


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the token that the tokenizer begins every text with, or nothing."""
    around: list[int] = tokenizer("")["input_ids"]
    return around[:1] if around[:1] == [tokenizer.bos_token_id] else []


def _encode_whole(tokenizer: PreTrainedTokenizerBase, pieces: Sequence[_Piece]) -> EncodedDialogue:
    """Encodes the text as one, as the model will see it when it is served; offsets tell what is learned."""
    encoded = tokenizer("".join(piece.text for piece in pieces), add_special_tokens=False, return_offsets_mapping=True)
    starts = np.array([start for start, _ in encoded["offset_mapping"]], np.int64)
    ends = np.cumsum([len(piece.text) for piece in pieces])
    of_piece = np.searchsorted(ends, starts, side="right")
    learned = np.array([piece.is_learned for piece in pieces], np.bool_)[of_piece]
    return EncodedDialogue(np.array(encoded["input_ids"], np.int32), learned)


def _encode_piece(tokenizer: PreTrainedTokenizerBase, piece: _Piece) -> EncodedDialogue:
    token_ids = tokenizer(piece.text, add_special_tokens=False, split_special_tokens=not piece.is_markup)["input_ids"]
    return EncodedDialogue(np.array(token_ids, np.int32), np.full(len(token_ids), piece.is_learned))

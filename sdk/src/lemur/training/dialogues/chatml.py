"""ChatML as Lemur was tuned with it, token for token, and tool calls as Hermes and Qwen write them inside it.

A turn is `<|im_start|>role`, a newline, the stripped content, `<|im_end|>` and a newline; the loss is on what the
assistant says, `<|im_end|>` and the newline after it included. Where a tokenizer begins every text with a token
(Llama's `<s>`), so does a dialogue. (OpenLemur/Lemur, `xchat/train/train.py`.)

Lemur's original knows no tools. Here the system's turn lists them as JSON between `<tools>` and `</tools>`, and an
assistant's call is a JSON object between `<tool_call>` and `</tool_call>`, after what it says in words. That is the
form of Hermes 2 Pro and Qwen 2.5, which vLLM reads back with `--tool-call-parser hermes`. What a tool answers is a turn
of the role `tool`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

PAD, START, END = "<pad>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (PAD, START, END, "<|im_sep|>", "<|diff_marker|>")
"""Added in this order, so that Llama 2's 32,000 entries become 32,005 and `<|im_end|>` is 32,002."""

_BEFORE_TOOLS = (
    "# Tools\n\n"
    "You may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n"
    "<tools>\n"
)
_AFTER_TOOLS = (
    "\n</tools>\n\n"
    "For each function call, return a json object with function name and arguments within "
    "<tool_call></tool_call> XML tags:\n"
    "<tool_call>\n"
    '{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)
_BEFORE_CALL, _AFTER_CALL = "<tool_call>\n", "\n</tool_call>"


def _literal(text: str) -> str:
    return json.dumps(text)


_TEMPLATE = (
    "{%- set listed -%}"
    "{%- if tools -%}"
    f"{{{{- {_literal(_BEFORE_TOOLS)} -}}}}"
    "{%- for tool in tools -%}{{- '' if loop.first else '\\n' -}}{{- tool | tojson -}}{%- endfor -%}"
    f"{{{{- {_literal(_AFTER_TOOLS)} -}}}}"
    "{%- endif -%}"
    "{%- endset -%}"
    "{%- if tools and messages[0]['role'] != 'system' -%}"
    "{{- '<|im_start|>system\\n' + listed + '<|im_end|>\\n' -}}"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "{%- set said = (message['content'] or '') | trim -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{%- generation -%}"
    "{{- said -}}"
    "{%- for tool_call in message['tool_calls'] or [] -%}"
    "{%- set function = tool_call['function'] -%}"
    "{%- set given = function['arguments'] -%}"
    "{{- '' if loop.first and not said else '\\n' -}}"
    f"{{{{- {_literal(_BEFORE_CALL)} -}}}}"
    "{{- '{\"name\": ' + (function['name'] | tojson) + ', \"arguments\": ' -}}"
    "{{- given if given is string else given | tojson -}}"
    f"{{{{- '}}' + {_literal(_AFTER_CALL)} -}}}}"
    "{%- endfor -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endgeneration -%}"
    "{%- elif message['role'] == 'system' and loop.first and tools -%}"
    "{{- said + '\\n\\n' + listed + '<|im_end|>\\n' -}}"
    "{%- else -%}"
    "{{- said + '<|im_end|>\\n' -}}"
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
    turn_ends: npt.NDArray[np.int64]
    """Tokens up to the end of each turn, [turns]; a list of tools without a system message is a turn."""
    answers: npt.NDArray[np.bool_]
    """Which turns are the assistant's, [turns]."""


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


class DialogueEncoder:
    """Encodes dialogues, with a mask of what the assistant says.

    What someone says is text, whatever it holds: a `<|im_end|>` that a user typed is spelt out and ends nothing, and
    so is one in the arguments of a call, in the description of a tool, or in what a tool answers.

    Args:
        tokenizer: A tokenizer that `prepare_tokenizer` has prepared.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._beginning = _beginning(tokenizer)
        self._markup = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]

    def encode(self, dialogues: Sequence[Mapping[str, Any]]) -> list[EncodedDialogue]:
        """Encodes dialogues, all processors at a time.

        Args:
            dialogues: Each with `messages` and perhaps `tools`, as `lemur.data.dialogues` stores them.
        """
        pieces = [list(_pieces(dialogue["messages"], dialogue.get("tools") or [])) for dialogue in dialogues]
        plain = [number for number, parts in enumerate(pieces) if not self._quotes_markup(parts)]
        encoded = dict(zip(plain, self._encode_whole([pieces[number] for number in plain]), strict=True))
        return [encoded.get(number) or self._encode_apart(parts) for number, parts in enumerate(pieces)]

    def _quotes_markup(self, pieces: Sequence[_Piece]) -> bool:
        said = "\n".join(piece.text for piece in pieces if not piece.is_markup)
        return any(token in said for token in self._markup)

    def _encode_whole(self, dialogues: Sequence[Sequence[_Piece]]) -> Iterator[EncodedDialogue]:
        """Encodes each text as one, as the model will see it when it is served; offsets tell what is learned."""
        if not dialogues:
            return
        texts = ["".join(piece.text for piece in pieces) for pieces in dialogues]
        encodings = self._tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        for pieces, token_ids, offsets in zip(
            dialogues, encodings["input_ids"], encodings["offset_mapping"], strict=True
        ):
            starts = np.array(offsets, np.int64)[:, 0]
            of_piece = np.searchsorted(np.cumsum([len(piece.text) for piece in pieces]), starts, side="right")
            yield self._encoded(pieces, np.array(token_ids, np.int32), of_piece)

    def _encode_apart(self, pieces: Sequence[_Piece]) -> EncodedDialogue:
        """Encodes markup and text apart, so that nothing in the text is taken for markup."""
        parts = [
            self._tokenizer(piece.text, add_special_tokens=False, split_special_tokens=not piece.is_markup)["input_ids"]
            for piece in pieces
        ]
        of_piece = np.repeat(np.arange(len(pieces)), [len(part) for part in parts])
        return self._encoded(pieces, np.array([token for part in parts for token in part], np.int32), of_piece)

    def _encoded(
        self, pieces: Sequence[_Piece], token_ids: npt.NDArray[np.int32], of_piece: npt.NDArray[np.int64]
    ) -> EncodedDialogue:
        learned = np.array([piece.is_learned for piece in pieces], np.bool_)
        # Three pieces make a turn, and the last tells whose it is.
        turn_ends = np.searchsorted(of_piece, np.arange(3, len(pieces) + 3, 3), side="left")
        return EncodedDialogue(
            np.concatenate([np.array(self._beginning, np.int32), token_ids]),
            np.concatenate([np.zeros(len(self._beginning), np.bool_), learned[of_piece]]),
            turn_ends + len(self._beginning),
            learned[2::3],
        )


def encode_dialogue(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> EncodedDialogue:
    """Encodes one dialogue; `DialogueEncoder` does many at a time.

    Args:
        tokenizer: A tokenizer that `prepare_tokenizer` has prepared.
        messages: Turns with `role` and `content`, and `tool_calls` where the assistant calls tools.
        tools: Schemas of the tools that it may call.
    """
    return DialogueEncoder(tokenizer).encode([{"messages": messages, "tools": tools}])[0]


def _pieces(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> Iterator[_Piece]:
    listed = _BEFORE_TOOLS + "\n".join(map(_json, tools)) + _AFTER_TOOLS if tools else ""
    if listed and messages[0]["role"] != "system":
        yield from _turn("system", listed)
    for number, message in enumerate(messages):
        role, said = message["role"], (message.get("content") or "").strip()
        if role == "assistant":
            said = "\n".join([*([said] if said else []), *map(_call, message.get("tool_calls") or [])])
        elif role == "system" and listed and number == 0:
            said = f"{said}\n\n{listed}"
        yield from _turn(role, said)


def _turn(role: str, said: str) -> Iterator[_Piece]:
    is_learned = role == "assistant"
    yield _Piece(f"{START}{role}\n", is_markup=True, is_learned=False)
    yield _Piece(said, is_markup=False, is_learned=is_learned)
    yield _Piece(f"{END}\n", is_markup=True, is_learned=is_learned)


def _call(call: Mapping[str, Any]) -> str:
    function = call["function"]
    given = function["arguments"]
    arguments = given if isinstance(given, str) else _json(given)
    return f'{_BEFORE_CALL}{{"name": {_json(function["name"])}, "arguments": {arguments}}}{_AFTER_CALL}'


def _json(value: Any) -> str:
    """Returns JSON as the filter `tojson` of chat templates in `transformers` and vLLM writes it."""
    return json.dumps(value, ensure_ascii=False)


def _beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Returns the token that the tokenizer begins every text with, or nothing."""
    around: list[int] = tokenizer("")["input_ids"]
    return around[:1] if around[:1] == [tokenizer.bos_token_id] else []

"""A `tokenizer.json`, changed so that it encodes documents for training and nothing else.

Both engines of `lemur.data.tokenizer.encoder` read the same definition, so that what is said here holds for each.
Text is only text: a document that spells a special token, or any added token written `<|…|>`, is split into ordinary
tokens. An added token that is neither is the tokenizer's own word for ordinary text, such as GPT-NeoX's runs of
spaces, and is found in text as that tokenizer finds it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import orjson

_CONTROL_TOKEN = re.compile(r"<\|.*\|>", re.DOTALL)


def read_tokenizer(folder: Path) -> dict[str, Any]:
    """Returns the content of a folder's `tokenizer.json`."""
    content: dict[str, Any] = orjson.loads((folder / "tokenizer.json").read_bytes())
    return content


def plain_text_definition(tokenizer: dict[str, Any], end_of_text_id: int) -> dict[str, Any]:
    """Returns a tokenizer that puts the end-of-text token after each text and adds nothing else.

    Nothing is cut off, padded or left to chance. The end-of-text token and those written `<|…|>` count as special,
    whatever the tokenizer says, since it is the special ones that the engines do not find in text.

    Args:
        tokenizer: Content of a `tokenizer.json`; is not changed.
        end_of_text_id: Token put after each text.
    """
    tokens = [{**token, "special": is_special(token, end_of_text_id)} for token in tokenizer["added_tokens"]]
    model = tokenizer["model"]
    return {
        **tokenizer,
        "truncation": None,
        "padding": None,
        "added_tokens": tokens,
        "post_processor": _end_of_text_after(end_of_text_id),
        "model": {**model, "dropout": None} if "dropout" in model else model,
    }


def without_metaspace(definition: dict[str, Any]) -> dict[str, Any]:
    """Returns a definition that says `Metaspace` with the parts that `fastokens` knows.

    This is how transformers writes the tokenizers of Llama 2 and its kin. A space becomes the replacement, one more is
    put before a text that does not begin with one, and where asked the text is split before each. It is the same for
    `first` and `always` as long as no added token is found in text; `check_encoder` tells where one is.
    """
    metaspace = definition["pre_tokenizer"] or {}
    if metaspace.get("type") != "Metaspace" or "prepend_scheme" not in metaspace:
        return definition
    mark = metaspace["replacement"]
    steps = [definition["normalizer"]] if definition["normalizer"] else []
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": mark})
    if metaspace["prepend_scheme"] != "never":
        # One is always put before, and of two at the start one is taken away again.
        steps.append({"type": "Prepend", "prepend": mark})
        steps.append({"type": "Replace", "pattern": {"Regex": rf"\A{re.escape(mark) * 2}"}, "content": mark})
    split = {"type": "Split", "pattern": {"String": mark}, "behavior": "MergedWithNext", "invert": False}
    return {
        **definition,
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": split if metaspace.get("split", True) else None,
    }


def is_special(token: dict[str, Any], end_of_text_id: int) -> bool:
    """Says whether an entry of `added_tokens` must never come from text."""
    return token["special"] or token["id"] == end_of_text_id or bool(_CONTROL_TOKEN.fullmatch(token["content"]))


def largest_id(tokenizer: dict[str, Any]) -> int:
    """Returns the largest id that a tokenizer has."""
    vocabulary = tokenizer["model"]["vocab"]
    ids: list[int] = [token["id"] for token in tokenizer["added_tokens"]]
    ids += vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    return max(ids)


def as_json(definition: dict[str, Any]) -> str:
    """Returns a definition as the engines read it."""
    return orjson.dumps(definition).decode()


def _end_of_text_after(end_of_text_id: int) -> dict[str, Any]:
    """Returns the post-processor that puts one token after a text; the name that it has there is seen by nobody."""
    text, end = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "end", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [text, end],
        "pair": [text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"end": {"id": "end", "ids": [end_of_text_id], "tokens": ["end"]}},
    }

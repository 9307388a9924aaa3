"""Tokens as bytes: what each one stands for, where it begins in a text, and text as it is made.

A byte-level tokenizer may cut one character into several tokens. So text is put together from bytes, a
character is shown once its last byte is there, and the place of a token is counted in whole characters.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lemur.errors import ServingError


class Prompt(NamedTuple):
    """A prompt as the model reads it."""

    text: str
    """As it was sent or, for a prompt sent as token ids, as it decodes."""
    token_ids: list[int]
    """One id for each token."""
    offsets: list[int] | None
    """Character of `text` at which each token begins; `None` where nobody asked."""


class TextBuilder:
    """Makes text from the bytes of tokens, one token at a time."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.num_characters = 0
        """Whole characters so far, the one still open not counted."""

    def add(self, piece: bytes) -> tuple[str, int]:
        """Takes the next token's bytes.

        Returns:
            The text that became complete, and the character at which the token begins.
        """
        # The first byte may end a broken character, so that the token begins after that one.
        text = self._decoder.decode(piece[:1])
        starts_inside = not piece or self._decoder.getstate()[0]
        start = self.num_characters + len(text) - (0 if starts_inside else 1)
        text += self._decoder.decode(piece[1:])
        self.num_characters += len(text)
        return text, start

    def end(self) -> str:
        """Returns what is left: a replacement character where the last token broke off inside one."""
        rest = self._decoder.decode(b"", final=True)
        self.num_characters += len(rest)
        return rest


class Vocabulary:
    """A tokenizer, and the bytes of every token.

    Args:
        tokenizer: A transformers tokenizer with a `tokenizers` backend.

    Raises:
        ServingError: The tokenizer's tokens cannot be written as bytes.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        added = self._backend.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self._is_byte_level, as_bytes = _bytes_of_tokens(self._backend)
        size = max(max(self._backend.get_vocab(with_added_tokens=True).values(), default=0) + 1, len(tokenizer))
        self._pieces = [b""] * size
        for token, token_id in self._backend.get_vocab(with_added_tokens=True).items():
            self._pieces[token_id] = token.encode() if token_id in added else as_bytes(token)
        self.longest_piece_bytes = max(map(len, self._pieces))

    @classmethod
    def load(cls, folder: Path) -> Vocabulary:
        """Reads the tokenizer of a model folder."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if not tokenizer.is_fast:
            raise ServingError(f"the tokenizer in {folder} has no tokenizer.json; save it as a fast tokenizer")
        return cls(tokenizer)

    def piece(self, token_id: int) -> bytes:
        """Returns the bytes a token stands for; none for an id that the model has and the tokenizer lacks."""
        return self._pieces[token_id] if token_id < len(self._pieces) else b""

    def name(self, token_id: int) -> str:
        r"""Returns a token as OpenAI writes it: its text, or `bytes:\xe2\x80` where that is not whole characters."""
        piece = self.piece(token_id)
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)

    def text(self, token_ids: Iterable[int]) -> str:
        """Returns the text of tokens, special ones written out."""
        return b"".join(map(self.piece, token_ids)).decode(errors="replace")

    def read_text(self, text: str, *, add_special_tokens: bool = True, with_offsets: bool = False) -> Prompt:
        """Cuts a text into tokens.

        Args:
            text: The prompt.
            add_special_tokens: Whether the tokenizer puts its own tokens around it, such as a start of text;
                not wanted where a chat template wrote them.
            with_offsets: Whether to say where each token begins.
        """
        encoding = self._backend.encode(text, add_special_tokens=add_special_tokens)
        if not with_offsets:
            return Prompt(text, encoding.ids, None)
        outside = encoding.special_tokens_mask
        pieces = [b"" if out else self.piece(token_id) for token_id, out in zip(encoding.ids, outside, strict=True)]
        # A normalizer may have changed the text; then only the tokenizer itself knows where its tokens stood.
        if self._is_byte_level and b"".join(pieces) == text.encode():
            return Prompt(text, encoding.ids, _starts(pieces))
        return Prompt(text, encoding.ids, [start for start, _ in encoding.offsets])

    def read_ids(self, token_ids: Sequence[int]) -> Prompt:
        """Returns a prompt that was sent as token ids."""
        pieces = [self.piece(token_id) for token_id in token_ids]
        return Prompt(b"".join(pieces).decode(errors="replace"), list(token_ids), _starts(pieces))


def _starts(pieces: Iterable[bytes]) -> list[int]:
    builder = TextBuilder()
    return [builder.add(piece)[1] for piece in pieces]


def _bytes_of_tokens(backend: Any) -> tuple[bool, Any]:
    """Returns whether tokens are written in the byte-level alphabet, and the function that gives their bytes."""
    decoder = json.loads(backend.to_str())["decoder"] or {"type": "none"}
    kinds = {part["type"] for part in decoder.get("decoders", [decoder])}
    if "ByteLevel" in kinds:
        alphabet = _byte_level_alphabet()
        return True, lambda token: bytes(alphabet[character] for character in token)
    if kinds & {"Metaspace", "ByteFallback"}:
        return False, _sentencepiece_bytes
    raise ServingError(
        f"the tokenizer's decoder ({', '.join(sorted(kinds))}) is not one this server can stream; "
        "it knows byte-level BPE and SentencePiece tokenizers"
    )


def _byte_level_alphabet() -> dict[str, int]:
    """Returns the byte each character of a byte-level token stands for (GPT-2, `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return alphabet


def _sentencepiece_bytes(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return token.replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()

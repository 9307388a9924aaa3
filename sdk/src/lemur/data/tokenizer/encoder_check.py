"""Whether the fast engine gives a tokenizer's own ids: asked once at the start of a run, on the run's own documents.

Each text is encoded by the reference, and by the fast engine alone, among the others and among them in reverse order. A
single difference, or an error, and the run goes on with the reference; the note says which text it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from lemur.data.tokenizer.definition import is_special, plain_text_definition, read_tokenizer
from lemur.data.tokenizer.encoder import (
    Encoded,
    Engine,
    EngineName,
    FastokensEngine,
    TokenizersEngine,
    shown,
)
from lemur.errors import RecipeError
from lemur.progress import emit

if TYPE_CHECKING:
    from lemur.data.reading.documents import Document

_Made = TypeVar("_Made")

COMPARED_BYTES = 500_000
"""So much of the run's documents is compared: about a quarter of a second of the reference's time."""
LINE_BYTES = 1_000_000
"""Length of the line made of those documents."""
_MAX_TOKENS_SPELT = 400
_RUN_CHARACTERS = 20_000
_HALF_PAIR = "half of a \ud83d pair"
_HOSTILE = {
    "nothing": "",
    "control characters": "\0\x01\x02\x07\x08\x1b[0m\x7f\x80\x9f a\0b\0\0",
    "every byte as a character": "".join(map(chr, range(256))),
    "a run of one letter": "a" * _RUN_CHARACTERS,
    "a run of spaces": " " * _RUN_CHARACTERS,
    "a run of line ends": "\n" * _RUN_CHARACTERS,
    "a run of tabs": "\t" * _RUN_CHARACTERS,
    "a run of NUL": "\0" * _RUN_CHARACTERS,
    "a run of signs": "=" * _RUN_CHARACTERS,
    "a run of digits": "0123456789" * (_RUN_CHARACTERS // 10),
    "a run of ideographs": "東京都" * (_RUN_CHARACTERS // 10),
    "a run of marks on one letter": "e" + "\u0301\u0323" * 2_000,
    "spaces around": "  leading  double   triple    and trailing   ",
    "one space": " ",
    "mixed line ends": "a\nb\r\nc\rd\n\r\n\r\re \n f\u2028g\u2029h\x85i\x0bj\x0ck\n",
    "mixed white space": "\u00a0a\u2003b\u3000c\u200bd\u2060e\ufefff\u202f \u1680 \t\u00a0 \n",
    "emoji with joiners": "👩‍👩‍👧‍👦 👨🏽‍💻🏳️‍🌈 🇩🇪🇯🇵 1️⃣ ❤️‍🔥👩" * 20,
    "combining marks": "e\u0301 é a\u0308\u0323 \u1ea1\u0308 \uac01 \u1100\u1161\u11a8 \u0301leading ﬁ ﬃ Å \u212b",
    "right to left": "שָׁלוֹם עולם مرحبا بالعالم ١٢٣ \u202eabc\u202c \u2067x\u2069 ﷺ",
    "many scripts": "Ünïcödé Ελληνικά Кириллица हिन्दी ไทย 日本語テキスト 한국어 \U0001d518\U0001d52b 𓀀 ½ ² Ⅷ ǅ İıſ",
    "private use and no characters": "\ue000\uf8ff\U000f0000\U0010fffd \ufdd0\ufffe\uffff \U0010ffff \ufffd",
    "byte order mark": "\ufeffint main() {}\ufeff\n",
    "metaspaces": "▁ ▁▁a ▁b▁ ▁\n▁▁▁ c▁",
    "bytes spelt out": "<0x0A><0x00> <0xFF>\n<0x0a> <0xZZ> Ġ Ċ ĉĠĠ",
    "contractions": "I'll WE'RE they've don't 'S 's'S o'clock ''ll \u2019s",
    "numbers": "1 12 123 1234 12345 3.14159 1e-10 0xFF 1_000_000 ٣٤ ①②",
}


class EncoderChoice(NamedTuple):
    """Which engine a run encodes with, and why."""

    engine: EngineName
    """What `open_encoder` takes."""
    reason: str
    """One sentence for the receipt."""


class _Case(NamedTuple):
    name: str
    text: str


def check_encoder(
    folder: Path, sample: Iterable[Document], *, end_of_text_id: int, line_bytes: int = LINE_BYTES
) -> EncoderChoice:
    """Chooses the fast engine where it gives the reference's ids on all that is tried, else the reference.

    It takes about a second, whatever the sample's size.

    Args:
        folder: Where the tokenizer is saved.
        sample: Documents of this run; the first `COMPARED_BYTES` of them are compared.
        end_of_text_id: Token put after each document.
        line_bytes: Length of the longest line that is compared.

    Raises:
        RecipeError: A text that spells a special token becomes that token with the reference as well.
    """
    tokenizer = read_tokenizer(folder)
    definition = plain_text_definition(tokenizer, end_of_text_id)
    cases = [*_bounded(sample), *(_Case(f"hostile text {name!r}", text) for name, text in _HOSTILE.items())]
    cases.append(_Case("a line of a megabyte made of the documents", _line(cases, line_bytes)))
    cases += _spelt_tokens(tokenizer, end_of_text_id)
    reference = TokenizersEngine(definition)
    expected = _each(reference.encode([case.text for case in cases]))
    _refuse_found_tokens(tokenizer, end_of_text_id, {case.text: ids for case, ids in zip(cases, expected, strict=True)})
    fault = _first_fault(definition, cases, expected)
    if fault:
        emit("note", text=f"documents are encoded with tokenizers, which is slower, since {fault}")
        return EncoderChoice("tokenizers", fault)
    num_bytes = sum(len(case.text.encode()) for case in cases)
    return EncoderChoice("fastokens", f"the same ids as tokenizers on {len(cases):,} texts of {num_bytes:,} bytes")


def _first_fault(
    definition: dict[str, Any], cases: Sequence[_Case], expected: Sequence[npt.NDArray[Any]]
) -> str | None:
    """Says how the fast engine fails first, if it does."""
    fast = _guarded(lambda: FastokensEngine(definition))
    if isinstance(fast, str):
        return f"fastokens cannot load this tokenizer ({fast})"
    for case, ids in zip(cases, expected, strict=True):
        fault = _fault(fast, [case], [ids])
        if fault:
            return fault
    if not isinstance(_guarded(lambda: fast.encode([_HALF_PAIR])), str):
        return "fastokens encodes half of a surrogate pair, which is no text"
    return _fault(fast, cases, expected, "among others ") or _fault(
        fast, cases[::-1], expected[::-1], "among others in reverse order "
    )


def _fault(fast: Engine, cases: Sequence[_Case], expected: Sequence[npt.NDArray[Any]], how: str = "") -> str | None:
    encoded = _guarded(lambda: fast.encode([case.text for case in cases]))
    if isinstance(encoded, str):
        return f"fastokens cannot encode {cases[0].name} {how}({shown(cases[0].text)}: {encoded})"
    if len(encoded.ends) != len(cases):
        return f"fastokens returns {len(encoded.ends):,} documents for {len(cases):,}"
    for case, found, ids in zip(cases, _each(encoded), expected, strict=True):
        if not np.array_equal(found, ids):
            return f"fastokens encodes {case.name} {how}differently ({shown(case.text)}: {_difference(found, ids)})"
    return None


def _guarded(work: Callable[[], _Made]) -> _Made | str:
    """Returns what a call into the fast engine gives, or what it raises, in words.

    A fault of the engine itself, a panic in Rust, is no `Exception`.
    """
    try:
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return f"panic: {error}"


def _difference(found: npt.NDArray[Any], ids: npt.NDArray[Any]) -> str:
    shorter = min(len(found), len(ids))
    position = int(np.argmax(np.append(found[:shorter] != ids[:shorter], True)))
    there, here = (str(tokens[position]) if position < len(tokens) else "nothing" for tokens in (found, ids))
    return f"token {position:,} is {there} instead of {here}"


def _refuse_found_tokens(tokenizer: dict[str, Any], end_of_text_id: int, expected: dict[str, npt.NDArray[Any]]) -> None:
    """Raises an error where the text of a special token becomes that token, as in a Unigram model's vocabulary."""
    model = tokenizer["model"]
    unknown = (model.get("unk_token"), model.get("unk_id"))
    for token in _compared_tokens(tokenizer, end_of_text_id):
        content, number = token["content"], token["id"]
        if not is_special(token, end_of_text_id) or content == unknown[0] or number == unknown[1]:
            continue
        if number in expected[content][:-1]:
            raise RecipeError(
                f"the tokenizer cannot be used: text that spells its special token {content!r} becomes that token "
                f"({number}), so that documents could end themselves or speak for others; choose another "
                "model.tokenizer"
            )


def _spelt_tokens(tokenizer: dict[str, Any], end_of_text_id: int) -> Iterator[_Case]:
    """Yields each added token as text: alone, doubled, beside spaces and letters, cut short, and after all others."""
    contents = [token["content"] for token in _compared_tokens(tokenizer, end_of_text_id)]
    for content in contents:
        yield _Case(f"the added token {content!r}", content)
        varied = f"a{content}{content} {content}  {content}b\n{content}\n{content[:-1]}{content} {content.upper()} "
        yield _Case(f"the added token {content!r} in text", varied)
    yield _Case("all added tokens", "".join(contents))


def _compared_tokens(tokenizer: dict[str, Any], end_of_text_id: int) -> list[dict[str, Any]]:
    """Returns the added tokens; of very many some that are spread over them, the one that ends documents among them."""
    tokens: list[dict[str, Any]] = tokenizer["added_tokens"]
    step = len(tokens) // _MAX_TOKENS_SPELT + 1
    return [token for row, token in enumerate(tokens) if row % step == 0 or token["id"] == end_of_text_id]


def _bounded(sample: Iterable[Document]) -> Iterator[_Case]:
    left_bytes = COMPARED_BYTES
    for document in sample:
        yield _Case(f"document {document.origin}", document.text.encode()[:left_bytes].decode(errors="ignore"))
        left_bytes -= document.num_bytes
        if left_bytes <= 0:
            return


def _line(cases: Sequence[_Case], line_bytes: int) -> str:
    text = " ".join(" ".join(case.text.splitlines()) for case in cases)
    once = text.encode()
    return (once * (line_bytes // len(once) + 1))[:line_bytes].decode(errors="ignore")


def _each(encoded: Encoded) -> list[npt.NDArray[Any]]:
    return np.split(encoded.tokens, encoded.ends[:-1])

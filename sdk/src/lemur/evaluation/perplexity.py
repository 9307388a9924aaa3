"""Bits that a served model spends on a text, read from the prompt's own log-probabilities.

`/v1/completions` with `echo` and `logprobs` returns the probability of every token of the prompt. The tokenizer is
not known on this side of the URL, so texts are cut in characters, at places where no tokenizer joins what is before
to what is after, and the server's `text_offset` says which tokens a window owns.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from lemur.errors import ServingError
from lemur.evaluation.benchmark import ServedModel

if TYPE_CHECKING:
    from openai.types import Completion

_NUM_RETRIES = 4
_FALLBACK_CONTEXT_TOKENS = 2048
_CHARACTERS_PER_TOKEN = 2.0
"""Assumed until a window was counted; fewer than any usual tokenizer puts in a token."""
_SAFETY = 0.9
"""Share of the context that a window aims at, since the next lines may take more tokens than the last ones."""
_SMALLEST_WINDOW = 32
"""Characters; a server that refuses even this does so for another reason than length."""


class Cost(NamedTuple):
    """What a text cost the model."""

    bits: float
    """Sum of -log2 p over the tokens that have a probability."""
    num_bytes: int
    """UTF-8 bytes of those tokens."""
    num_tokens: int
    """How many they are."""


class RefusedError(Exception):
    """The server did not take one text; the message is its reason."""


class PromptScorer:
    """Measures texts on one server; its methods may be called from several threads.

    Args:
        model: Whom to ask.
        context_tokens: Longest prompt the server takes; `None` asks it.
        stride: Share of a window that is new; the rest is context that was measured before.

    Raises:
        ServingError: The server does not answer.
    """

    def __init__(self, model: ServedModel, *, context_tokens: int | None, stride: float) -> None:
        import openai

        self._model = model
        self._stride = stride
        self._client = openai.OpenAI(base_url=model.base_url, api_key=model.api_key or "none", max_retries=_NUM_RETRIES)
        # One token is generated, because not every server takes `max_tokens: 0`; it needs its place.
        self._window_tokens = (context_tokens or self._served_context()) - 1

    def measure(self, text: str) -> Cost:
        """Returns what a text costs, token by token, each with at least `1 - stride` of a window before it.

        A server that puts nothing before a prompt gives its first token no probability. That token is left out of
        the bits and of the bytes; where the server starts with a begin-of-text token, all are in.

        Raises:
            RefusedError: The server does not take the text.
            ServingError: The server is gone, or answers without log-probabilities.
        """
        bits, num_bytes, num_tokens = 0.0, 0, 0
        start, density = 0, 1 / _CHARACTERS_PER_TOKEN
        room = self._room(density)
        while start < len(text):
            first = 0 if start == 0 else _cut(text, start - int(room * (1 - self._stride)), lowest=0)
            stop = len(text) if len(text) - first <= room else _cut(text, first + room, lowest=start + 1)
            try:
                window = self._ask(text[first:stop])
            except RefusedError:
                if stop - first <= _SMALLEST_WINDOW:
                    raise
                room = max(_SMALLEST_WINDOW, (stop - first) // 2)
                continue
            density = max(density if start else 0.0, window.num_prompt_tokens / (stop - first))
            cost = window.cost_from(start - first)
            bits, num_tokens = bits + cost.bits, num_tokens + cost.num_tokens
            num_bytes += cost.num_bytes
            start = stop
            room = self._room(density)
        return Cost(bits, num_bytes, num_tokens)

    def _room(self, density: float) -> int:
        return max(_SMALLEST_WINDOW, int(self._window_tokens * _SAFETY / density))

    def _ask(self, prompt: str) -> _Window:
        import openai

        try:
            answer = self._client.completions.create(
                model=self._model.name, prompt=prompt, max_tokens=1, temperature=0, echo=True, logprobs=1
            )
        except (openai.APIStatusError, openai.APITimeoutError) as error:
            raise RefusedError(str(error)) from error
        except openai.APIConnectionError as error:
            raise self._gone(error) from error
        return _Window.read(prompt, answer)

    def _served_context(self) -> int:
        """Returns the longest prompt that `/v1/models` states, as vLLM and Lemur's server do (`max_model_len`)."""
        import openai

        try:
            cards: list[Any] = [card for card in self._client.models.list() if card.id == self._model.name]
        except openai.APIStatusError:
            return _FALLBACK_CONTEXT_TOKENS
        except openai.APIConnectionError as error:
            raise self._gone(error) from error
        stated = [length for card in cards if (length := (card.model_extra or {}).get("max_model_len"))]
        return int(stated[0]) if stated else _FALLBACK_CONTEXT_TOKENS

    def _gone(self, error: Exception) -> ServingError:
        return ServingError(f"{self._model.base_url} does not answer any more ({error}); the server's log says why")


class _Window(NamedTuple):
    """The tokens of one prompt."""

    prompt: str
    logprobs: list[float | None]
    offsets: list[int]
    """Where each token starts in the prompt, in characters."""

    @classmethod
    def read(cls, prompt: str, answer: Completion) -> _Window:
        """Takes the prompt's tokens out of an answer, and leaves the generated one.

        Raises:
            ServingError: The answer has no log-probabilities of the prompt.
        """
        logprobs = answer.choices[0].logprobs if answer.choices else None
        if logprobs is None or not logprobs.token_logprobs or not logprobs.text_offset or answer.usage is None:
            raise ServingError(
                "the server's answer has no log-probabilities of the prompt; bits per byte needs a server whose "
                "/v1/completions knows `echo` with `logprobs`, as vLLM and Lemur's do"
            )
        count = answer.usage.prompt_tokens
        values: list[float | None] = list(logprobs.token_logprobs[:count])
        offsets = list(logprobs.text_offset[:count])
        tokens = logprobs.tokens or [""]
        if values[0] is None and not prompt.startswith(tokens[0]) and "\N{REPLACEMENT CHARACTER}" not in tokens[0]:
            # A begin-of-text token that the server put there; some count its name as text.
            shift = offsets[1] if count > 1 else 0
            values, offsets = values[1:], [offset - shift for offset in offsets[1:]]
        return cls(prompt, values, offsets)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.offsets)

    def cost_from(self, start: int) -> Cost:
        """Returns the cost of the tokens that start at a character or behind it."""
        owned = [
            value
            for value, offset in zip(self.logprobs, self.offsets, strict=True)
            if offset >= start and value is not None
        ]
        unknown = 0
        if start == 0 and self.logprobs and self.logprobs[0] is None:
            unknown = self.offsets[1] if len(self.offsets) > 1 else len(self.prompt)
        num_bytes = len(self.prompt[start + unknown :].encode())
        return Cost(-math.fsum(owned) / math.log(2), num_bytes, len(owned))


def _cut(text: str, wanted: int, *, lowest: int) -> int:
    """Returns the last place to cut at or before `wanted`: in front of a space that a word follows, or of a line.

    Byte-level BPE takes one space with the word behind it, and never joins a word to the text before its space, so
    both sides are tokenised there as they are in one piece. Where there is no such place the cut is at `wanted`,
    and one token may be split.
    """
    wanted = max(wanted, lowest)
    for place in range(wanted, max(lowest, wanted - 200), -1):
        before, after = text[place - 1], text[place : place + 2]
        if (after[0] == " " and len(after) == 2 and not after[1].isspace() and before != " ") or (
            before == "\n" and not after[0].isspace()
        ):
            return place
    return wanted

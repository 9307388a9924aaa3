"""Bodies of the OpenAI API's answers, whole and in pieces."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

from lemur.serving.generation import Generation, PlacedScore, Update
from lemur.serving.vocabulary import Vocabulary

_LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot write; vLLM uses the same."""


class AnswerFormat(ABC):
    """Writes the answers to one request; the base of the two endpoints' formats.

    Args:
        model: Name of the model, as the request gave it.
        vocabulary: The model's tokenizer.
        logprobs: How many of the likeliest tokens to report; `None` for no log-probabilities.
    """

    prefix: str
    whole: str
    piece: str

    def __init__(self, model: str, vocabulary: Vocabulary, logprobs: int | None) -> None:
        self.vocabulary, self.logprobs = vocabulary, logprobs
        self.model = model
        self.id = f"{self.prefix}-{uuid.uuid4().hex}"
        self.created = int(time.time())

    def body(self, generations: list[Generation], updates: list[Update], num_prompts: int) -> dict[str, Any]:
        """Returns a whole answer; each update holds all of its generation."""
        pairs = enumerate(zip(generations, updates, strict=True))
        choices = [self.choice(index, generation, update) for index, (generation, update) in pairs]
        return {**self._frame(self.whole, choices), "usage": usage(generations, num_prompts)}

    def chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        """Returns one piece of a streamed answer."""
        return self._frame(self.piece, choices)

    def opening(self, index: int) -> dict[str, Any] | None:
        """Returns the first piece of a choice, sent before any token is made; `None` where it has none."""
        return None

    @abstractmethod
    def choice(self, index: int, generation: Generation, update: Update) -> dict[str, Any]:
        """Returns a choice of a whole answer."""

    @abstractmethod
    def delta(self, index: int, generation: Generation, update: Update, *, is_first: bool) -> dict[str, Any]:
        """Returns what is new in a choice of a streamed answer; `is_first` tells the update that begins it."""

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


class ChatFormat(AnswerFormat):
    """Answers of `/v1/chat/completions`."""

    prefix, whole, piece = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def opening(self, index: int) -> dict[str, Any]:
        """Returns the piece that names the role."""
        return {
            "index": index,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }

    def choice(self, index: int, generation: Generation, update: Update) -> dict[str, Any]:
        """Returns the message."""
        message = {"role": "assistant", "content": update.text, "refusal": None}
        return self._with_logprobs({"index": index, "message": message}, update)

    def delta(self, index: int, generation: Generation, update: Update, *, is_first: bool) -> dict[str, Any]:
        """Returns the new text of the message."""
        return self._with_logprobs({"index": index, "delta": {"content": update.text} if update.text else {}}, update)

    def _with_logprobs(self, choice: dict[str, Any], update: Update) -> dict[str, Any]:
        content = None
        if self.logprobs is not None:
            content = {"content": [self._entry(placed) for placed in update.scores]}
        return {**choice, "logprobs": content, "finish_reason": update.finish_reason}

    def _entry(self, placed: PlacedScore) -> dict[str, Any]:
        own = self._token(placed.score.token_id, placed.score.logprob)
        return {**own, "top_logprobs": [self._token(*pair) for pair in placed.score.top]}

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        piece = self.vocabulary.piece(token_id)
        name = piece.decode(errors="replace")
        return {"token": name, "logprob": _as_number(logprob), "bytes": list(piece)}


class CompletionFormat(AnswerFormat):
    """Answers of `/v1/completions`; log-probabilities in OpenAI's first format.

    Args:
        model: Name of the model, as the request gave it.
        vocabulary: The model's tokenizer.
        logprobs: How many of the likeliest tokens to report; `None` for no log-probabilities.
        echo: Whether prompts come back before answers.
    """

    prefix, whole, piece = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, vocabulary: Vocabulary, logprobs: int | None, *, echo: bool) -> None:
        super().__init__(model, vocabulary, logprobs)
        self.echo = echo

    def choice(self, index: int, generation: Generation, update: Update) -> dict[str, Any]:
        """Returns the text, after the prompt where that was asked for."""
        return self.delta(index, generation, update, is_first=True)

    def delta(self, index: int, generation: Generation, update: Update, *, is_first: bool) -> dict[str, Any]:
        """Returns the new text; the prompt, where that was asked for, comes with the first of it."""
        with_prompt = self.echo and is_first
        return {
            "index": index,
            "text": generation.prompt.text + update.text if with_prompt else update.text,
            "logprobs": None if self.logprobs is None else self._logprobs(generation, update, with_prompt),
            "finish_reason": update.finish_reason,
        }

    def _logprobs(self, generation: Generation, update: Update, with_prompt: bool) -> dict[str, Any]:
        prompt = generation.prompt
        entries: list[_Entry] = []
        if with_prompt:
            offsets = prompt.offsets or []
            # Nothing stands before the first token, so that it has no score.
            entries.append(_Entry(prompt.token_ids[0], None, [], offsets[0]))
            entries += [_Entry(*one, start) for one, start in zip(generation.prompt_scores, offsets[1:], strict=True)]
        answer_start = len(prompt.text) if self.echo else 0
        entries += [_Entry(*placed.score, answer_start + placed.offset) for placed in update.scores]
        names = [self.vocabulary.name(entry.token_id) for entry in entries]
        tops = [self._top(entry, name) for entry, name in zip(entries, names, strict=True)]
        return {
            "tokens": names,
            "token_logprobs": [None if entry.logprob is None else _as_number(entry.logprob) for entry in entries],
            "text_offset": [entry.offset for entry in entries],
            "top_logprobs": tops if self.logprobs else None,
        }

    def _top(self, entry: _Entry, name: str) -> dict[str, float] | None:
        if entry.logprob is None:
            return None
        named: dict[str, float] = {}
        for token_id, logprob in [*entry.top, (entry.token_id, entry.logprob)]:
            named.setdefault(self.vocabulary.name(token_id), _as_number(logprob))
        return named


class _Entry(NamedTuple):
    token_id: int
    logprob: float | None
    top: list[tuple[int, float]]
    offset: int


def _as_number(logprob: float) -> float:
    return max(logprob, _LOWEST_LOGPROB)


def usage(generations: list[Generation], num_prompts: int) -> dict[str, int]:
    """Returns the token counts of an answer; a prompt that several choices answer counts once."""
    choices_each = len(generations) // num_prompts
    prompt_tokens = sum(len(generation.prompt.token_ids) for generation in generations[::choices_each])
    completion_tokens = sum(len(generation.token_ids) for generation in generations)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }

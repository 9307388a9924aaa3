"""One answer in the making: its tokens, its text as far as it may be shown, and when it ends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from lemur.serving.sampling import Sampling, TokenScore
from lemur.serving.vocabulary import Prompt, TextBuilder, Vocabulary

FinishReason = Literal["stop", "length"]


class PlacedScore(NamedTuple):
    """A token's score and where the token begins."""

    score: TokenScore
    offset: int
    """Character of the answer's text at which the token begins."""


class Update(NamedTuple):
    """News of an answer."""

    text: str = ""
    """Text that is new."""
    scores: tuple[PlacedScore, ...] = ()
    """Scores of the tokens that are new, where the request wants them."""
    finish_reason: FinishReason | None = None
    """Why the answer ended; `None` while it goes on."""
    error: str | None = None
    """What broke the answer off."""


class Generation:
    """One answer to one prompt.

    Args:
        prompt: What the model reads.
        sampling: What the request says about its answer.
        choice: Number of the answer among those of its request, which seeds differ by.
        incremental: Whether every piece of text is wanted, or only one update at the end.
    """

    def __init__(self, prompt: Prompt, sampling: Sampling, *, choice: int, incremental: bool) -> None:
        self.prompt, self.sampling = prompt, sampling
        self.receive: Callable[[Update], None] = _ignore
        """Takes the updates, in the server's event loop."""
        self.random = sampling.random_source(choice)
        self.token_ids: list[int] = []
        self.prompt_scores: list[TokenScore] = []
        """Of the prompt's tokens, the first left out: nothing stands before it."""
        self.cancelled = False
        """Set by the receiver when nobody waits any more; the engine then drops the answer."""
        self.finish_reason: FinishReason | None = None
        self._incremental = incremental
        self._builder = TextBuilder()
        self._text = ""
        self._num_shown = 0
        self._scores: list[PlacedScore] = []

    @property
    def num_tokens(self) -> int:
        """Tokens of prompt and answer so far."""
        return len(self.prompt.token_ids) + len(self.token_ids)

    def accept(
        self, token_id: int, score: TokenScore | None, *, vocabulary: Vocabulary, end_ids: frozenset[int]
    ) -> Update | None:
        """Takes the next token.

        Returns:
            What is new, or `None` where nothing can be shown yet.
        """
        self.token_ids.append(token_id)
        at_end = token_id in end_ids and not self.sampling.ignore_eos
        piece = b"" if token_id in vocabulary.special_ids or at_end else vocabulary.piece(token_id)
        text, offset = self._builder.add(piece)
        if score is not None:
            self._scores.append(PlacedScore(score, offset))
        searched_from = max(0, len(self._text) - max(map(len, self.sampling.stop), default=0))
        self._text += text
        if at_end:
            self._finish("stop")
        elif self._cut_at_stop(searched_from):
            self.finish_reason = "stop"
        elif len(self.token_ids) >= self.sampling.max_tokens:
            self._finish("length")
        return self._update()

    def end_at_prompt(self) -> Update:
        """Ends an answer of no tokens, for a request that only scores its prompt."""
        self.finish_reason = "length"
        return Update(finish_reason="length")

    def _finish(self, reason: FinishReason) -> None:
        searched_from = max(0, len(self._text) - max(map(len, self.sampling.stop), default=0))
        self._text += self._builder.end()
        self.finish_reason = "stop" if self._cut_at_stop(searched_from) else reason

    def _cut_at_stop(self, searched_from: int) -> bool:
        places = [self._text.find(stop, searched_from) for stop in self.sampling.stop]
        found = [place for place in places if place >= 0]
        if found:
            self._text = self._text[: min(found)]
        return bool(found)

    def _update(self) -> Update | None:
        if self.finish_reason is None and not self._incremental:
            return None
        end = len(self._text) if self.finish_reason else len(self._text) - self._num_held_back()
        text, self._num_shown = self._text[self._num_shown : end], end
        if not text and not self.finish_reason:
            return None
        scores, self._scores = tuple(self._scores), []
        return Update(text, scores, self.finish_reason)

    def _num_held_back(self) -> int:
        """Returns how many characters at the end may turn out to begin a stop string."""
        longest = 0
        for stop in self.sampling.stop:
            for length in range(min(len(stop) - 1, len(self._text)), longest, -1):
                if self._text.endswith(stop[:length]):
                    longest = length
                    break
        return longest


def _ignore(_: Update) -> None:
    """Stands in for a receiver until there is one."""

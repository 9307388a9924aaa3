"""Prompts are read and answers made in batches: one forward pass for many requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lemur.serving.generation import Generation, Update
from lemur.serving.key_value_cache import KeyValueCache
from lemur.serving.model import LoadedModel
from lemur.serving.sampling import TokenScore, draw, score

_LOGITS_BYTES = 512 * 2**20
"""Most bytes of logits at a time while prompts are scored; longer prompts are read in parts."""

Updates = list[tuple[Generation, Update]]


class Batch:
    """Rows that are answered together: their cache, and where each of them stands."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model
        self._cache = KeyValueCache()
        self.rows: list[Generation] = []

    def read(self, generations: Sequence[Generation]) -> Updates:
        """Reads the prompts of new rows, makes their first token and takes them in.

        Rows of equal prompts are read once.
        """
        prompts = list(dict.fromkeys(tuple(generation.prompt.token_ids) for generation in generations))
        place = {prompt: index for index, prompt in enumerate(prompts)}
        places = [place[tuple(generation.prompt.token_ids)] for generation in generations]
        cache = KeyValueCache()
        num_scored = max(
            (row.sampling.num_logprobs or 0 for row in generations if row.sampling.score_prompt), default=None
        )
        logits, scores = self._read_prompts(prompts, cache, num_scored)
        for generation, index in zip(generations, places, strict=True):
            if generation.sampling.score_prompt:
                num_top = generation.sampling.num_logprobs or 0
                generation.prompt_scores = [one._replace(top=one.top[:num_top]) for one in scores[index]]
        updates: Updates = [(row, row.end_at_prompt()) for row in generations if not row.sampling.max_tokens]
        answered = [index for index, row in enumerate(generations) if row.sampling.max_tokens]
        if answered:
            rows = [generations[index] for index in answered]
            from_prompt = torch.tensor([places[index] for index in answered], device=self._model.device)
            updates += self._advance(rows, logits[from_prompt])
            self._take_in(rows, cache, from_prompt)
        return updates

    def step(self) -> Updates:
        """Makes the next token of every row."""
        rows = self.rows
        device = self._model.device
        last = torch.tensor([[row.token_ids[-1]] for row in rows], device=device)
        lengths = [row.num_tokens for row in rows]
        width = max(lengths)
        mask, positions = None, None
        if min(lengths) < width:
            begins = torch.tensor([width - length for length in lengths], device=device)[:, None]
            mask = (torch.arange(width, device=device)[None] >= begins).long()
            positions = torch.tensor([[length - 1] for length in lengths], device=device)
        logits = self._model.forward(last, mask, positions, self._cache)[:, -1]
        updates = self._advance(rows, logits)
        self.drop_finished()
        return updates

    def drop_finished(self) -> None:
        """Lets rows go that have ended or that nobody waits for."""
        kept = [index for index, row in enumerate(self.rows) if not (row.finish_reason or row.cancelled)]
        if len(kept) == len(self.rows):
            return
        self.rows = [self.rows[index] for index in kept]
        if self.rows:
            self._cache.select(torch.tensor(kept, device=self._model.device), self._num_spare_columns())
        else:
            self._cache = KeyValueCache()

    def _num_spare_columns(self) -> int:
        # The last token of a row is not in the cache yet.
        return self._cache.get_seq_length() - max(row.num_tokens - 1 for row in self.rows)

    def _take_in(self, rows: list[Generation], cache: KeyValueCache, from_prompt: torch.Tensor) -> None:
        kept = [index for index, row in enumerate(rows) if not row.finish_reason]
        if not kept:
            return
        longest = max(rows[index].num_tokens - 1 for index in kept)
        cache.select(from_prompt[kept], cache.get_seq_length() - longest)
        if self.rows:
            self._cache.join(cache)
        else:
            self._cache = cache
        self.rows += [rows[index] for index in kept]

    def _advance(self, rows: list[Generation], logits: torch.Tensor) -> Updates:
        logits = logits.float()
        samplings = [row.sampling for row in rows]
        uniforms = [row.random.random() if row.sampling.temperature > 0 else 0.0 for row in rows]
        token_ids = draw(logits, samplings, uniforms)
        asked = [sampling.num_logprobs for sampling in samplings if sampling.num_logprobs is not None]
        scores: Sequence[TokenScore | None] = score(logits, token_ids, max(asked)) if asked else [None] * len(rows)
        updates = []
        for row, token_id, one in zip(rows, token_ids.tolist(), scores, strict=True):
            wanted = row.sampling.num_logprobs
            own = None if wanted is None or one is None else one._replace(top=one.top[:wanted])
            update = row.accept(token_id, own, vocabulary=self._model.vocabulary, end_ids=self._model.end_ids)
            if update:
                updates.append((row, update))
        return updates

    def _read_prompts(
        self, prompts: list[tuple[int, ...]], cache: KeyValueCache, num_scored: int | None
    ) -> tuple[torch.Tensor, list[list[TokenScore]]]:
        """Returns the logits after each prompt, (prompts, vocabulary), and the scores of its tokens."""
        device = self._model.device
        lengths = [len(prompt) for prompt in prompts]
        width = max(lengths)
        begins = [width - length for length in lengths]
        padded = [[0] * begin + list(prompt) for begin, prompt in zip(begins, prompts, strict=True)]
        token_ids = torch.tensor(padded, device=device)
        mask: Any = None
        positions: Any = None
        if min(lengths) < width:
            columns = torch.arange(width, device=device)[None] - torch.tensor(begins, device=device)[:, None]
            mask, positions = (columns >= 0).long(), columns.clamp(min=0)
        part = self._model.part_tokens(len(prompts), None if num_scored is None else _LOGITS_BYTES)
        scores: list[list[TokenScore]] = [[] for _ in prompts]
        logits = torch.empty(0)
        for start in range(0, width, part):
            end = min(start + part, width)
            logits = self._model.forward(
                token_ids[:, start:end],
                None if mask is None else mask[:, :end],
                None if positions is None else positions[:, start:end],
                cache,
                last_only=num_scored is None,
            )
            if num_scored is not None:
                for row, begin in enumerate(begins):
                    first, last = max(start, begin), min(end, width - 1)
                    if first < last:
                        following = token_ids[row, first + 1 : last + 1]
                        scores[row] += score(logits[row, first - start : last - start].float(), following, num_scored)
        return logits[:, -1], scores

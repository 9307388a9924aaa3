"""The engine without a server around it: limits, long prompts in parts, and failures."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_model import DIALOGUES

from lemur.serving.engine import Engine
from lemur.serving.generation import Generation, Update
from lemur.serving.model import LoadedModel, load_model
from lemur.serving.sampling import Sampling


@pytest.fixture(scope="module")
def model(model_folder: Path) -> LoadedModel:
    return load_model(model_folder)


@contextmanager
def running(model: LoadedModel, *, max_rows: int = 8) -> Iterator[tuple[Engine, queue.Queue]]:
    news: queue.Queue[tuple[Generation, Update]] = queue.Queue()
    engine = Engine(model, max_rows=max_rows, deliver=lambda updates: [news.put(update) for update in updates])
    engine.start()
    yield engine, news
    engine.close()


def asked(model: LoadedModel, texts: list[str], **rules) -> list[Generation]:
    sampling = Sampling(**{"max_tokens": 12, "temperature": 0, "ignore_eos": True, **rules})
    read = [model.vocabulary.read_text(text, with_offsets=True) for text in texts]
    return [Generation(prompt, sampling, choice=0, incremental=False) for prompt in read]


def finished(news: queue.Queue, generations: list[Generation]) -> list[str]:
    texts: dict[Generation, str] = {}
    while len(texts) < len(generations):
        generation, update = news.get(timeout=60)
        assert update.error is None
        texts[generation] = update.text
    return [texts[generation] for generation in generations]


PROMPTS = [text[:length] for text in DIALOGUES.values() for length in (3, 20)]


@pytest.mark.parametrize(("max_rows", "cached_tokens"), [(1, 10**6), (3, 10**6), (8, 1), (8, 40)])
def test_answers_do_not_depend_on_how_many_fit_at_a_time(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, max_rows: int, cached_tokens: int
) -> None:
    with running(model) as (engine, news):
        generations = asked(model, PROMPTS)
        engine.submit(generations)
        expected = finished(news, generations)
    monkeypatch.setattr(LoadedModel, "cached_tokens", cached_tokens)
    with running(model, max_rows=max_rows) as (engine, news):
        generations = asked(model, PROMPTS)
        engine.submit(generations)
        assert finished(news, generations) == expected


@pytest.mark.parametrize("prefill_tokens", [1, 7, 40])
def test_prompts_read_in_parts_give_the_same_scores_and_answers(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, prefill_tokens: int
) -> None:
    rules = {"num_logprobs": 1, "score_prompt": True}
    with running(model) as (engine, news):
        whole = asked(model, PROMPTS, **rules)
        engine.submit(whole)
        expected = finished(news, whole)
        monkeypatch.setattr(LoadedModel, "prefill_tokens", prefill_tokens)
        monkeypatch.setattr("lemur.serving.batch._LOGITS_BYTES", 4 * model.vocab_size * prefill_tokens)
        parts = asked(model, PROMPTS, **rules)
        engine.submit(parts)
        assert finished(news, parts) == expected
    for one, other in zip(whole, parts, strict=True):
        assert len(one.prompt_scores) == len(one.prompt.token_ids) - 1
        values = [score.logprob for score in other.prompt_scores]
        assert values == pytest.approx([score.logprob for score in one.prompt_scores], abs=1e-4)


def test_equal_prompts_are_read_once(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    forward = LoadedModel.forward

    def counting(self: LoadedModel, token_ids, *arguments, **more):
        read.append(token_ids.numel())
        return forward(self, token_ids, *arguments, **more)

    monkeypatch.setattr(LoadedModel, "forward", counting)
    with running(model) as (engine, news):
        generations = asked(model, ["one two three"] * 6)
        engine.submit(generations)
        assert len(set(finished(news, generations))) == 1
    assert read[0] == len(generations[0].prompt.token_ids)
    assert max(read[1:]) == 6


def test_a_batch_that_fails_is_told_and_the_next_one_is_answered(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = LoadedModel.forward
    failures = iter([RuntimeError("out of memory")])

    def failing_once(self: LoadedModel, *arguments, **more):
        for failure in failures:
            raise failure
        return forward(self, *arguments, **more)

    monkeypatch.setattr(LoadedModel, "forward", failing_once)
    with running(model) as (engine, news):
        lost = asked(model, ["one"])
        engine.submit(lost)
        assert news.get(timeout=60) == (lost[0], Update(error="RuntimeError: out of memory"))
        again = asked(model, ["one"])
        engine.submit(again)
        assert finished(news, again)


def test_an_answer_that_nobody_waits_for_is_dropped(model: LoadedModel) -> None:
    with running(model, max_rows=1) as (engine, news):
        first, second = asked(model, ["one", "two"], max_tokens=200)
        first.cancelled = True
        engine.submit([first, second])
        assert finished(news, [second])
        assert not first.token_ids

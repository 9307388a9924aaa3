"""An answer in the making: what may be shown, and where it ends."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_model import make_tokenizer

from lemur.serving.generation import Generation
from lemur.serving.sampling import Sampling, draw, score
from lemur.serving.vocabulary import Prompt, Vocabulary

VOCABULARY = Vocabulary(make_tokenizer())
END = VOCABULARY.read_text("<|im_end|>").token_ids[0]


def shown(text: str, *stops: str, incremental: bool = True) -> tuple[list[str], str | None]:
    """Returns the pieces of an answer that the model makes of a text, and why it ended."""
    sampling = Sampling(max_tokens=1000, stop=stops)
    generation = Generation(Prompt("", [5], None), sampling, choice=0, incremental=incremental)
    updates = []
    for token_id in [*VOCABULARY.read_text(text).token_ids, END]:
        updates.append(generation.accept(token_id, None, vocabulary=VOCABULARY, end_ids=frozenset([END])))
        if generation.finish_reason:
            break
    return [update.text for update in updates if update], generation.finish_reason


@settings(deadline=None)
@given(st.text("abc é🦊", max_size=30), st.lists(st.text("abc é🦊", min_size=1, max_size=4), max_size=3))
def test_pieces_make_the_text_before_the_first_stop_string(text: str, stops: list[str]) -> None:
    places = [text.find(stop) for stop in stops if stop in text]
    expected = text[: min(places)] if places else text
    # Which of several stops is met first is decided token by token; both ends are before a stop string.
    pieces, reason = shown(text, *stops)
    assert reason == "stop"
    made = "".join(pieces)
    assert made == "".join(shown(text, *stops, incremental=False)[0])
    assert text.startswith(made)
    assert not any(stop in made for stop in stops)
    if len(stops) <= 1:
        assert made == expected


def test_text_that_may_begin_a_stop_string_is_held_back_until_it_is_clear() -> None:
    assert shown("ab ab abc", "ab abc")[0][-1] == ""
    assert "".join(shown("ab ab abc", "ab abc")[0]) == "ab "
    assert "".join(shown("ab ab abd", "ab abc")[0]) == "ab ab abd"


def drawn(logits: list[float], uniform: float, **settings) -> int:
    sampling = Sampling(max_tokens=1, **settings)
    return draw(torch.tensor([logits]), [sampling], [uniform]).item()


@settings(deadline=None)
@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=6),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.1, 2),
    st.floats(0.01, 1),
)
def test_a_draw_inverts_the_cumulative_probabilities(
    logits: list[float], uniform: float, temperature: float, top_p: float
) -> None:
    token = drawn(logits, uniform, temperature=temperature, top_p=top_p)
    weights = [math.exp((value - max(logits)) / temperature) for value in logits]
    likelier = sum(weight for weight in weights if weight > weights[token] * (1 + 1e-5))
    assert likelier / sum(weights) < top_p + 1e-5


def test_draws_have_the_probabilities_of_the_model() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).repeat(20_000, 1)
    sampling = Sampling(max_tokens=1, temperature=0.7, seed=1)
    source = sampling.random_source(0)
    tokens = draw(logits, [sampling] * 20_000, [source.random() for _ in range(20_000)])
    shares = tokens.bincount(minlength=4) / 20_000
    assert shares.tolist() == pytest.approx((logits[0] / 0.7).softmax(-1).tolist(), abs=0.015)


def test_rows_are_drawn_by_their_own_rules() -> None:
    logits = torch.tensor([[0.0, 1.0, 0.5]] * 3)
    rules = [Sampling(max_tokens=1, temperature=0), Sampling(max_tokens=1), Sampling(max_tokens=1, top_p=0.01)]
    assert draw(logits, rules, [0.99, 0.99, 0.99]).tolist() == [1, 2, 1]
    assert draw(logits[1:2], rules[1:2], [0.99]).tolist() == [2]


def test_scores_are_log_probabilities_best_first() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, float("-inf")]])
    first, second = score(logits, torch.tensor([0, 2]), 2)
    expected = logits[0].log_softmax(-1).tolist()
    assert first.logprob == pytest.approx(expected[0])
    assert [token_id for token_id, _ in first.top] == [1, 2]
    assert [value for _, value in first.top] == pytest.approx([expected[1], expected[2]])
    assert second.logprob == float("-inf")

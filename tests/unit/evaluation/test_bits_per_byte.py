"""Bits per byte is exact where the model's probabilities are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stub_model_server import StubModel, serving, tokenise, unigram_bits

from lemur.errors import RecipeError, ServingError
from lemur.evaluation import perplexity
from lemur.evaluation.benchmark import Setting
from lemur.evaluation.benchmarks.bits_per_byte import BitsPerByteBenchmark
from lemur.evaluation.perplexity import PromptScorer, RefusedError

PROSE = "The lemur sleeps in a tree all day.\n\nAt night it looks for fruit, and for other lemurs. " * 30
CODE = "def double(number):\n    return 2 * number\n\n\nfor value in range(10):\n    print(double(value))\n" * 20


def benchmark(**fields: object) -> BitsPerByteBenchmark:
    return BitsPerByteBenchmark.model_validate({"kind": "bits_per_byte", **fields})


def expected_bits(text: str, *, first_token: bool) -> float:
    costs = [unigram_bits(index, token) for index, token in enumerate(tokenise(text))]
    return sum(costs if first_token else costs[1:])


def write_heldout(folder: Path, source: str, group: str, texts: list[str]) -> None:
    lines = [json.dumps({"text": text, "group": group, "origin": f"{source}#{i}"}) for i, text in enumerate(texts)]
    (folder / f"{source}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.parametrize("context_tokens", [40, 90, 5000])
@pytest.mark.parametrize("text", [PROSE, CODE])
def test_a_text_costs_the_same_in_one_window_as_in_many(text: str, context_tokens: int) -> None:
    with serving(StubModel(begins_with_bos=True, context_tokens=context_tokens)) as served:
        cost = PromptScorer(served, context_tokens=None, stride=0.5).measure(text)
    assert cost.bits == pytest.approx(expected_bits(text, first_token=True))
    assert cost.num_bytes == len(text.encode())
    assert cost.num_tokens == len(tokenise(text))


def test_without_a_begin_of_text_token_the_first_token_counts_neither_as_bits_nor_as_bytes() -> None:
    text = "Überall Lemuren: ja.\n"
    with serving(StubModel()) as served:
        cost = PromptScorer(served, context_tokens=None, stride=0.5).measure(text)
    assert cost.bits == pytest.approx(expected_bits(text, first_token=False))
    assert cost.num_bytes == len(b" Lemuren: ja.\n")


def test_a_single_token_has_nothing_to_be_measured_by() -> None:
    with serving(StubModel()) as served:
        cost = PromptScorer(served, context_tokens=None, stride=0.5).measure("lemur")
    assert (cost.bits, cost.num_bytes, cost.num_tokens) == (0, 0, 0)


def test_every_token_behind_the_first_window_has_context() -> None:
    # A token near the start of a prompt is dear: only the document's own first ones may be paid for at that price.
    stub = StubModel(bits=lambda position, token: 1000.0 if position < 8 else 1.0, context_tokens=60)
    with serving(stub) as served:
        cost = PromptScorer(served, context_tokens=None, stride=0.5).measure(PROSE)
    assert cost.bits == pytest.approx(7 * 1000 + cost.num_tokens - 7)
    assert len(stub.requests) > 10


def test_windows_that_turn_out_too_long_are_asked_again_smaller() -> None:
    text = "a b c d e f g h i j k l m n o p " * 20
    with serving(StubModel(begins_with_bos=True, context_tokens=50)) as served:
        cost = PromptScorer(served, context_tokens=400, stride=0.5).measure(text)
    assert cost.bits == pytest.approx(expected_bits(text, first_token=True))


@settings(max_examples=25, deadline=None)
@given(
    st.text(st.sampled_from("ab c\n\té日🦊_("), min_size=1, max_size=300),
    st.integers(20, 100),
    st.sampled_from([0.25, 0.5, 1.0]),
)
def test_no_byte_is_counted_twice_or_lost(text: str, context_tokens: int, stride: float) -> None:
    with serving(StubModel(begins_with_bos=True)) as served:
        cost = PromptScorer(served, context_tokens=context_tokens, stride=stride).measure(text)
    assert cost.num_bytes == len(text.encode())


def test_figures_are_given_for_all_documents_and_for_each_group(setting: Setting) -> None:
    code, prose = [CODE[:300], CODE[100:700], CODE[50:90]], [PROSE[:500], PROSE[40:300]]
    write_heldout(setting.heldout, "library", "code", code)
    write_heldout(setting.heldout, "manual", "text", prose)
    with serving(StubModel(begins_with_bos=True)) as served:
        result = benchmark().evaluate(served, setting)
    for metric, texts in {"code": code, "text": prose, "": code + prose}.items():
        figure = result.figures[f"bits_per_byte_{metric}".rstrip("_")]
        bits = sum(expected_bits(text, first_token=True) for text in texts)
        assert figure.value == pytest.approx(bits / sum(len(text.encode()) for text in texts))
        assert figure.low <= figure.value <= figure.high
        assert figure.num_samples == len(texts)
        assert figure.better == "lower"
    assert len(result.samples) == 5
    assert len(result.samples_of("bits_per_byte_code")) == 3
    assert len(result.samples_of("bits_per_byte")) == 5
    assert (setting.work / "samples.jsonl").is_file()


def test_the_choice_of_documents_is_bounded_and_the_same_for_every_model(setting: Setting) -> None:
    write_heldout(setting.heldout, "library", "code", [f"value = {number}\n" * 50 for number in range(30)])
    chosen = []
    for bos in (True, False):
        with serving(StubModel(begins_with_bos=bos)) as served:
            result = benchmark(max_documents=7, max_bytes=100).evaluate(served, setting)
        assert all(sample.weight <= 100 for sample in result.samples)
        chosen.append([sample.id for sample in result.samples])
    assert len(chosen[0]) == 7
    assert chosen[0] == chosen[1]


def test_a_document_that_the_server_refuses_is_noted_and_left_out(setting: Setting) -> None:
    write_heldout(setting.heldout, "library", "code", ["good words here", "other good words", "x" * 3000])
    with serving(StubModel(bits=lambda position, token: 1.0, begins_with_bos=True, refuses="xxx")) as served:
        result = benchmark().evaluate(served, setting)
    assert result.figures["bits_per_byte"].num_samples == 2
    assert result.figures["bits_per_byte"].value == pytest.approx(6 / 31)
    (bad,) = [sample for sample in result.samples if sample.note]
    assert bad.weight == 0
    assert "not measured" in bad.note


def test_when_every_document_is_refused_the_error_says_why(setting: Setting) -> None:
    write_heldout(setting.heldout, "library", "code", ["xxx one", "xxx two"])
    with serving(StubModel(refuses="xxx")) as served, pytest.raises(ServingError, match=r"0 of 2 documents.*xxx"):
        benchmark().evaluate(served, setting)


def test_too_few_held_out_documents_are_a_mistake_in_the_recipe(setting: Setting) -> None:
    with serving(StubModel()) as served:
        with pytest.raises(RecipeError, match=r"there are 0 of any group; raise data\.heldout_fraction"):
            benchmark().evaluate(served, setting)
        write_heldout(setting.heldout, "library", "code", ["one two"])
        with pytest.raises(RecipeError, match="there are 1 of code"):
            benchmark().evaluate(served, setting)


def test_a_server_without_log_probabilities_is_named_as_such(setting: Setting) -> None:
    write_heldout(setting.heldout, "library", "code", ["one two", "three four"])
    with (
        serving(StubModel(knows_echo=False)) as served,
        pytest.raises(ServingError, match="no log-probabilities of the prompt"),
    ):
        benchmark().evaluate(served, setting)


def test_a_server_that_is_gone_is_a_serving_error(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perplexity, "_NUM_RETRIES", 1)
    write_heldout(setting.heldout, "library", "code", ["one two", "three four"])
    with serving(StubModel()) as served:
        pass
    with pytest.raises(ServingError, match="does not answer"):
        benchmark().evaluate(served, setting)


def test_a_refusal_of_the_smallest_window_is_not_tried_for_ever() -> None:
    with serving(StubModel(refuses="x")) as served, pytest.raises(RefusedError):
        PromptScorer(served, context_tokens=100, stride=0.5).measure("x" * 500)

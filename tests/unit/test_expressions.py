"""Expressions are deterministic, rightly answered, and never in both splits."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemur.data.sources.expressions import ExpressionsSource
from lemur.errors import RecipeError
from lemur.expressions import FAMILIES, Expression, generate, split_of


def test_an_expression_is_a_short_question_and_what_python_prints() -> None:
    expressions = list(generate("train", 300, seed=3))
    script = "\n".join(expression.code for expression in expressions)
    printed = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == [expression.completion for expression in expressions]
    assert {expression.family for expression in expressions} == set(FAMILIES)
    for expression in expressions:
        assert expression.prompt.startswith("print(")
        assert len(expression.prompt) < 90
        assert expression.completion == expression.completion.strip() != ""


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**53 - 1), st.integers(0, 2**53 - 1))
def test_no_test_expression_is_ever_trained_on_whatever_the_seeds(first: int, second: int) -> None:
    trained = {expression.prompt for expression in generate("train", 400, seed=first)}
    tested = {expression.prompt for expression in generate("test", 200, seed=second)}
    assert (len(trained), len(tested)) == (400, 200)
    assert not trained & tested


def test_the_same_seed_gives_the_same_expressions_and_a_longer_draw_begins_with_them() -> None:
    assert list(generate("train", 50, seed=1)) == list(islice(generate("train", 500, seed=1), 50))
    assert list(generate("train", 50, seed=1)) != list(generate("train", 50, seed=2))


def test_about_a_fifth_of_all_expressions_is_held_out() -> None:
    splits = Counter(split_of(f"{first} + {second}") for first in range(100) for second in range(100))
    assert splits["test"] / 10_000 == pytest.approx(51 / 256, abs=0.02)


def test_there_are_enough_expressions_for_a_tuning_run_and_its_benchmark() -> None:
    train = Counter(expression.family for expression in generate("train", 6000, seed=0))
    test = Counter(expression.family for expression in generate("test", 1000, seed=0))
    assert set(train) == set(test) == set(FAMILIES)


def test_asking_for_more_than_there_are_says_how_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(FAMILIES) - {"arithmetic"}:
        monkeypatch.delitem(FAMILIES, name)
    with pytest.raises(RecipeError, match=r"no more than about \d+ different expressions, and 5,000 were asked for"):
        list(generate("train", 5000, seed=0))


def source(**fields: object) -> ExpressionsSource:
    return ExpressionsSource.model_validate({"kind": "expressions", "name": "skill", **fields})


def test_the_source_yields_the_training_split_as_prompts_and_completions() -> None:
    records = list(source(num_dialogues=40, seed=5).records())
    expected = [Expression(**record.fields, family="") for record in records]
    assert [(one.prompt, one.completion) for one in expected] == [
        (one.prompt, one.completion) for one in generate("train", 40, seed=5)
    ]
    assert len({record.origin for record in records}) == 40


def test_the_fingerprint_changes_with_the_records_and_only_with_them() -> None:
    assert source(num_dialogues=40).fingerprint() == source(num_dialogues=40, weight=3).fingerprint()
    assert source(num_dialogues=40).fingerprint() != source(num_dialogues=41).fingerprint()
    assert source(num_dialogues=40).fingerprint() != source(num_dialogues=40, seed=1).fingerprint()


def test_the_estimate_of_bytes_is_what_the_records_hold() -> None:
    records = list(source(num_dialogues=25).records())
    assert source(num_dialogues=25).estimated_bytes() == sum(
        len(record.fields["prompt"]) + len(record.fields["completion"]) for record in records
    )

"""Intervals agree with published values and keep their promises."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lemur.evaluation.intervals import (
    Interval,
    bootstrap_ratio,
    difference_of_independent,
    paired_bootstrap,
    pass_at_k,
    quantile,
    wilson,
)


def test_the_normal_quantile_is_the_tabulated_one() -> None:
    assert quantile(0.95) == pytest.approx(1.959964, abs=1e-6)
    assert quantile(0.99) == pytest.approx(2.575829, abs=1e-6)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), "Two-sided confidence intervals for the single proportion",
        # table I, method 3, to its four decimals.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson(successes, trials, 0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.6, 0.999))
def test_wilson_holds_its_estimate_stays_in_range_and_mirrors(counts: tuple[int, int], confidence: float) -> None:
    successes, trials = counts
    found = wilson(successes, trials, confidence)
    mirrored = wilson(trials - successes, trials, confidence)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    assert (found.low, found.high) == pytest.approx((1 - mirrored.high, 1 - mirrored.low))


def test_wilson_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one trial"):
        wilson(0, 0, 0.95)


def test_pass_at_k_is_the_share_of_choices_that_hold_a_right_answer() -> None:
    assert pass_at_k(5, 2, 1) == pytest.approx(2 / 5)
    assert pass_at_k(5, 2, 2) == pytest.approx(1 - 3 / 10)
    assert pass_at_k(200, 13, 100) == pytest.approx(1 - math.comb(187, 100) / math.comb(200, 100))
    assert pass_at_k(3, 1, 3) == 1.0
    with pytest.raises(ValueError, match="pass@4"):
        pass_at_k(3, 1, 4)


@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_agrees_with_the_binomials(case: tuple[int, int, int]) -> None:
    n, correct, k = case
    assert pass_at_k(n, correct, k) == pytest.approx(1 - math.comb(n - correct, k) / math.comb(n, k), abs=1e-12)


def test_the_bootstrap_of_a_mean_is_as_wide_as_theory_says() -> None:
    scores = [float(value % 7) for value in range(700)]
    found = bootstrap_ratio(scores, [1.0] * 700, confidence=0.95)
    # Values 0 to 6 have variance 4, so the mean of 700 has a standard error of 2 / sqrt(700).
    assert found.value == pytest.approx(3.0)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 2 / math.sqrt(700), rel=0.06)


def test_a_ratio_counts_long_documents_by_their_weight() -> None:
    assert bootstrap_ratio([10.0, 300.0], [10.0, 100.0], confidence=0.9).value == pytest.approx(310 / 110)


def test_the_same_samples_give_the_same_interval_and_another_seed_another() -> None:
    scores, weights = [float(value**2 % 11) for value in range(40)], [1.0] * 40
    first = bootstrap_ratio(scores, weights, confidence=0.95)
    assert bootstrap_ratio(scores, weights, confidence=0.95) == first
    assert bootstrap_ratio(scores, weights, confidence=0.95, seed=1) != first


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0.5, 50)), min_size=1, max_size=30), st.floats(0.25, 4))
def test_a_ratio_scales_with_its_scores_and_its_interval_with_it(
    samples: list[tuple[float, float]], scale: float
) -> None:
    scores, weights = [score for score, _ in samples], [weight for _, weight in samples]
    found = bootstrap_ratio(scores, weights, confidence=0.9)
    scaled = bootstrap_ratio([score * scale for score in scores], weights, confidence=0.9)
    assert found.low <= found.high
    assert tuple(scaled) == pytest.approx(tuple(value * scale for value in found))
    ratios = [score / weight for score, weight in samples]
    slack = 1e-9 * (1 + max(ratios))
    assert min(ratios) - slack <= found.low <= found.high <= max(ratios) + slack


def test_pairing_takes_out_what_makes_samples_hard_for_both_models() -> None:
    hard = [float(value % 50) for value in range(200)]
    better = [value - 1 - (index % 2) * 0.1 for index, value in enumerate(hard)]
    weights = [1.0] * 200
    paired = paired_bootstrap((hard, weights), (better, weights), confidence=0.95)
    apart = difference_of_independent(
        bootstrap_ratio(hard, weights, confidence=0.95), bootstrap_ratio(better, weights, confidence=0.95)
    )
    assert paired.value == pytest.approx(1.05)
    assert 1.0 < paired.low < 1.05 < paired.high < 1.1
    assert apart.low < 0 < apart.high


def test_pairs_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="2 and 1"):
        paired_bootstrap(([1.0, 2.0], [1.0, 1.0]), ([1.0], [1.0]), confidence=0.95)


def test_independent_shares_differ_as_newcombe_published() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), "Interval estimation for the difference between independent
    # proportions", table II, method 10: 56/70 against 48/80.
    found = difference_of_independent(wilson(56, 70, 0.95), wilson(48, 80, 0.95))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference_of_independent(Interval(1, 1, 1), Interval(0.5, 0.5, 0.5)) == Interval(0.5, 0.5, 0.5)


def test_weights_and_samples_are_checked() -> None:
    with pytest.raises(ValueError, match="0 scores"):
        bootstrap_ratio([], [], confidence=0.95)
    with pytest.raises(ValueError, match="positive"):
        bootstrap_ratio([1.0], [0.0], confidence=0.95)

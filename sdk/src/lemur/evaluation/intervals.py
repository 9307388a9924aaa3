"""How sure a figure is: intervals for shares, ratios and differences, and pass@k.

All resampling is seeded, so that the same samples always give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

NUM_RESAMPLES = 4000
"""Resamples of a bootstrap: the ends of a 95 % interval then move by about 2 % of its width between seeds."""
_RESAMPLED_VALUES = 2_000_000
"""Values held at a time while resampling, which bounds the memory whatever the number of samples."""


class Interval(NamedTuple):
    """An estimate and the range that holds the truth at the level of confidence."""

    value: float
    low: float
    high: float


def wilson(num_successes: float, num_trials: int, confidence: float) -> Interval:
    """Returns a share of successes with the Wilson score interval.

    With p = successes / n and z the normal quantile of (1 + confidence) / 2, the interval is
    (p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n). It keeps its coverage for few trials and for shares
    near 0 and 1, where p ± z sqrt(p(1-p)/n) does not.

    Scores between 0 and 1 are taken as well: the variance of each is at most that of a success or failure with the same
    mean, so the interval is never too narrow for them.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927);
    recommended by Brown, Cai and DasGupta, Statistical Science 16 (2001).

    Raises:
        ValueError: There are no trials.
    """
    if num_trials < 1:
        raise ValueError(f"a share needs at least one trial, and there are {num_trials}")
    share, square = num_successes / num_trials, quantile(confidence) ** 2 / num_trials
    centre = (share + square / 2) / (1 + square)
    half_width = math.sqrt(square * (share * (1 - share) + square / 4)) / (1 + square)
    # At the ends of the range the formula gives exactly 0 or 1, and rounding must not carry it past them.
    return Interval(share, min(share, max(0.0, centre - half_width)), max(share, min(1.0, centre + half_width)))


def bootstrap_ratio(scores: Sequence[float], weights: Sequence[float], *, confidence: float, seed: int = 0) -> Interval:
    """Returns sum(scores) / sum(weights) with a percentile bootstrap interval over samples.

    Whole samples are drawn with replacement, so the interval holds the spread between documents, and a long
    document counts by its weight.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.

    Args:
        scores: One number for each sample.
        weights: What each is divided by, positive: bytes for bits per byte, 1 for a mean.
        confidence: Level of the interval.
        seed: Seed of the resampling.

    Raises:
        ValueError: There are no samples, or a weight is not positive.
    """
    import numpy

    _check_ratio(scores, weights)
    score, weight = numpy.asarray(scores, float), numpy.asarray(weights, float)
    drawn = _resampled_sums(numpy.stack([score, weight], axis=1), seed)
    low, high = _tails(drawn[:, 0] / drawn[:, 1], confidence)
    return Interval(float(score.sum() / weight.sum()), low, high)


def paired_bootstrap(
    first: tuple[Sequence[float], Sequence[float]],
    second: tuple[Sequence[float], Sequence[float]],
    *,
    confidence: float,
    seed: int = 0,
) -> Interval:
    """Returns the first ratio less the second, with a percentile bootstrap interval over pairs of samples.

    The same samples are drawn for both models, so that what makes a sample hard for both cancels out.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13; for comparing systems,
    P. Koehn, "Statistical significance tests for machine translation evaluation", EMNLP 2004.

    Args:
        first: Scores and weights of one model, in order of the samples.
        second: Those of the other on the same samples.
        confidence: Level of the interval.
        seed: Seed of the resampling.

    Raises:
        ValueError: The models have different numbers of samples, there are none, or a weight is not positive.
    """
    import numpy

    _check_ratio(*first)
    _check_ratio(*second)
    if len(first[0]) != len(second[0]):
        raise ValueError(f"pairs need as many samples on both sides: {len(first[0])} and {len(second[0])}")
    columns = numpy.stack([numpy.asarray(column, float) for column in (*first, *second)], axis=1)
    drawn = _resampled_sums(columns, seed)
    low, high = _tails(drawn[:, 0] / drawn[:, 1] - drawn[:, 2] / drawn[:, 3], confidence)
    total = columns.sum(axis=0)
    return Interval(float(total[0] / total[1] - total[2] / total[3]), low, high)


def difference_of_independent(first: Interval, second: Interval) -> Interval:
    """Returns the first estimate less the second, where their samples have nothing to do with each other.

    With estimates a in (la, ua) and b in (lb, ub), the ends are (a - b) - sqrt((a - la)^2 + (ub - b)^2) and
    (a - b) + sqrt((ua - a)^2 + (b - lb)^2).

    Source: R. G. Newcombe, "Interval estimation for the difference between independent proportions", Statistics in
    Medicine 17 (1998), method 10; for any estimates, Zou and Donner, Statistics in Medicine 27 (2008).
    """
    value = first.value - second.value
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Interval(value, value - below, value + above)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Returns the unbiased estimate of the chance that at least one of `k` answers is right.

    With n answers of which c are right, it is 1 - C(n-c, k) / C(n, k), computed as a product because the binomials
    overflow.

    Source: Chen et al., "Evaluating large language models trained on code", arXiv 2107.03374, equation 1.

    Raises:
        ValueError: `k` is not between 1 and `num_samples`, or more answers are right than there are.
    """
    if not 1 <= k <= num_samples or not 0 <= num_correct <= num_samples:
        raise ValueError(f"pass@{k} cannot be estimated from {num_correct} right answers of {num_samples}")
    if num_samples - num_correct < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(num_samples - num_correct + 1, num_samples + 1))


def quantile(confidence: float) -> float:
    """Returns how many standard deviations a two-sided normal interval spans on each side: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _check_ratio(scores: Sequence[float], weights: Sequence[float]) -> None:
    if not scores or len(scores) != len(weights):
        raise ValueError(f"a ratio needs a weight for each sample: {len(scores)} scores, {len(weights)} weights")
    if min(weights) <= 0:
        raise ValueError(f"weights must be positive, and one is {min(weights)}")


def _resampled_sums(columns: NDArray[numpy.float64], seed: int) -> NDArray[numpy.float64]:
    """Returns the sums of each column (NUM_RESAMPLES x columns) over samples drawn with replacement."""
    import numpy

    random = numpy.random.default_rng(seed)
    num_samples = len(columns)
    at_a_time = max(1, _RESAMPLED_VALUES // num_samples)
    parts = []
    for start in range(0, NUM_RESAMPLES, at_a_time):
        size = min(at_a_time, NUM_RESAMPLES - start)
        # How often each sample is drawn, so that one matrix product sums every column.
        counts = random.multinomial(num_samples, [1 / num_samples] * num_samples, size=size)
        parts.append(counts @ columns)
    return numpy.concatenate(parts)


def _tails(values: NDArray[numpy.float64], confidence: float) -> tuple[float, float]:
    import numpy

    low, high = numpy.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)

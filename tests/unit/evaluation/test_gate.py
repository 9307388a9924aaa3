"""The gate passes, fails, or says that it cannot tell."""

from __future__ import annotations

import pytest

from lemur.errors import RecipeError
from lemur.evaluation.benchmark import BenchmarkResult, Figure, Sample
from lemur.evaluation.gate import Verdict, judge
from lemur.evaluation.intervals import bootstrap_ratio, wilson
from lemur.recipe import GateSection


def exam(right: list[int], *, prefix: str = "q") -> list[BenchmarkResult]:
    """An exam with one sample for each mark."""
    share = wilson(sum(right), len(right), 0.95)
    figure = Figure(**share._asdict(), num_samples=len(right), better="higher", unit="share", method="Wilson")
    samples = [Sample(id=f"{prefix}{number:04}", metric="accuracy", score=score) for number, score in enumerate(right)]
    return [BenchmarkResult(benchmark="exam", figures={"accuracy": figure}, samples=samples)]


def reading(bits: list[float]) -> list[BenchmarkResult]:
    """Bits per byte over documents of 100 bytes, in two groups."""
    samples = [
        Sample(id=f"d{n:04}", metric=f"bits_{'code' if n % 2 else 'text'}", score=value, weight=100)
        for n, value in enumerate(bits)
    ]
    ratio = bootstrap_ratio(bits, [100.0] * len(bits), confidence=0.95)
    figure = Figure(**ratio._asdict(), num_samples=len(bits), better="lower", unit="bits per byte", method="bootstrap")
    return [BenchmarkResult(benchmark="reading", figures={"bits": figure}, samples=samples)]


def verdict(
    rule: dict[str, object],
    candidate: list[BenchmarkResult],
    initial: list[BenchmarkResult] | None = None,
    cannot_tell: str = "refuse",
) -> Verdict:
    section = GateSection.model_validate({"rules": [rule], "cannot_tell": cannot_tell})
    found = judge(section, candidate=candidate, initial=initial or candidate, base=candidate, confidence=0.95)
    assert Verdict.model_validate_json(found.model_dump_json()) == found
    return found


def accuracy(**fields: object) -> dict[str, object]:
    return {"benchmark": "exam", "metric": "accuracy", **fields}


@pytest.mark.parametrize(
    ("num_right", "limit", "outcome"),
    [
        # 80 of 100: 0.711 to 0.867.
        (80, {"minimum": 0.7}, "pass"),
        (80, {"minimum": 0.75}, "cannot_tell"),
        (80, {"minimum": 0.9}, "fail"),
        (80, {"maximum": 0.9}, "pass"),
        (80, {"maximum": 0.85}, "cannot_tell"),
        (80, {"maximum": 0.7}, "fail"),
        (80, {"minimum": 0.7, "maximum": 0.9}, "pass"),
        (80, {"minimum": 0.75, "maximum": 0.7}, "fail"),
    ],
)
def test_the_whole_interval_must_be_on_one_side_of_a_threshold(
    num_right: int, limit: dict[str, float], outcome: str
) -> None:
    found = verdict(accuracy(**limit), exam([1] * num_right + [0] * (100 - num_right)))
    assert found.outcome == outcome
    assert found.accepted == (outcome == "pass")


def test_a_verdict_that_cannot_be_told_says_how_many_samples_would() -> None:
    found = verdict(accuracy(minimum=0.75), exam([1] * 80 + [0] * 20))
    (rule,) = found.rules
    # The interval reaches 0.0889 below 0.8, and must not reach 0.05: 100 x (0.0889 / 0.05)^2.
    assert rule.num_samples_needed == pytest.approx(316, abs=2)
    assert rule.sentence == (
        "exam/accuracy of 0.8 (0.7112 to 0.8666) (chat) may be on either side of the minimum of 0.75; "
        f"about {rule.num_samples_needed} samples would decide, and there are 100"
    )
    needed = exam([1] * 257 + [0] * 64)
    assert verdict(accuracy(minimum=0.75), needed).outcome == "pass"


def test_a_value_on_the_threshold_itself_cannot_be_decided_by_more_samples() -> None:
    (rule,) = verdict(accuracy(minimum=0.5), exam([1, 0] * 50)).rules
    assert rule.num_samples_needed is None
    assert "more would not decide" in rule.sentence


def test_a_recipe_can_accept_what_cannot_be_told_but_not_a_failure() -> None:
    unclear = verdict(accuracy(minimum=0.75), exam([1] * 80 + [0] * 20), cannot_tell="accept")
    assert (unclear.outcome, unclear.accepted) == ("cannot_tell", True)
    assert unclear.sentence().startswith("cannot tell (accepted, because the recipe says so): exam/accuracy of 0.8")
    failed = verdict(accuracy(minimum=0.9), exam([1] * 80 + [0] * 20), cannot_tell="accept")
    assert (failed.outcome, failed.accepted) == ("fail", False)


def test_better_means_fewer_bits_where_less_is_better() -> None:
    before = [300.0 + n % 40 for n in range(60)]
    rule = {"benchmark": "reading", "metric": "bits", "better_than": "initial"}
    after = [bits - 30 - n % 3 for n, bits in enumerate(before)]
    better = verdict(rule, reading(after), reading(before))
    assert better.outcome == "pass"
    assert better.rules[0].method == "paired bootstrap over samples"
    assert better.rules[0].value == pytest.approx(0.31)
    assert verdict(rule, reading(before), reading(after)).outcome == "fail"
    assert verdict({**rule, "margin": 0.5}, reading(after), reading(before)).outcome == "fail"
    assert "went from" in better.rules[0].sentence
    assert "lower is better" in better.rules[0].sentence


def test_a_gain_that_chance_explains_cannot_be_told() -> None:
    before = [300.0 + n % 40 for n in range(60)]
    noisy = [bits + (7 if n % 2 else -8) for n, bits in enumerate(before)]
    rule = {"benchmark": "reading", "metric": "bits", "better_than": "initial"}
    found = verdict(rule, reading(noisy), reading(before))
    assert found.outcome == "cannot_tell"
    needed = found.rules[0].num_samples_needed
    assert needed is not None
    assert needed > 60


def test_a_negative_margin_allows_that_much_loss() -> None:
    before, after = exam([1] * 400 + [0] * 100), exam([1] * 398 + [0] * 102)
    assert verdict(accuracy(better_than="initial"), after, before).outcome != "pass"
    assert verdict(accuracy(better_than="initial", margin=-0.05), after, before).outcome == "pass"


def test_pairing_decides_what_independent_intervals_cannot() -> None:
    marks = [1, 0] * 100
    more = [1, 0] * 90 + [1, 1] * 10
    paired = verdict(accuracy(better_than="initial"), exam(more), exam(marks))
    apart = verdict(accuracy(better_than="initial"), exam(more), exam(marks, prefix="other"))
    assert (paired.outcome, paired.rules[0].method) == ("pass", "paired bootstrap over samples")
    assert (apart.outcome, apart.rules[0].method) == ("cannot_tell", "difference of independent intervals")


def test_a_few_samples_without_any_difference_prove_nothing() -> None:
    rule = accuracy(better_than="initial")
    assert verdict(rule, exam([0] * 12), exam([0] * 12)).outcome == "cannot_tell"
    assert verdict(rule, exam([1] * 40), exam([0] * 40)).outcome == "pass"


def test_rules_are_joined_by_the_worst_of_them() -> None:
    candidate = exam([1] * 80 + [0] * 20)
    rules = {"pass": accuracy(minimum=0.5), "cannot_tell": accuracy(minimum=0.75), "fail": accuracy(minimum=0.95)}
    for names, expected in [
        (["pass", "pass"], "pass"),
        (["pass", "cannot_tell"], "cannot_tell"),
        (["fail", "cannot_tell", "pass"], "fail"),
    ]:
        section = GateSection.model_validate({"rules": [rules[name] for name in names]})
        found = judge(section, candidate=candidate, initial=[], base=[], confidence=0.95)
        assert found.outcome == expected
        assert [row[1] for row in found.rows()] == [name.replace("_", " ") for name in names]
    assert "is below the minimum of 0.95" in found.sentence()


def test_without_rules_every_model_passes() -> None:
    found = judge(GateSection(), candidate=[], initial=[], base=[], confidence=0.95)
    assert (found.outcome, found.accepted) == ("pass", True)
    assert found.sentence() == "pass: the recipe has no rules"


def test_an_unknown_metric_or_benchmark_is_answered_with_the_known_ones() -> None:
    candidate = exam([1, 0])
    with pytest.raises(RecipeError, match=r"metric 'acuracy'.*it measured: accuracy"):
        verdict({"benchmark": "exam", "metric": "acuracy", "minimum": 0}, candidate)
    with pytest.raises(RecipeError, match=r"benchmark 'exams'.*it was asked: exam"):
        verdict({"benchmark": "exams", "metric": "accuracy", "minimum": 0}, candidate)
    section = GateSection.model_validate({"rules": [accuracy(better_than="base")]})
    with pytest.raises(RecipeError, match="which the base model was not asked; it was asked: reading"):
        judge(section, candidate=candidate, initial=[], base=reading([1.0]), confidence=0.95)

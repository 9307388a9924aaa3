"""All benchmarks of a recipe run, and one that fails keeps none of the others from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stub_model_server import StubModel, serving

from lemur.errors import RecipeError
from lemur.evaluation.benchmark import BenchmarkResult
from lemur.evaluation.run import evaluate
from lemur.progress import EVENTS_VARIABLE
from lemur.recipe import EvaluationSection


def section(*kinds: str) -> EvaluationSection:
    return EvaluationSection.model_validate(
        {"benchmarks": [{"kind": kind} | ({"num_samples": 20} if kind == "expressions" else {}) for kind in kinds]}
    )


@pytest.fixture
def heldout(tmp_path: Path) -> Path:
    folder = tmp_path / "heldout"
    folder.mkdir()
    documents = [{"text": f"x = {number}\n" * 20, "group": "code"} for number in range(2)]
    (folder / "library.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))
    return folder


def test_each_benchmark_gives_a_result_in_the_recipes_order_and_shows_progress(
    heldout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = tmp_path / "events.jsonl"
    monkeypatch.setenv(EVENTS_VARIABLE, str(events))
    with serving(StubModel()) as served:
        results = evaluate(
            section=section("expressions", "bits_per_byte"), model=served, heldout=heldout, work=tmp_path / "work"
        )
    assert [result.benchmark for result in results] == ["expressions", "bits_per_byte"]
    assert all(result.seconds > 0 for result in results)
    stored = (tmp_path / "work" / "expressions" / "result.json").read_text()
    assert BenchmarkResult.model_validate_json(stored) == results[0]
    done = [json.loads(line) for line in events.read_text().splitlines()]
    assert {event["task"]: event["completed"] for event in done if event["event"] == "done"} == {
        "evaluate stub": 2,
        "expressions": 20,
        "bits_per_byte": 2,
    }


def test_a_failing_benchmark_is_named_and_the_others_results_are_kept(tmp_path: Path) -> None:
    empty = tmp_path / "none"
    empty.mkdir()
    with (
        serving(StubModel()) as served,
        pytest.raises(RecipeError, match=r"benchmark bits_per_byte failed: .*finished, .*: expressions\)"),
    ):
        evaluate(section=section("bits_per_byte", "expressions"), model=served, heldout=empty, work=tmp_path / "work")
    stored = BenchmarkResult.model_validate_json((tmp_path / "work" / "expressions" / "result.json").read_text())
    assert stored.figures["accuracy"].num_samples == 20

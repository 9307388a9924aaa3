"""The benchmarks that ask questions, against a scripted model behind a real URL."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from stub_model_server import StubModel, serving

from lemur.errors import RecipeError, SandboxError, ServingError
from lemur.evaluation import asking
from lemur.evaluation.benchmark import BenchmarkResult, ServedModel, Setting
from lemur.evaluation.benchmarks.expressions import ExpressionsBenchmark
from lemur.evaluation.benchmarks.humaneval import HumanEvalBenchmark
from lemur.evaluation.python_problems import Problem, load_problems
from lemur.evaluation.sandbox import Sandbox, open_sandbox
from lemur.expressions import FAMILIES, evaluate


def knows_expressions(prompt: str) -> str:
    """Answers right, with the white space that models add, and goes on as base models do."""
    return " " + evaluate(_asked(prompt)) + "\n>>> print(1)\n"


def knows_half(prompt: str) -> str:
    source = _asked(prompt)
    return evaluate(source) if len(source) % 2 else "no idea"


def _asked(prompt: str) -> str:
    (source,) = re.findall(r"print\((.*)\)$", prompt.rstrip().splitlines()[-1])
    return str(source)


def expressions(**fields: object) -> ExpressionsBenchmark:
    return ExpressionsBenchmark.model_validate({"kind": "expressions", "num_samples": 60, **fields})


def humaneval(**fields: object) -> HumanEvalBenchmark:
    return HumanEvalBenchmark.model_validate({"kind": "humaneval", **fields})


def test_a_base_model_that_knows_expressions_scores_full_marks_from_plain_text(setting: Setting) -> None:
    stub = StubModel(knows_expressions)
    with serving(stub) as served:
        result = expressions(num_shots=3).evaluate(served, setting)
    figure = result.figures["accuracy"]
    assert (figure.value, figure.high, figure.num_samples) == (1.0, 1.0, 60)
    assert 0.9 < figure.low < 1.0
    asked = stub.requests[0]
    assert asked["prompt"].count(">>> print(") == 4
    assert asked["temperature"] == 0
    assert asked["stop"] == ["\n"]
    assert list(setting.work.glob("*.eval")), "inspect's log is kept"


def test_a_chat_model_is_asked_in_a_message_and_must_answer_exactly(setting: Setting) -> None:
    stub = StubModel(lambda prompt: f" {evaluate(_asked(prompt))}\n")
    with serving(stub, chat=True) as served:
        assert expressions().evaluate(served, setting).figures["accuracy"].value == 1.0
    assert stub.requests[0]["messages"][0]["content"].startswith("print(")
    with serving(StubModel(lambda prompt: f"It prints {evaluate(_asked(prompt))}"), chat=True) as served:
        result = expressions().evaluate(served, setting)
    assert result.figures["accuracy"].value == 0.0
    assert {sample.note for sample in result.samples} == {"not what Python prints"}


def test_accuracy_is_also_given_for_each_family(setting: Setting) -> None:
    with serving(StubModel(knows_half), chat=True) as served:
        result = expressions(num_samples=150).evaluate(served, setting)
    families = {metric: figure for metric, figure in result.figures.items() if metric != "accuracy"}
    assert set(families) <= {f"accuracy_{name}" for name in FAMILIES}
    assert sum(figure.num_samples for figure in families.values()) == 150
    right = sum(figure.value * figure.num_samples for figure in families.values())
    assert result.figures["accuracy"].value == pytest.approx(right / 150)
    assert 0 < right < 150
    assert len(result.samples_of("accuracy")) == 150


def test_every_model_is_asked_the_same_expressions(setting: Setting) -> None:
    with serving(StubModel(), chat=True) as chat, serving(StubModel()) as base:
        asked = [[sample.id for sample in expressions().evaluate(model, setting).samples] for model in (chat, base)]
    assert asked[0] == asked[1]
    assert asked[0] == sorted(asked[0])


def test_a_refused_question_is_a_wrong_answer_with_a_note(setting: Setting) -> None:
    with serving(StubModel(lambda prompt: evaluate(_asked(prompt)), refuses="len("), chat=True) as served:
        result = expressions().evaluate(served, setting)
    refused = [sample for sample in result.samples if "will not read" in sample.note]
    assert refused
    assert {sample.metric for sample in refused} == {"accuracy_list_length"}
    assert result.figures["accuracy"].value == pytest.approx(1 - len(refused) / 60)


def test_a_server_that_is_gone_is_a_serving_error(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_NUM_RETRIES", 0)
    with serving(StubModel()) as served:
        pass
    with pytest.raises(ServingError, match="does not answer any more"):
        expressions().evaluate(served, setting)


def solve(problems: list[Problem]) -> dict[str, str]:
    return {problem.entry_point: problem.canonical_solution for problem in problems}


def writes_solutions(prompt: str) -> str:
    """Continues every problem of ours with its solution, and then rambles on."""
    (name,) = re.findall(r"^def (\w+)\(", prompt, re.MULTILINE)
    return solve(load_problems(None))[name] + "\n\ndef unrelated(:\n"


def writes_chat(prompt: str) -> str:
    signature = prompt[prompt.index("def ") :]
    return f"Sure!\n\n```python\n{signature}{writes_solutions(prompt).split('def unrelated')[0]}```\nHope it helps."


def test_a_base_model_that_continues_rightly_passes_and_what_follows_is_cut(sandbox: Sandbox, setting: Setting) -> None:
    stub = StubModel(writes_solutions)
    with serving(stub) as served:
        result = humaneval().evaluate(served, setting)
    assert result.figures["pass_at_1"].value == 1.0
    assert result.figures["pass_at_1"].num_samples == len(load_problems(None))
    body = stub.requests[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.2, 0.95, 512)
    assert "\ndef " in body["stop"]


def test_a_chat_model_that_answers_in_a_fenced_block_passes(sandbox: Sandbox, setting: Setting) -> None:
    stub = StubModel(writes_chat)
    with serving(stub, chat=True) as served:
        assert humaneval().evaluate(served, setting).figures["pass_at_1"].value == 1.0
    assert stub.requests[0]["messages"][-1]["role"] == "user"


def test_a_prefilled_answer_is_continued_as_in_lemurs_script(sandbox: Sandbox, setting: Setting) -> None:
    stub = StubModel(lambda prompt: writes_solutions(prompt).split("\n\ndef")[0] + "\nThat is all.")
    with serving(stub, chat=True) as served:
        result = humaneval(prefill=True).evaluate(served, setting)
    assert result.figures["pass_at_1"].value == 1.0
    body = stub.requests[0]
    assert body["messages"][-1]["role"] == "assistant"
    assert body["messages"][-1]["content"].startswith("Here is the completed function:\n\n\n")
    assert body["continue_final_message"] is True


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ("    return None\n", "AssertionError"),
        ("    return (\n", "SyntaxError"),
        ("    import os\n    os._exit(0)\n", "ended before its tests did"),
        ("    raise SystemExit\n", "ended before its tests did"),
        ("    while True:\n        pass\n", "ran too long"),
    ],
)
def test_wrong_answers_fail_with_the_reason(
    sandbox: Sandbox, setting: Setting, tmp_path: Path, body: str, note: str
) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text(load_problems(None)[0].model_dump_json() + "\n")
    with serving(StubModel(lambda prompt: body)) as served:
        result = humaneval(path=str(one), timeout_seconds=1).evaluate(served, setting)
    (sample,) = result.samples
    assert sample.score == 0
    assert note in sample.note


def test_pass_at_k_is_estimated_from_several_answers(sandbox: Sandbox, setting: Setting) -> None:
    stub = StubModel()
    # The seed of a request is the number of the answer: of five, the first two are right.
    stub.answer_to = lambda body, prompt: writes_solutions(prompt) if body["seed"] <= 2 else "    return nothing\n"
    with serving(stub) as served:
        result = humaneval(num_samples_per_problem=5, pass_at=[3, 1]).evaluate(served, setting)
    assert {sample.metric for sample in result.samples} == {"pass_at_1", "pass_at_3"}
    for metric, expected in {"pass_at_1": 2 / 5, "pass_at_3": 1 - 1 / 10}.items():
        scores = [sample.score for sample in result.samples_of(metric)]
        assert len(scores) == len(load_problems(None))
        assert scores == pytest.approx([expected] * len(scores))
        assert result.figures[metric].value == pytest.approx(expected)
    assert result.figures["pass_at_1"].low < 0.4 < result.figures["pass_at_1"].high


def test_more_answers_than_are_drawn_cannot_be_asked_for() -> None:
    with pytest.raises(ValidationError, match="pass_at 10 needs as many answers"):
        humaneval(pass_at=[10])


def test_without_a_sandbox_nothing_is_asked_and_nothing_runs(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    open_sandbox.cache_clear()
    stub = StubModel(writes_solutions)
    try:
        with serving(stub) as served, pytest.raises(SandboxError, match="bubblewrap is missing"):
            humaneval().evaluate(served, setting)
        with serving(stub) as served:
            skipped = humaneval(without_sandbox="skip").evaluate(served, setting)
        # Scores with and without it are kept apart by this.
        assert humaneval(without_sandbox="skip").unavailable() == skipped.note
        assert humaneval().unavailable() is None
    finally:
        open_sandbox.cache_clear()
    assert skipped.figures == {}
    assert "bubblewrap is missing" in skipped.note
    assert stub.requests == []


def test_a_cage_that_breaks_while_it_is_used_is_not_the_models_fault(
    sandbox: Sandbox, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Sandbox, *_: object) -> BenchmarkResult:
        raise SandboxError("out of namespaces")

    monkeypatch.setattr(Sandbox, "run_python", broken)
    with serving(StubModel(writes_solutions)) as served, pytest.raises(SandboxError, match="out of namespaces"):
        humaneval().evaluate(served, setting)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a readable"),
        ("", "holds no problems"),
        ("{}\n", "one.jsonl:1 is not a problem"),
        ("not json\n", "one.jsonl:1 is not a problem"),
    ],
)
def test_a_bad_file_of_problems_is_named(
    sandbox: Sandbox, setting: Setting, tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "one.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(RecipeError, match=message):
        humaneval(path=str(path)).evaluate(ServedModel("http://127.0.0.1:9/v1", "none", chat=False), setting)


def test_a_problem_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.jsonl"
    path.write_text(2 * (json.dumps(load_problems(None)[0].model_dump()) + "\n"))
    with pytest.raises(RecipeError, match=r"two\.jsonl:2: task_id 'Lemur/0' is there twice"):
        load_problems(path)


def test_a_server_that_refuses_everything_does_not_make_a_model_that_knows_nothing(setting: Setting) -> None:
    for chat in (True, False):
        with (
            serving(StubModel(refuses="print"), chat=chat) as served,
            pytest.raises(ServingError, match=r"gave none of 60 answers.*will not read"),
        ):
            expressions().evaluate(served, setting)

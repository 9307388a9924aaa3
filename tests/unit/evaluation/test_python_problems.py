"""Reference solutions pass in the sandbox, and functions that do nothing fail."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lemur.evaluation.python_problems import (
    Problem,
    code_in,
    cut_at,
    load_problems,
    new_receipt,
    program,
    up_to_last_return,
)
from lemur.evaluation.sandbox import Sandbox


def passed(sandbox: Sandbox, problem: Problem, code: str) -> bool:
    receipt = new_receipt()
    return sandbox.run_python(program(problem, code, receipt=receipt)).output.endswith(f"{receipt}\n")


def outcomes(sandbox: Sandbox, problems: list[Problem], *, solved: bool) -> dict[str, bool]:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        code = [problem.canonical_solution if solved else "    pass\n" for problem in problems]
        return dict(
            zip(
                [problem.task_id for problem in problems],
                pool.map(lambda pair: passed(sandbox, *pair), zip(problems, code, strict=True)),
                strict=True,
            )
        )


@pytest.fixture
def humaneval(shared_benchmarks: Path) -> list[Problem]:
    path = shared_benchmarks / "humaneval" / "HumanEval.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"the published problems are not here: {path}")
    return load_problems(path)


def test_all_164_published_solutions_pass(sandbox: Sandbox, humaneval: list[Problem]) -> None:
    found = outcomes(sandbox, humaneval, solved=True)
    assert len(found) == 164
    assert [name for name, right in found.items() if not right] == []


def test_all_164_published_problems_fail_with_an_empty_body(sandbox: Sandbox, humaneval: list[Problem]) -> None:
    assert [name for name, right in outcomes(sandbox, humaneval, solved=False).items() if right] == []


def test_our_own_solutions_pass_and_empty_bodies_fail(sandbox: Sandbox) -> None:
    problems = load_problems(None)
    assert len(problems) >= 12
    assert all(outcomes(sandbox, problems, solved=True).values())
    assert not any(outcomes(sandbox, problems, solved=False).values())


def test_the_examples_in_our_own_docstrings_are_true(sandbox: Sandbox) -> None:
    for problem in load_problems(None):
        source = problem.prompt + problem.canonical_solution + "\n\nimport doctest\nprint(doctest.testmod())\n"
        output = sandbox.run_python(source).output
        assert "failed=0" in output
        assert "attempted=0" not in output


def test_an_answer_that_repeats_the_signature_keeps_the_imports_and_helpers_of_the_prompt(sandbox: Sandbox) -> None:
    problem = Problem(
        task_id="Test/0",
        prompt='import math\n\n\ndef half(x):\n    return x / 2\n\n\ndef area(r):\n    """Area of a circle."""\n',
        entry_point="area",
        canonical_solution="    return math.pi * r * r\n",
        test="def check(candidate):\n    assert abs(candidate(2) - 12.566) < 1e-3\n    assert half(2) == 1\n",
    )
    assert passed(sandbox, problem, "def area(r):\n    return math.pi * r ** 2\n")
    assert not passed(sandbox, problem, "def area(r):\n    return r\n")


def test_code_is_taken_out_of_what_surrounds_it() -> None:
    assert code_in("Sure:\n```python\nx = 1\ny = 2\n```\nDone") == "x = 1\ny = 2"
    assert code_in("```\nnever closed") == "never closed"
    assert code_in("x = 1\n") == "x = 1\n"
    assert cut_at("    return 1\n\ndef other():\n#", ("\n#", "\ndef ")) == "    return 1\n"
    assert up_to_last_return("    if x:\n        return 1\n    return 2\nThat was it.\n") == (
        "    if x:\n        return 1\n    return 2"
    )
    assert up_to_last_return("    print(x)\n    x += 1") == "    print(x)\n    x += 1"

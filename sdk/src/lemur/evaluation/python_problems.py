"""Problems in HumanEval's format, and how an answer becomes a program that its tests judge."""

from __future__ import annotations

import gzip
import json
import re
import secrets
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lemur.errors import RecipeError

STOP_SEQUENCES = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")
"""Where a base model has left the function's body; Chen et al., arXiv 2107.03374, section 2.1."""


class Problem(BaseModel):
    """One function to complete, in HumanEval's format."""

    model_config = ConfigDict(frozen=True)

    task_id: str
    """Name, unique in its file."""
    prompt: str
    """Imports, signature and docstring."""
    entry_point: str
    """Name of the function."""
    canonical_solution: str
    """A body that passes."""
    test: str
    """Code that defines `check(candidate)`."""


def load_problems(path: Path | None) -> list[Problem]:
    """Reads problems from a `.jsonl` or `.jsonl.gz` file, or the project's own where `path` is `None`.

    Raises:
        RecipeError: The file is missing, empty, or a line is not a problem; names the file and the line.
    """
    if path is None:
        folder = files("lemur.evaluation") / "problems"
        sources = {
            item.name: item.read_text(encoding="utf-8") for item in folder.iterdir() if item.name.endswith(".jsonl")
        }
    else:
        try:
            data = path.read_bytes()
            sources = {str(path): (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")}
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"humaneval.path {str(path)!r} is not a readable .jsonl or .jsonl.gz: {error}") from error
    problems: dict[str, Problem] = {}
    for name, text in sorted(sources.items()):
        for number, line in enumerate(text.splitlines(), start=1):
            problem = _parse(line, f"{name}:{number}")
            if problem.task_id in problems:
                raise RecipeError(f"{name}:{number}: task_id {problem.task_id!r} is there twice")
            problems[problem.task_id] = problem
    if not problems:
        raise RecipeError(f"humaneval.path {str(path)!r} holds no problems")
    return list(problems.values())


def _parse(line: str, place: str) -> Problem:
    try:
        return Problem.model_validate(json.loads(line))
    except (ValueError, ValidationError) as error:
        raise RecipeError(f"{place} is not a problem in HumanEval's format: {error}") from error


def program(problem: Problem, code: str, *, receipt: str) -> str:
    """Returns the program that runs an answer against the tests, and prints `receipt` when all of them passed.

    Passing is shown by the receipt rather than by the exit code, so that an answer that ends the process early has
    not passed.

    Args:
        problem: The problem.
        code: The whole function, or the body that continues the prompt.
        receipt: Text that the answer cannot know; `new_receipt` makes one.
    """
    if re.search(rf"^(async )?def {re.escape(problem.entry_point)}\b", code, re.MULTILINE):
        # The answer repeats the signature: what stands before it in the prompt (imports, other functions) stays.
        before = re.split(rf"^def {re.escape(problem.entry_point)}\b", problem.prompt, maxsplit=1, flags=re.MULTILINE)
        whole = f"{before[0]}\n{code}"
    else:
        whole = problem.prompt + code
    return f"{whole}\n\n{problem.test}\n\ncheck({problem.entry_point})\nprint({receipt!r})\n"


def new_receipt() -> str:
    """Returns a text that no answer can guess."""
    return f"passed-{secrets.token_hex(8)}"


def code_in(answer: str) -> str:
    """Returns the code of a chat answer: its first fenced block, or all of it where there is none."""
    fenced = re.search(r"```[^\n]*\n(.*?)(?:\n```|\Z)", answer, re.DOTALL)
    return fenced.group(1) if fenced else answer


def cut_at(answer: str, stops: Sequence[str]) -> str:
    """Returns an answer up to the first of the texts that end it, for servers that do not cut it themselves."""
    places = [place for stop in stops if (place := answer.find(stop)) >= 0]
    return answer[: min(places)] if places else answer


def up_to_last_return(answer: str) -> str:
    """Returns an answer up to and including its last `return` line, as Lemur's own script cuts what it is given."""
    lines = answer.splitlines()
    last = max((index for index, line in enumerate(lines) if line.lstrip().startswith("return")), default=len(lines))
    return "\n".join(lines[: last + 1])

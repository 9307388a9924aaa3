"""Asks a served model through inspect-ai, and turns what went wrong into notes or one clear error.

inspect-ai keeps many requests in flight, retries, and writes logs that its viewer opens; what is asked, how the
answer is cut and how it is scored stays in the benchmarks. It takes seconds to import, so that happens inside.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lemur import progress
from lemur.errors import ServingError
from lemur.evaluation.benchmark import ServedModel, Setting

if TYPE_CHECKING:
    from inspect_ai.log import EvalSample
    from inspect_ai.model import Model
    from inspect_ai.scorer import Scorer
    from inspect_ai.solver import Solver

_NUM_RETRIES = 4
"""Tries after the first on refused connections, 429 and 5xx: the client waits 0.5 s and doubles, so about 8 s."""


class Question(NamedTuple):
    """One thing to ask."""

    id: str
    """Same for every model."""
    prompt: str
    """Content of the user's message, or the plain text to continue."""
    target: str = ""
    """What is expected, for the log."""
    prefill: str = ""
    """Start of the assistant's answer that the model is to continue; the server must know
    `continue_final_message`, as vLLM does."""


class Generation(NamedTuple):
    """How answers are drawn."""

    max_tokens: int
    """Longest answer in tokens."""
    temperature: float = 0.0
    """0 takes the most likely token."""
    top_p: float | None = None
    """Share of the probability that tokens are drawn from; `None` leaves it to the server."""
    stop: tuple[str, ...] = ()
    """Texts that end an answer; they are not part of it."""
    num_answers: int = 1
    """Answers to each question."""


class Mark(NamedTuple):
    """What an answer is worth."""

    score: float
    """0 or 1."""
    note: str = ""
    """Why it is not right."""


class Answer(NamedTuple):
    """One answer, marked."""

    question: Question
    number: int
    """Which answer to this question, from 1."""
    text: str
    """What the model said."""
    mark: Mark


Marker = Callable[[Question, str], Awaitable[Mark]]
"""Marks the answer to a question."""


def ask(
    questions: Sequence[Question],
    *,
    name: str,
    model: ServedModel,
    setting: Setting,
    generation: Generation,
    marker: Marker,
) -> list[Answer]:
    """Asks every question and marks every answer, showing progress.

    Chat models are asked through `/chat/completions`, others through `/completions`. An answer that the server
    refuses to give is an `Answer` with score 0 and the refusal as its note.

    Args:
        questions: What to ask, ids unique.
        name: Name of the benchmark, for progress and the log.
        model: Whom to ask.
        setting: Requests in flight, and the folder for inspect's log.
        generation: How answers are drawn.
        marker: Marks an answer.

    Returns:
        The answers in order of question and number.

    Raises:
        ServingError: The server is gone, or refuses every question.
        LemurError: What the marker raised.
    """
    from inspect_ai import Epochs, Task
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.scorer import mean_score

    by_id = {question.id: question for question in questions}
    failures: list[Exception] = []
    refusals: list[str] = []
    dataset = MemoryDataset([Sample(question.prompt, id=question.id, target=question.target) for question in questions])
    with progress.task(name, total=len(questions) * generation.num_answers, unit="answers") as bar:
        task = Task(
            name=name,
            dataset=dataset,
            solver=_solver(by_id, generation, failures, refusals),
            scorer=_scorer(by_id, marker, bar, failures),
            epochs=Epochs(generation.num_answers, mean_score()),
        )
        samples = run_task(task, model=model, setting=setting, failures=failures)
    if len(refusals) == len(samples):
        raise ServingError(
            f"{name}: {model.name!r} at {model.base_url} gave none of {len(samples)} answers; the first time: "
            f"{refusals[0]}"
        )
    return [
        _answer(by_id[str(sample.id)], sample) for sample in sorted(samples, key=lambda one: (str(one.id), one.epoch))
    ]


def run_task(task: Any, *, model: ServedModel, setting: Setting, failures: Sequence[Exception]) -> list[EvalSample]:
    """Runs an inspect task of any kind against a served model, quietly, with its log in the setting's folder.

    Args:
        task: The inspect `Task`.
        model: Whom to ask.
        setting: Requests in flight, and the folder for the log.
        failures: Where the task's solvers and scorers put an exception that ends the benchmark, rather than raise it:
            inspect would log it, with seconds of formatting, and go on.

    Returns:
        inspect's samples, one for each question and answer.

    Raises:
        Exception: The first of `failures`.
        ServingError: inspect ended in an error of another kind.
        KeyboardInterrupt: The user stopped it.
    """
    import inspect_ai

    (log,) = inspect_ai.eval(
        task,
        model=_inspect_model(model, setting),
        display="none",
        log_dir=str(setting.work),
        log_level="error",
        log_realtime=False,
        acp_server=False,
        ctl_server=False,
        fail_on_error=True,
        max_samples=setting.concurrency,
        score_display=False,
    )
    if failures:
        raise failures[0]
    if log.status == "cancelled":
        raise KeyboardInterrupt
    if log.status != "success" or log.samples is None:
        reason = log.error.message if log.error else f"it ended as {log.status!r}"
        raise ServingError(f"{task.name}: asking {model.name!r} at {model.base_url} failed: {reason}")
    return log.samples


def _inspect_model(model: ServedModel, setting: Setting) -> Model:
    from inspect_ai.model import GenerateConfig, get_model

    provider = "openai-api" if model.chat else "openai-api-completions"
    return get_model(
        f"{provider}/lemur/{model.name}",
        base_url=model.base_url,
        # The client insists on a key; a server that wants none ignores it.
        api_key=model.api_key or "none",
        # The client's own retries are quick and bounded; inspect's go on for ever unless told to stop.
        config=GenerateConfig(max_connections=setting.concurrency, max_retries=0),
        max_retries=_NUM_RETRIES,
        memoize=False,
    )


def _solver(
    by_id: Mapping[str, Question], generation: Generation, failures: list[Exception], refusals: list[str]
) -> Solver:
    from inspect_ai.model import ChatMessageAssistant, GenerateConfig, get_model
    from inspect_ai.solver import TaskState, solver
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    @solver(name="answer")
    def answer() -> Solver:
        async def solve(state: TaskState, generate: Any) -> TaskState:
            if failures:
                return state
            question = by_id[str(state.sample_id)]
            config = GenerateConfig(
                max_tokens=generation.max_tokens,
                temperature=generation.temperature,
                top_p=generation.top_p,
                stop_seqs=list(generation.stop) or None,
                # Answers to one question must differ where they are drawn, and be the same the next time.
                seed=state.epoch if generation.temperature > 0 else None,
            )
            messages = list(state.messages)
            if question.prefill:
                messages.append(ChatMessageAssistant(content=question.prefill))
                config.extra_body = {"add_generation_prompt": False, "continue_final_message": True}
            try:
                state.output = await get_model().generate(messages, config=config)
            except Exception as error:
                cause = _cause(error)
                if isinstance(cause, APIStatusError | APITimeoutError):
                    state.metadata["note"] = f"no answer: {cause}"
                    refusals.append(str(cause))
                    return state
                failures.append(_gone(cause) if isinstance(cause, APIConnectionError) else error)
            return state

        return solve

    return answer()


def _cause(error: BaseException) -> BaseException:
    """Returns the client's own exception, which inspect wraps in ways that depend on the endpoint."""
    from inspect_ai.model._model import ModelGenerateError
    from tenacity import RetryError

    while True:
        inner = (
            error.last_attempt.exception()
            if isinstance(error, RetryError)
            else error.__cause__
            if isinstance(error, ModelGenerateError)
            else None
        )
        if inner is None:
            return error
        error = inner


def _scorer(by_id: Mapping[str, Question], marker: Marker, bar: progress.Task, failures: list[Exception]) -> Scorer:
    from inspect_ai.scorer import Score, Target, mean, scorer
    from inspect_ai.solver import TaskState

    @scorer(metrics=[mean()], name="mark")
    def mark() -> Scorer:
        async def score(state: TaskState, target: Target) -> Score:
            if failures:
                return Score(value=0.0, explanation="not marked: the benchmark was given up")
            note = state.metadata.get("note")
            text = "" if note else state.output.completion
            try:
                marked = Mark(0.0, note) if note else await marker(by_id[str(state.sample_id)], text)
            except Exception as error:
                failures.append(error)
                marked = Mark(0.0, str(error))
            bar.advance()
            return Score(value=marked.score, answer=text, explanation=marked.note)

        return score

    return mark()


def _gone(error: BaseException) -> ServingError:
    return ServingError(
        f"the model server does not answer any more ({error}); its log says why. The answers so far are lost, "
        "run the stage again"
    )


def _answer(question: Question, sample: EvalSample) -> Answer:
    score = (sample.scores or {})["mark"]
    return Answer(question, sample.epoch, score.answer or "", Mark(score.as_float(), score.explanation or ""))

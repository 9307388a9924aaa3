"""From a request to generations: names, limits and prompts are checked before the engine sees any of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lemur.serving.answers import AnswerFormat, ChatFormat, CompletionFormat
from lemur.serving.protocol import ApiError, ChatRequest, CompletionRequest
from lemur.serving.sampling import Sampling
from lemur.serving.vocabulary import Prompt

if TYPE_CHECKING:
    # Importing it imports torch, which the server puts off until it holds its port.
    from lemur.serving.model import LoadedModel


class Work(NamedTuple):
    """What a request asks of the engine."""

    prompts: list[Prompt]
    samplings: list[Sampling]
    """One for each prompt; they differ in how many tokens are left for the answer."""
    num_choices: int
    """Answers to each prompt."""
    format: AnswerFormat
    """How the answers are written."""


class RequestReader:
    """Checks requests against the model and turns them into work.

    Args:
        model: The loaded model.
        name: The `model` that requests must name.
    """

    def __init__(self, model: LoadedModel, name: str) -> None:
        self._model, self._name = model, name

    def check_name(self, name: str) -> None:
        """Refuses another model's name.

        Raises:
            ApiError: With status 404.
        """
        if name != self._name:
            message = f"The model `{name}` does not exist; this server has `{self._name}`."
            raise ApiError(message, status=404, param="model", code="model_not_found")

    def read_chat(self, request: ChatRequest) -> Work:
        """Renders a dialogue with the model's chat template.

        Raises:
            ApiError: The model has no template, the template refuses the dialogue, or it is too long.
        """
        self.check_name(request.model)
        request.refuse_unsupported()
        text = self._render(request)
        asked = request.max_completion_tokens or request.max_tokens
        logprobs = request.top_logprobs if request.logprobs else None
        # The template has written the special tokens already.
        prompt = self._read(text, param="messages", add_special_tokens=False)
        sampling = self._sampling(request, prompt, asked, logprobs)
        return Work([prompt], [sampling], request.n, ChatFormat(request.model, self._model.vocabulary, logprobs))

    def read_completion(self, request: CompletionRequest) -> Work:
        """Cuts prompts into tokens.

        Raises:
            ApiError: A prompt is empty, too long, or has ids that are no tokens.
        """
        self.check_name(request.model)
        request.refuse_unsupported()
        with_offsets = request.echo and request.logprobs is not None
        prompts = [self._read(prompt, param="prompt", with_offsets=with_offsets) for prompt in request.prompts]
        samplings = [
            self._sampling(request, prompt, request.max_tokens, request.logprobs, score_prompt=with_offsets)
            for prompt in prompts
        ]
        answers = CompletionFormat(request.model, self._model.vocabulary, request.logprobs, echo=request.echo)
        return Work(prompts, samplings, request.n, answers)

    def _render(self, request: ChatRequest) -> str:
        from jinja2 import TemplateError

        tokenizer = self._model.vocabulary.tokenizer
        if not tokenizer.chat_template:
            raise ApiError(
                f"The model `{self._name}` has no chat template: it was not tuned on dialogues. Use /v1/completions.",
                code="no_chat_template",
            )
        try:
            text: str = tokenizer.apply_chat_template(
                request.dialogue(),
                add_generation_prompt=request.add_generation_prompt,
                continue_final_message=request.continue_final_message,
                tokenize=False,
            )
        except (TemplateError, ValueError) as error:
            raise ApiError(f"The chat template refuses these messages: {error}", param="messages") from error
        return text

    def _read(self, prompt: str | list[int], *, param: str, **how: bool) -> Prompt:
        limit, vocabulary = self._model.max_length, self._model.vocabulary
        if isinstance(prompt, str):
            # Cutting megabytes into tokens only to refuse them would hold up everybody else.
            if len(prompt) > limit * vocabulary.longest_piece_bytes:
                raise _too_long(f"a prompt of {len(prompt):,} characters", limit, param)
            read = vocabulary.read_text(prompt, **how)
        else:
            wrong = next((token_id for token_id in prompt if not 0 <= token_id < self._model.vocab_size), None)
            if wrong is not None:
                raise ApiError(
                    f"token id {wrong} is not one of this model's; they go from 0 to {self._model.vocab_size - 1}",
                    param=param,
                )
            read = vocabulary.read_ids(prompt)
        if not read.token_ids:
            raise ApiError("The prompt is empty; this model has no token to begin a text with.", param=param)
        if len(read.token_ids) > limit:
            raise _too_long(f"a prompt of {len(read.token_ids):,} tokens", limit, param)
        return read

    def _sampling(
        self,
        request: ChatRequest | CompletionRequest,
        prompt: Prompt,
        asked: int | None,
        logprobs: int | None,
        *,
        score_prompt: bool = False,
    ) -> Sampling:
        num_prompt, limit = len(prompt.token_ids), self._model.max_length
        left = limit - num_prompt
        if asked is not None and asked > left:
            raise _too_long(
                f"{num_prompt + asked:,} tokens ({num_prompt:,} in the prompt, {asked:,} for the answer)", limit
            )
        if asked is None and left < 1:
            raise _too_long(f"{num_prompt:,} tokens in the prompt, which leaves none for the answer", limit)
        return Sampling(
            max_tokens=left if asked is None else asked,
            temperature=_given(request.temperature, self._model.default_temperature),
            top_p=_given(request.top_p, self._model.default_top_p),
            seed=request.seed,
            stop=request.stop_strings,
            ignore_eos=request.ignore_eos,
            num_logprobs=logprobs,
            score_prompt=score_prompt,
        )


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _too_long(what: str, limit: int, param: str | None = None) -> ApiError:
    message = f"This model's maximum context length is {limit:,} tokens, and the request has {what}."
    return ApiError(message, param=param, code="context_length_exceeded")

"""Requests of the OpenAI API as this server takes them, and its errors.

Fields that clients send and that change nothing here (`user`, `metadata`) are ignored; fields that would
change the answer and are not supported are refused, because an answer that ignores them would be wrong.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

_NO_EFFECT: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "logit_bias": (None, {}),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "top_k": (None, -1, 0),
    "min_p": (None, 0),
    "min_tokens": (None, 0),
    "guided_json": (None,),
    "structured_outputs": (None,),
}
"""Values that mean nothing is asked, for each field that would change the answer and is not supported."""


class ApiError(Exception):
    """A refusal in OpenAI's shape.

    Args:
        message: What was wrong and what would be right.
        status: HTTP status.
        param: Field of the request that is at fault.
        code: OpenAI's short name of the fault, where it has one.
    """

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code

    def body(self) -> dict[str, Any]:
        """Returns the JSON body of the answer."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


class StreamOptions(BaseModel):
    """Options of a streamed answer."""

    include_usage: bool = False
    """Whether a last chunk tells the token counts."""


class _Request(BaseModel):
    """What chat and completions have in common."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    model: str
    """Name of the served model."""
    max_tokens: int | None = Field(default=None, ge=0)
    """Most tokens of the answer."""
    temperature: float | None = Field(default=None, ge=0, le=2)
    """0 takes the likeliest token; `None` the release's own default."""
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Sum of probabilities that is drawn from; `None` the release's own default."""
    n: int = Field(default=1, ge=1, le=128)
    """Answers to each prompt."""
    seed: int | None = None
    """Makes draws repeatable."""
    stop: str | list[str] | None = None
    """The answer ends before the first of these."""
    stream: bool = False
    """Whether the answer comes in pieces, as server-sent events."""
    stream_options: StreamOptions | None = None
    """Options of a streamed answer."""
    ignore_eos: bool = False
    """Whether the answer goes on past the model's own end, for load tests (vLLM's extension)."""

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The stop strings as a tuple; empty ones would stop every answer and say nothing."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(filter(None, stops))

    def refuse_unsupported(self) -> None:
        """Refuses fields that would change the answer and are not supported.

        Raises:
            ApiError: Such a field is set to something.
        """
        for field, value in (self.model_extra or {}).items():
            if field in _NO_EFFECT and value not in _NO_EFFECT[field]:
                raise ApiError(
                    f"`{field}` is not supported by this server; leave it out, or serve the model with the runtime "
                    "`vllm`",
                    param=field,
                    code="unsupported_parameter",
                )


class ChatRequest(_Request):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    """The dialogue: `role` and `content` of each message."""
    max_completion_tokens: int | None = Field(default=None, ge=1)
    """OpenAI's newer name of `max_tokens`; wins over it."""
    add_generation_prompt: bool = True
    """Whether the template opens a new message of the assistant (vLLM's extension)."""
    continue_final_message: bool = False
    """Whether the answer continues the last message, which stays open (vLLM's extension)."""
    logprobs: bool = False
    """Whether to report log-probabilities."""
    top_logprobs: int = Field(default=0, ge=0, le=20)
    """How many of the likeliest tokens to report at each place."""

    @model_validator(mode="after")
    def _one_way_to_go_on(self) -> ChatRequest:
        if self.continue_final_message and self.add_generation_prompt:
            raise ValueError("`continue_final_message` needs `add_generation_prompt: false`")
        return self

    def dialogue(self) -> list[dict[str, Any]]:
        """Returns the messages with text contents joined to one string each.

        Raises:
            ApiError: A message has no role, or content that is not text.
        """
        return [
            {**message, "role": _role(message, index), "content": _text(message.get("content"), index)}
            for index, message in enumerate(self.messages)
        ]


def _role(message: dict[str, Any], index: int) -> str:
    role = message.get("role")
    if not isinstance(role, str):
        raise ApiError(f"message {index} has no `role`", param=f"messages.{index}.role")
    return role


def _text(content: Any, index: int) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        return ""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text", "")) for part in content)
    raise ApiError(
        f"message {index} has content that is not text; this model reads a string or parts of type `text`",
        param=f"messages.{index}.content",
    )


class CompletionRequest(_Request):
    """`POST /v1/completions`."""

    prompt: str | list[int] | list[str] | list[list[int]]
    """One text, several, or either as token ids."""
    max_tokens: int | None = Field(default=16, ge=0)
    """Most tokens of the answer; 16 is OpenAI's default. 0 only reads the prompt, for `echo` with `logprobs`."""
    echo: bool = False
    """Whether the prompt comes back before the answer; with `logprobs` it is scored."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """How many of the likeliest tokens to report at each place; 0 reports the tokens alone."""

    @property
    def prompts(self) -> list[str | list[int]]:
        """The prompts, one entry each."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if not self.prompt or isinstance(self.prompt[0], int):
            return [self.prompt]  # type: ignore[list-item]
        return list(self.prompt)

"""A real HTTP server with a scripted model behind an OpenAI-compatible URL."""

from __future__ import annotations

import json
import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from lemur.evaluation.benchmark import ServedModel

BOS = "<s>"


class RefusedRequestError(Exception):
    """Makes the server answer 400 with this message."""


def tokenise(text: str) -> list[str]:
    """Cuts as byte-level BPE does: a word takes the space before it, other white space stands alone."""
    return re.findall(r" ?[^\s]+|\s+(?!\S)|\s", text)


def unigram_bits(position: int, token: str) -> float:
    """What a token costs under the stub's default model: one bit, and another for each character."""
    return 1.0 + len(token)


@dataclass
class StubModel:
    """What the server says."""

    answer: Callable[[str], str] = lambda prompt: ""
    """The completion of a prompt, or the reply to the last user message."""
    answer_to: Callable[[dict[str, Any], str], str] | None = None
    """The same, where the whole request matters."""
    bits: Callable[[int, str], float] = unigram_bits
    """What a token costs, by its place in the prompt and its text."""
    begins_with_bos: bool = False
    """Whether the server puts a begin-of-text token in front."""
    context_tokens: int | None = None
    """Longest prompt and answer; stated in `/v1/models`, and longer ones are refused."""
    refuses: str | None = None
    """Prompts that hold this text are refused."""
    knows_echo: bool = True
    """Whether `echo` brings log-probabilities."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Every body that was posted."""

    def models(self) -> dict[str, Any]:
        card: dict[str, Any] = {"id": "stub", "object": "model", "created": 0, "owned_by": "tests"}
        if self.context_tokens:
            card["max_model_len"] = self.context_tokens
        return {"object": "list", "data": [card]}

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        prompt = body["prompt"]
        tokens = tokenise(prompt)
        num_tokens = len(tokens) + self.begins_with_bos
        if self.context_tokens and num_tokens + body["max_tokens"] > self.context_tokens:
            raise RefusedRequestError(f"{num_tokens} tokens are more than {self.context_tokens}")
        if self.refuses and self.refuses in prompt:
            raise RefusedRequestError(f"will not read {self.refuses!r}")
        logprobs = None
        if body.get("echo") and self.knows_echo:
            costs: list[float | None] = [-math.log(2) * self.bits(index, token) for index, token in enumerate(tokens)]
            offsets = [len("".join(tokens[:index])) for index in range(len(tokens))]
            if self.begins_with_bos:
                # vLLM counts the name of this token as text.
                tokens, costs = [BOS, *tokens], [None, *costs]
                offsets = [0, *(offset + len(BOS) for offset in offsets)]
            else:
                costs[0] = None
            logprobs = {
                "tokens": [*tokens, " next"],
                "token_logprobs": [*costs, -99.0],
                "text_offset": [*offsets, len("".join(tokens))],
                "top_logprobs": None,
            }
        text = prompt + " next" if body.get("echo") else _until(self._say(body, prompt), body.get("stop") or [])
        return {
            "id": "1",
            "object": "text_completion",
            "created": 0,
            "model": "stub",
            "choices": [{"index": 0, "text": text, "finish_reason": "stop", "logprobs": logprobs}],
            "usage": {"prompt_tokens": num_tokens, "completion_tokens": 1, "total_tokens": num_tokens + 1},
        }

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        asked = [message["content"] for message in body["messages"] if message["role"] == "user"][-1]
        if self.refuses and self.refuses in asked:
            raise RefusedRequestError(f"will not read {self.refuses!r}")
        message = {"role": "assistant", "content": self._say(body, asked)}
        return {
            "id": "1",
            "object": "chat.completion",
            "created": 0,
            "model": "stub",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }

    def _say(self, body: dict[str, Any], prompt: str) -> str:
        return self.answer_to(body, prompt) if self.answer_to else self.answer(prompt)


@contextmanager
def serving(model: StubModel, *, chat: bool = False) -> Iterator[ServedModel]:
    """Serves the stub on a free loopback port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(model))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield ServedModel(f"http://127.0.0.1:{server.server_address[1]}/v1", "stub", chat=chat)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(model: StubModel) -> type[BaseHTTPRequestHandler]:
    routes = {"/v1/completions": model.completion, "/v1/chat/completions": model.chat}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, model.models())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model.requests.append(body)
            try:
                self._send(200, routes[self.path](body))
            except RefusedRequestError as error:
                self._send(400, {"error": {"message": str(error), "type": "invalid_request_error"}})

        def _send(self, status: int, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    return Handler


def _until(text: str, stops: list[str]) -> str:
    places = [text.find(stop) for stop in stops if stop in text]
    return text[: min(places)] if places else text

"""OpenAI-compatible server for one model, on transformers and FastAPI.

`python -m lemur.serving.server --model FOLDER --name NAME --host 127.0.0.1 --port 8000`
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from lemur.errors import LemurError, ServingError
from lemur.serving.answers import usage
from lemur.serving.generation import Generation, Update
from lemur.serving.protocol import ApiError, ChatRequest, CompletionRequest
from lemur.serving.request_reader import RequestReader, Work

_SHUTDOWN_SECONDS = 3

_Body = TypeVar("_Body", ChatRequest, CompletionRequest)


class Service:
    """Joins the server's event loop to the engine's thread.

    Args:
        model: A `lemur.serving.model.LoadedModel`.
        name: The `model` that requests must name.
        max_rows: Most answers in the making at a time.
    """

    def __init__(self, model: Any, name: str, max_rows: int) -> None:
        from lemur.serving.engine import Engine

        self.name, self.model = name, model
        self.reader = RequestReader(model, name)
        self.engine = Engine(model, max_rows=max_rows, deliver=self._deliver)
        self._loop: asyncio.AbstractEventLoop | None = None

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Runs the engine while the server runs."""
        self._loop = asyncio.get_running_loop()
        self.engine.start()
        yield
        await asyncio.to_thread(self.engine.close)

    def _deliver(self, updates: list[tuple[Generation, Update]]) -> None:
        assert self._loop is not None
        # One wake-up of the loop for the whole step, not one for each row.
        self._loop.call_soon_threadsafe(_hand_out, updates)

    async def answer(self, request: Request, body: _Body, read: Callable[[_Body], Work]) -> Any:
        """Answers a request, whole or streamed."""
        # Tokenizers release the interpreter lock, so that a long prompt holds up nobody.
        work = await asyncio.to_thread(read, body)
        news: asyncio.Queue[tuple[int, Update]] = asyncio.Queue()
        generations = [
            Generation(prompt, sampling, choice=choice, incremental=body.stream)
            for prompt, sampling in zip(work.prompts, work.samplings, strict=True)
            for choice in range(work.num_choices)
        ]
        for index, generation in enumerate(generations):
            generation.receive = functools.partial(_put, news, index)
        if body.stream:
            with_usage = bool(body.stream_options and body.stream_options.include_usage)
            events = self._stream(work, generations, news, with_usage)
            return StreamingResponse(events, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        return await self._whole(request, work, generations, news)

    async def _whole(
        self, request: Request, work: Work, generations: list[Generation], news: asyncio.Queue[tuple[int, Update]]
    ) -> JSONResponse:
        collecting = asyncio.ensure_future(self._collect(generations, news))
        leaving = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait({collecting, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not collecting.done():
                raise ApiError("The client went away.", status=499)
            return JSONResponse(work.format.body(generations, collecting.result(), len(work.prompts)))
        finally:
            collecting.cancel()
            leaving.cancel()
            _cancel(generations)

    async def _collect(self, generations: list[Generation], news: asyncio.Queue[tuple[int, Update]]) -> list[Update]:
        self.engine.submit(generations)
        found: dict[int, Update] = {}
        while len(found) < len(generations):
            index, update = await news.get()
            if update.error:
                raise ApiError(f"The model failed: {update.error}", status=500)
            found[index] = update
        return [found[index] for index in range(len(generations))]

    async def _stream(
        self,
        work: Work,
        generations: list[Generation],
        news: asyncio.Queue[tuple[int, Update]],
        with_usage: bool,
    ) -> AsyncIterator[str]:
        answers = work.format
        try:
            openings = [answers.opening(index) for index in range(len(generations))]
            for opening in filter(None, openings):
                yield _event(answers.chunk([opening]))
            self.engine.submit(generations)
            begun: set[int] = set()
            num_open = len(generations)
            while num_open:
                index, update = await news.get()
                if update.error:
                    yield _event(ApiError(f"The model failed: {update.error}", status=500).body())
                    return
                delta = answers.delta(index, generations[index], update, is_first=index not in begun)
                begun.add(index)
                num_open -= update.finish_reason is not None
                yield _event(answers.chunk([delta]))
            if with_usage:
                yield _event({**answers.chunk([]), "usage": usage(generations, len(work.prompts))})
            yield "data: [DONE]\n\n"
        finally:
            _cancel(generations)


def create_app(service: Service) -> FastAPI:
    """Returns the web application of a service."""
    app = FastAPI(title="Lemur", lifespan=service.running, strict_content_type=False)
    started = int(time.time())

    @app.get("/health")
    async def health() -> JSONResponse:
        alive = service.engine.is_alive
        return JSONResponse({"status": "ok" if alive else "the engine has ended"}, 200 if alive else 503)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        entry = {"id": service.name, "object": "model", "created": started, "owned_by": "lemur"}
        return {"object": "list", "data": [{**entry, "max_model_len": service.model.max_length}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request, body: ChatRequest) -> Any:
        return await service.answer(request, body, service.reader.read_chat)

    @app.post("/v1/completions")
    async def completions(request: Request, body: CompletionRequest) -> Any:
        return await service.answer(request, body, service.reader.read_completion)

    @app.exception_handler(ApiError)
    async def refuse(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status)

    @app.exception_handler(RequestValidationError)
    async def refuse_malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        refusal = _malformed(error, request.headers.get("content-type", "application/json"))
        return JSONResponse(refusal.body(), refusal.status)

    @app.exception_handler(HTTPException)
    async def refuse_path(request: Request, error: HTTPException) -> JSONResponse:
        refusal = ApiError(f"{request.method} {request.url.path}: {error.detail}", status=error.status_code)
        return JSONResponse(refusal.body(), error.status_code)

    return app


def _malformed(error: RequestValidationError, content_type: str) -> ApiError:
    if "json" not in content_type:
        return ApiError(f"The body is sent as {content_type}; send the header `Content-Type: application/json`.")
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "json_invalid":
        return ApiError(
            f"The body is not JSON: {first.get('ctx', {}).get('error', first['msg'])} at character {place}."
        )
    if not place:
        return ApiError(f"The body must be a JSON object: {first['msg']}.")
    return ApiError(f"`{place}`: {first['msg']}; got {str(first.get('input'))[:100]!r}.", param=place)


def _hand_out(updates: list[tuple[Generation, Update]]) -> None:
    for generation, update in updates:
        generation.receive(update)


def _put(news: asyncio.Queue[tuple[int, Update]], index: int, update: Update) -> None:
    news.put_nowait((index, update))


def _cancel(generations: list[Generation]) -> None:
    for generation in generations:
        generation.cancelled = True


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _listen(host: str, port: int) -> socket.socket:
    """Takes the port before anything slow happens, so that a taken one is told at once."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except OSError as error:
        raise ServingError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from error
    return listener


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lemur.serving.server", description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="folder with config, safetensors and tokenizer")
    parser.add_argument("--name", required=True, help="the `model` that requests must name")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    parser.add_argument("--max-length", type=int, help="longest prompt and answer together, in tokens")
    parser.add_argument("--max-requests", type=int, default=32, help="most answers in the making at a time")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU, else float32")
    return parser.parse_args()


def main() -> None:
    """Serves a model until SIGTERM or SIGINT."""
    arguments = _arguments()
    # Threads that spin while they wait make each other many times slower where the cores have other work too.
    # It is read when torch is imported, which happens below.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    started = time.monotonic()
    try:
        # What can be refused is refused before torch is imported, which takes seconds.
        if not (arguments.model / "config.json").is_file():
            raise ServingError(f"{arguments.model} is not a model folder: it has no config.json")
        listener = _listen(arguments.host, arguments.port)
        from lemur.serving.model import load_model

        model = load_model(arguments.model, max_length=arguments.max_length, dtype=arguments.dtype)
    except LemurError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    service = Service(model, arguments.name, arguments.max_requests)
    config = uvicorn.Config(
        create_app(service),
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        lifespan="on",
    )
    seconds = time.monotonic() - started
    logging.info("serving %s on http://%s:%d/v1 after %.1f s", arguments.name, arguments.host, arguments.port, seconds)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

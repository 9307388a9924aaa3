"""Talks to a served model: replies stream, Ctrl-C stops one, Ctrl-D leaves."""

from __future__ import annotations

import ipaddress
import json
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import httpx

from lemur.errors import ServingError

if TYPE_CHECKING:
    from rich.console import Console

_TIMEOUT = httpx.Timeout(600, connect=10)
_NOTHING: Mapping[str, Any] = MappingProxyType({})

Message = dict[str, str]
"""`role` and `content`."""


class Reply(Iterator[str]):
    """A reply as it comes: iterate for its text; what it was is known at its end.

    Args:
        url: Base URL of the server, with or without `/v1`.
        body: Body of the request.
    """

    def __init__(self, url: str, body: Mapping[str, Any]) -> None:
        self.text = ""
        """All text so far."""
        self.finish_reason: str | None = None
        """`stop` where the model ended by itself, `length` where it ran out of tokens; `None` while it goes on."""
        self.num_tokens = 0
        """Tokens of the reply, as the server counts them."""
        self.seconds = 0.0
        """From the request to the last piece."""
        self._started = time.monotonic()
        self._pieces = self._receive(url, body)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Breaks the reply off; the server stops making it."""
        self._pieces.close()

    def _receive(self, url: str, body: Mapping[str, Any]) -> Generator[str]:
        with (
            _named_errors(url),
            _client(url) as client,
            client.stream("POST", "/chat/completions", json=body) as response,
        ):
            _check(response)
            for line in response.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    piece = self._read(json.loads(line.removeprefix("data: ")))
                    self.seconds = time.monotonic() - self._started
                    if piece:
                        self.text += piece
                        yield piece
        if self.finish_reason is None:
            raise ServingError(f"the reply from {url} broke off before its end; the server's log says why")

    def _read(self, chunk: dict[str, Any]) -> str:
        if "error" in chunk:
            raise ServingError(f"the server broke the reply off: {chunk['error']['message']}")
        if chunk.get("usage"):
            self.num_tokens = chunk["usage"]["completion_tokens"]
        for choice in chunk["choices"]:
            self.finish_reason = choice["finish_reason"] or self.finish_reason
            return choice["delta"].get("content") or ""
        return ""


def stream_reply(
    url: str, messages: Sequence[Message], *, model: str | None = None, settings: Mapping[str, Any] = _NOTHING
) -> Reply:
    """Asks for the next message of a dialogue.

    Args:
        url: Base URL of the server, with or without `/v1`.
        messages: The dialogue so far.
        model: Model to ask; `None` takes the first that the server lists.
        settings: Further fields of the request: `temperature`, `max_tokens`, `seed`.

    Raises:
        ServingError: Nothing answers at the URL, or the server refuses.
    """
    body = {
        "model": model or first_model(url),
        "messages": list(messages),
        "stream": True,
        "stream_options": {"include_usage": True},
        **settings,
    }
    return Reply(url, body)


def first_model(url: str) -> str:
    """Returns the name of the first model that a server lists.

    Raises:
        ServingError: Nothing answers at the URL, or what answers is no model server.
    """
    with _named_errors(url), _client(url) as client:
        response = client.get("/models")
        _check(response)
        try:
            name: str = response.json()["data"][0]["id"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ServingError(f"{url} answers, and lists no models; is it the URL of a model server?") from error
        return name


def chat(
    url: str, *, model: str | None = None, system: str | None = None, message: str | None = None, console: Console
) -> None:
    """Talks with a model until Ctrl-D or `/exit`, or says one message and prints the reply.

    Args:
        url: Base URL of the server, with or without `/v1`.
        model: Model to ask; `None` takes the first that the server lists.
        system: System message of the dialogue.
        message: The one message; `None` reads messages from the terminal.
        console: Where the dialogue is shown.

    Raises:
        ServingError: Nothing answers at the URL, or the server refuses.
    """
    name = model or first_model(url)
    opening: list[Message] = [{"role": "system", "content": system}] if system else []
    if message is not None:
        _show(stream_reply(url, [*opening, _said("user", message)], model=name), console)
        return
    console.print(
        f"Talking to [bold]{name}[/bold]. /reset forgets the dialogue, /exit or Ctrl-D leaves, Ctrl-C stops a reply."
    )
    dialogue = list(opening)
    while (said := _ask(console)) not in (None, "/exit"):
        if said == "/reset":
            dialogue = list(opening)
            console.print("[dim]The dialogue is forgotten.[/dim]")
        elif said:
            dialogue.append(_said("user", said))
            _answer(url, name, dialogue, console)


def _answer(url: str, name: str, dialogue: list[Message], console: Console) -> None:
    """Shows the reply and adds it to the dialogue; a message that the server refuses leaves the dialogue."""
    reply = stream_reply(url, dialogue, model=name)
    try:
        _show(reply, console)
    except KeyboardInterrupt:
        reply.close()
        console.print("\n[dim]Stopped.[/dim]")
    except ServingError as error:
        if not reply.text:
            dialogue.pop()
        console.print(f"[red]{error}[/red]", highlight=False)
    if reply.text:
        dialogue.append(_said("assistant", reply.text))


def _said(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _ask(console: Console) -> str | None:
    """Returns what the user types; `None` at the end of input."""
    with suppress(ImportError):
        import readline  # noqa: F401 - importing it gives `input` line editing and history.
    try:
        return console.input("[bold]> [/bold]").strip()
    except EOFError:
        console.print()
        return None
    except KeyboardInterrupt:
        console.print()
        return ""


def _show(reply: Reply, console: Console) -> None:
    for piece in reply:
        console.out(piece, end="", highlight=False)
    console.print()
    if reply.finish_reason == "length":
        console.print("[dim]The reply was cut off: no tokens are left for it.[/dim]")


def _client(url: str) -> httpx.Client:
    base = url.rstrip("/")
    base = base if base.endswith("/v1") else f"{base}/v1"
    # A proxy for the internet cannot reach this machine's own addresses.
    return httpx.Client(base_url=base, timeout=_TIMEOUT, trust_env=not _is_loopback(base))


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def _named_errors(url: str) -> Iterator[None]:
    try:
        yield
    except httpx.ConnectError as error:
        raise ServingError(
            f"nothing answers at {url} ({error}); start a server with `lemur serve RELEASE`, and give its URL"
        ) from error
    except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise ServingError(f"{url!r} is not a URL of a server; write it like http://127.0.0.1:8000/v1") from error
    except httpx.HTTPError as error:
        raise ServingError(f"the connection to {url} broke: {error}; the server's log says why") from error


def _check(response: httpx.Response) -> None:
    if response.is_success:
        return
    response.read()
    try:
        said = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = response.text[:200] or response.reason_phrase
    raise ServingError(f"{response.url} refuses ({response.status_code}): {said}")

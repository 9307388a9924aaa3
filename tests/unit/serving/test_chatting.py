"""The chat client and the first dialogues, against the real server."""

from __future__ import annotations

import io
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import httpx
import pytest
from rich.console import Console
from tiny_model import DIALOGUES

from lemur.errors import ServingError
from lemur.serving.chat import chat, first_model, stream_reply
from lemur.serving.runtime import Runtime
from lemur.serving.smoke import try_release


def screen() -> Console:
    return Console(file=io.StringIO(), width=200, force_terminal=False)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def greedy(url: str, text: str, **settings) -> Iterator[str]:
    return stream_reply(url, [{"role": "user", "content": text}], settings={"temperature": 0, **settings})


@pytest.mark.parametrize("form", [str, lambda url: url.removesuffix("/v1"), lambda url: url + "/"])
def test_a_reply_streams_from_a_url_with_or_without_v1(server: str, form: Callable[[str], str]) -> None:
    reply = greedy(form(server), "café?")
    assert "".join(reply) == reply.text == DIALOGUES["café?"]
    assert reply.finish_reason == "stop"
    assert reply.num_tokens > 5
    assert reply.seconds > 0


def test_a_reply_without_room_says_that_it_was_cut(server: str) -> None:
    reply = greedy(server, "count", max_tokens=2)
    list(reply)
    assert reply.finish_reason == "length"


def test_one_message_is_answered_and_printed(server: str) -> None:
    console = screen()
    chat(server, message="hi", console=console)
    assert shown(console).strip()


class Typed:
    """Lines that a user types; after the last one comes Ctrl-D."""

    def __init__(self, *lines: str) -> None:
        self._lines = iter(lines)

    def __call__(self, *_: object, **__: object) -> str:
        try:
            return next(self._lines)
        except StopIteration:
            raise EOFError from None


def requests_of(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, str]]]:
    """Returns the dialogues that are sent from now on."""
    sent: list[list[dict[str, str]]] = []
    stream = httpx.Client.stream

    def recorded(self: httpx.Client, *arguments, json: dict, **more):
        sent.append([dict(message) for message in json["messages"]])
        return stream(self, *arguments, json={**json, "temperature": 0}, **more)

    monkeypatch.setattr(httpx.Client, "stream", recorded)
    return sent


def test_a_dialogue_remembers_until_it_is_reset_and_ends_with_ctrl_d(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = screen()
    sent = requests_of(monkeypatch)
    monkeypatch.setattr(console, "input", Typed("hi", "", "count", "/reset", "hi"))
    chat(server, system="Be brief.", console=console)
    system = {"role": "system", "content": "Be brief."}
    assert [[message["content"] for message in dialogue if message["role"] != "assistant"] for dialogue in sent] == [
        ["Be brief.", "hi"],
        ["Be brief.", "hi", "count"],
        ["Be brief.", "hi"],
    ]
    assert sent[2] == [system, {"role": "user", "content": "hi"}]
    assert sent[1][2]["role"] == "assistant"
    assert sent[1][2]["content"] in shown(console)


def test_ctrl_c_stops_the_reply_and_not_the_dialogue(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    console = screen()
    monkeypatch.setattr(console, "input", Typed("count", "/exit"))
    pieces: list[str] = []

    def interrupting(piece: str, **_: object) -> None:
        pieces.append(piece)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(console, "out", interrupting)
    chat(server, console=console)
    assert len(pieces) == 1
    assert "Stopped." in shown(console)


def test_a_message_that_the_server_refuses_can_be_followed_by_another(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = screen()
    sent = requests_of(monkeypatch)
    monkeypatch.setattr(console, "input", Typed("zq " * 300, "hi"))
    chat(server, console=console)
    assert "maximum context length is 256" in shown(console)
    assert sent[1] == [{"role": "user", "content": "hi"}]
    assert DIALOGUES["hi"] in shown(console)


def test_a_server_that_is_not_there_is_named_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(ServingError, match=rf"nothing answers at http://127.0.0.1:{port}.*`lemur serve RELEASE`"):
        chat(f"http://127.0.0.1:{port}", console=screen())


def test_a_wrong_url_and_a_wrong_model_are_told(server: str) -> None:
    with pytest.raises(ServingError, match="'localhost:8000' is not a URL"):
        first_model("localhost:8000")
    with pytest.raises(ServingError, match=r"404.*`gpt-4` does not exist"):
        list(stream_reply(server, [{"role": "user", "content": "hi"}], model="gpt-4"))


def test_a_server_that_dies_in_the_middle_is_told() -> None:
    """A server of this test sends the beginning of a stream and closes the connection."""
    start = b'data: {"choices": [{"delta": {"content": "Hel"}, "finish_reason": null}]}\n\n'
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer += f"{len(start):x}\r\n".encode() + start + b"\r\n"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        reply = stream_reply(url, [{"role": "user", "content": "hi"}], model="m")
        with pytest.raises(ServingError, match="broke"):
            list(reply)
        thread.join()
    assert reply.text == "Hel"


class RunningRuntime(Runtime):
    """Stands for a server that runs already."""

    kind: Literal["running"] = "running"
    url: str

    def command(self, model: Path, *, name: str, host: str, port: int) -> list[str]:
        raise NotImplementedError

    @contextmanager
    def serving(self, model: Path, *, name: str, log: Path) -> Iterator[str]:
        yield self.url


def test_the_first_dialogues_with_a_release_end_by_themselves(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dialogues = try_release(
        RunningRuntime(url=server), tmp_path, name="tiny", prompts=["hi", "count"], log=tmp_path / "server.log"
    )
    assert [dialogue["reply"] for dialogue in dialogues] == [DIALOGUES["hi"], DIALOGUES["count"]]
    assert {dialogue["finish_reason"] for dialogue in dialogues} == {"stop"}
    assert all(dialogue["seconds"] > 0 and dialogue["tokens_per_second"] > 0 for dialogue in dialogues)
    assert "did not end" not in capsys.readouterr().err


def test_a_first_dialogue_that_does_not_end_is_cut_off_and_told(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lemur.serving.smoke._MAX_PIECES", 2)
    (dialogue,) = try_release(
        RunningRuntime(url=server), tmp_path, name="tiny", prompts=["count"], log=tmp_path / "server.log"
    )
    assert DIALOGUES["count"].startswith(dialogue["reply"])
    assert dialogue["finish_reason"] == "length"
    assert "did not end by itself" in capsys.readouterr().err

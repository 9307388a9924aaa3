"""A bad line to a server: it breaks, or it changes a bit, as often as a test asks for."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Literal


class CuttingProxy:
    """Passes connections on to a server, and harms the first ones after some bytes.

    Args:
        endpoint: URL of the server.
        num_cuts: How many connections are harmed.
        after_bytes: How many bytes pass before.
        harms: What is harmed: `answers`, which break off; `requests`, which break off; or `bits`, one bit of a request.
        only: Bytes that a request must begin with for its connection to count.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        num_cuts: int,
        after_bytes: int,
        harms: Literal["answers", "requests", "bits"] = "answers",
        only: bytes = b"",
    ) -> None:
        self._target = int(endpoint.rpartition(":")[2])
        self.cuts_left, self._after_bytes, self._harms, self._only = num_cuts, after_bytes, harms, only
        self.answered_bytes = 0
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            server = socket.create_connection(("127.0.0.1", self._target))
            counts = threading.Event()
            threading.Thread(target=self._pass_on, args=(client, server, False, counts), daemon=True).start()
            threading.Thread(target=self._pass_on, args=(server, client, True, counts), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool, counts: threading.Event) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if not answers and data.startswith(self._only):
                    counts.set()
                passed += len(data)
                if answers:
                    self.answered_bytes += len(data)
                harmed = (self._harms == "answers") == answers and counts.is_set()
                if harmed and passed > self._after_bytes and self.cuts_left:
                    self.cuts_left -= 1
                    if self._harms != "bits":
                        break
                    data = data[:-1] + bytes([data[-1] ^ 1])
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

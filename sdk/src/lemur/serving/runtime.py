"""What every model server has in common: a folder of weights in, an OpenAI-compatible URL out."""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from pathlib import Path

from pydantic import PositiveInt

from lemur.plugins import Plugin


class Runtime(Plugin, abstract=True):
    """A model server."""

    max_length: PositiveInt | None = None
    """Longest prompt and answer together, in tokens; `None` takes what the model was made for."""

    def check_installed(self) -> None:
        """Refuses a server that is not installed here.

        Raises:
            ServingError: It is not; the message says how to install it.
        """

    @abstractmethod
    def command(self, model: Path, *, name: str, host: str, port: int) -> list[str]:
        """Returns the command line that serves `model` in the foreground.

        Args:
            model: Folder with config, safetensors and tokenizer, as `from_pretrained` reads it.
            name: The `model` that requests must name.
            host: Address to listen on.
            port: Port to listen on.
        """

    @abstractmethod
    def serving(self, model: Path, *, name: str, log: Path) -> AbstractContextManager[str]:
        """Serves `model` on a free loopback port while the context lasts.

        Returns:
            A context manager giving the base URL, up to and including `/v1`, once the server is ready.

        Raises:
            ServingError: The server ended or did not become ready; the message has the end of `log`.
        """

"""Serves a release in the foreground, until Ctrl-C."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from lemur import progress
from lemur.errors import ServingError
from lemur.plugins import discover
from lemur.serving.locate import find_release
from lemur.serving.process import log_end, server_process
from lemur.serving.runtime import Runtime

_READY_SECONDS = 3600
"""Ctrl-C is there for whoever waits, so that this bounds only an unattended start."""


def serve_forever(release: str, *, host: str, port: int, name: str, runtime: str) -> None:
    """Serves a release until Ctrl-C or until the server ends.

    Args:
        release: A release, a checkpoint, a run's record or a model folder; path or URI.
        host: Address to listen on; `0.0.0.0` for all of them.
        port: Port to listen on.
        name: The `model` that requests name.
        runtime: Kind of the model server.

    Raises:
        ServingError: There is no such release or runtime, or the server does not start or ends by itself.
    """
    known = discover("lemur.serving.runtimes")
    if runtime not in known:
        raise ServingError(f"there is no runtime {runtime!r}; known: {', '.join(known)}")
    folder = find_release(release)
    server = known[runtime].model_validate(_settings(folder, runtime))
    assert isinstance(server, Runtime)
    server.check_installed()
    command = server.command(folder, name=name, host=host, port=port)
    with tempfile.TemporaryDirectory(prefix="lemur-serve-") as scratch:
        log = Path(scratch) / "server.log"
        with server_process(command, name=name, port=port, log=log, ready_seconds=_READY_SECONDS) as process:
            url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}/v1"
            progress.emit("note", text=f"{name} is served at {url}; talk to it with `lemur chat {url}`")
            progress.emit("note", text="Ctrl-C stops it")
            try:
                status = process.wait()
            except KeyboardInterrupt:
                return
            raise ServingError(f"the server of {name!r} ended with status {status}; its log ends with\n{log_end(log)}")


def _settings(folder: Path, runtime: str) -> dict[str, Any]:
    """Returns the settings of the runtime in the release's recipe, where that names the same one."""
    recipe = folder / "recipe.json"
    chosen: dict[str, Any] = {"kind": runtime}
    if recipe.is_file():
        settings = json.loads(recipe.read_text(encoding="utf-8"))["serving"]["runtime"]
        chosen = settings if settings["kind"] == runtime else chosen
    return chosen

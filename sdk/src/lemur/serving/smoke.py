"""The first dialogues with a release: proof that it loads, answers and ends by itself."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lemur import progress
from lemur.serving.runtime import Runtime

_MAX_PIECES = 512
"""Pieces of text, a token or so each, after which a reply is broken off."""


def try_release(
    runtime: Runtime, folder: Path, *, name: str, prompts: Sequence[str], log: Path
) -> list[dict[str, Any]]:
    """Serves a release on a free port and asks it a few things.

    A reply that does not end by itself is no error: a small model may ramble. It is said, and its
    `finish_reason` shows it.

    Args:
        runtime: Model server.
        folder: Folder of the release.
        name: Name it is served by.
        prompts: What the user says, one dialogue each.
        log: File for the server's output.

    Returns:
        For each prompt `prompt`, `reply`, `finish_reason`, `seconds` and `tokens_per_second`.

    Raises:
        ServingError: The server does not start, or refuses a prompt.
    """
    from lemur.serving.chat import stream_reply

    dialogues = []
    with (
        runtime.serving(folder, name=name, log=log) as url,
        progress.task("ask the release", total=len(prompts), unit="prompts") as bar,
    ):
        for prompt in prompts:
            # Greedy, so that the same release gives the same dialogues.
            reply = stream_reply(url, [{"role": "user", "content": prompt}], model=name, settings={"temperature": 0})
            num_pieces = sum(1 for _ in itertools.islice(reply, _MAX_PIECES))
            # Not by `max_tokens`, which a server refuses where its context has less room.
            reply.close()
            if reply.finish_reason != "stop":
                progress.emit("note", text=f"the reply to {prompt!r} did not end by itself")
            dialogues.append(
                {
                    "prompt": prompt,
                    "reply": reply.text,
                    "finish_reason": reply.finish_reason or "length",
                    "seconds": round(reply.seconds, 3),
                    "tokens_per_second": round((reply.num_tokens or num_pieces) / reply.seconds, 1),
                }
            )
            bar.advance()
    return dialogues

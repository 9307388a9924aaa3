"""The stages that give a model away: publish and serve."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from lemur.receipt import Receipt, result_key
from lemur.recipe import ServingSection
from lemur.results import fetch, write_result
from lemur.stages.envelope import stage

Json = dict[str, Any]


def publish(*, name: str, storage: str, chat: Receipt, verdict: Receipt) -> Receipt:
    """Writes the release of a model that passed the gate.

    Args:
        name: Name of the run and of its release.
        storage: Root URI of the recipe's storage.
        chat: The tuned model.
        verdict: The gate's verdict on it.

    Raises:
        GateError: The verdict is not a pass.
    """
    with stage("publish", storage=storage, run=name) as running:
        from lemur.serving.release import publish as write_release
        from lemur.serving.release import release_prefix

        found = running.reuse(storage, release_prefix(name, chat=chat, verdict=verdict))
        return running.keep("release", found or write_release(name=name, storage=storage, chat=chat, verdict=verdict))


def serve(*, name: str, storage: str, serving: Json, release: Receipt) -> Receipt:
    """Serves the release on this machine for as long as it takes to answer the recipe's prompts.

    Args:
        name: Name of the run.
        storage: Root URI of the recipe's storage.
        serving: The serving section.
        release: The release.

    Returns:
        The endpoint: the command that serves the release, and its first dialogues.
    """
    with stage("serve", storage=storage, run=name) as running:
        section = ServingSection.model_validate(serving)
        parents = {"release": release}
        key = result_key("serve", section.model_dump(mode="json"), parents)
        prefix = f"endpoints/{key[:16]}"
        found = running.reuse(storage, prefix)
        if found is None:
            from lemur.serving.smoke import try_release

            writer = write_result(storage, prefix=prefix, kind="endpoint", stage="serve", key=key, parents=parents)
            with tempfile.TemporaryDirectory(prefix="lemur-serve-") as scratch:
                folder = fetch(release, Path(scratch) / "release")
                dialogues = try_release(
                    section.runtime, folder, name=name, prompts=section.first_prompts, log=Path(scratch) / "server.log"
                )
            endpoint = {"command": f"lemur serve {running.record_uri}", "dialogues": dialogues}
            writer.add_bytes("endpoint.json", json.dumps(endpoint, indent=2).encode())
            found = writer.commit(metadata=endpoint)
        return running.keep("endpoint", found)

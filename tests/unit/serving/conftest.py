"""The tiny model, and one server of it for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from tiny_model import make_model_folder

from lemur.serving.runtimes.transformers import TransformersRuntime


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def server(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server of the tiny model, up to and including `/v1`."""
    log = tmp_path_factory.mktemp("server") / "server.log"
    with TransformersRuntime(kind="transformers").serving(model_folder, name="tiny", log=log) as url:
        yield url


@pytest.fixture(scope="session")
def client(server: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=server, api_key="none", max_retries=0, timeout=60)

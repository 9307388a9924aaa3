"""Corpora, tokenizers and mixtures of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_corpus import mix_here, save_tokenizer, section, write_corpus

from lemur.data.partitions import workers
from lemur.data.tokenizer import encoder_check
from lemur.receipt import Receipt
from lemur.recipe import ModelSection


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> ModelSection:
    """A model with a tokenizer that stands in a folder."""
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def shared_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small corpus; a test that changes it takes `corpus`."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """The small corpus, for one test alone."""
    write_corpus(tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.fixture
def mix(tokenizer: ModelSection, corpus: Path, tmp_path: Path) -> Callable[..., Receipt]:
    """Mixes the corpus as it is by then."""

    def run(**changes: Any) -> Receipt:
        return mix_here(tokenizer, section(corpus, **changes), tmp_path).tokens

    return run


@pytest.fixture
def two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has a step start two processes, and compare encoders on less: the comparison has its own tests."""
    monkeypatch.setattr(encoder_check, "LINE_BYTES", 20_000)
    monkeypatch.setattr(workers, "_cores", lambda: 2)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder for files that are needed meanwhile; nothing may stay in it."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    yield folder
    assert not list(folder.glob("lemur-*"))

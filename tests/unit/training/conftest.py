"""A tiny model's worth of everything that training needs, made once and without the network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from small_training import (
    finetune_section,
    hardware_section,
    make_dialogues,
    make_texts,
    make_tokenizer,
    make_tokens,
    model_section,
    pretrain_section,
    sums,
)
from transformers import PreTrainedTokenizerFast

from lemur.receipt import Receipt
from lemur.recipe import ModelSection
from lemur.training import run


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return make_texts()


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    return make_tokenizer(texts)


@pytest.fixture(scope="session")
def model(tokenizer: PreTrainedTokenizerFast) -> ModelSection:
    return model_section(len(tokenizer))


@pytest.fixture(scope="session")
def shared_storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Storage for what tests only read."""
    return tmp_path_factory.mktemp("shared").as_uri()


@pytest.fixture(scope="session")
def tokens(shared_storage: str, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Receipt:
    return make_tokens(shared_storage, tokenizer, texts)


@pytest.fixture(scope="session")
def dialogues(shared_storage: str) -> Receipt:
    return make_dialogues(shared_storage, sums(96))


@pytest.fixture(scope="session")
def pretrained(
    shared_storage: str, tokens: Receipt, model: ModelSection, tmp_path_factory: pytest.TempPathFactory
) -> run.Pretrained:
    """What an unbroken run in one process makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEMUR_WORK", str(tmp_path_factory.mktemp("work")))
        return run.pretrain(
            model=model,
            pretrain=pretrain_section(),
            hardware=hardware_section(),
            tokens=tokens,
            storage=shared_storage,
            run="tiny",
        )


@pytest.fixture(scope="session")
def finetuned(
    shared_storage: str, pretrained: run.Pretrained, dialogues: Receipt, tmp_path_factory: pytest.TempPathFactory
) -> Receipt:
    """What an unbroken run in one process makes of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEMUR_WORK", str(tmp_path_factory.mktemp("work")))
        return run.finetune(
            finetune=finetune_section(),
            hardware=hardware_section(),
            base=pretrained.base,
            dialogues=dialogues,
            storage=shared_storage,
            run="tiny",
        )


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return (tmp_path / "storage").as_uri()


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEMUR_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("LEMUR_PROGRESS", str(tmp_path / "events.jsonl"))


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[], str]:
    """Returns what progress notes have said."""

    def read() -> str:
        lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text(encoding="utf-8").splitlines()]
        return "\n".join(line["text"] for line in lines if line["event"] == "note")

    return read

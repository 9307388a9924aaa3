"""The dialogues for tuning: one file of all sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lemur.data.dialogues.collecting import collect_dialogues
from lemur.errors import RecipeError
from lemur.receipt import MANIFEST_NAME, Receipt
from lemur.recipe import DataSection
from lemur.results import fetch

DIALOGUES: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": f"question {number}"}, {"role": "assistant", "content": "answer"}]}
    for number in range(3)
]


def section(*dialogues: dict[str, Any]) -> DataSection:
    return DataSection.model_validate(
        {"sources": [{"kind": "python_docs", "name": "docs"}], "sequence_length": 8, "dialogues": list(dialogues)}
    )


def stored(receipt: Receipt, folder: Path) -> list[dict[str, Any]]:
    path = fetch(receipt, folder) / "dialogues.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_sources_are_joined_and_repeated_by_weight(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text("".join(json.dumps(fields) + "\n" for fields in DIALOGUES))
    second.write_text('{"prompt": "é?", "completion": "e"}\n{"prompt": 3}\n')
    data = section(
        {"kind": "jsonl", "name": "chat", "root": str(first), "weight": 2},
        {"kind": "jsonl", "name": "pairs", "root": str(second)},
    )

    receipt = collect_dialogues(data=data, storage=str(tmp_path / "storage"))

    lines = stored(receipt, tmp_path)
    assert [(line["source"], line["origin"]) for line in lines] == [
        ("chat", "first.jsonl:1"),
        ("chat", "first.jsonl:2"),
        ("chat", "first.jsonl:3"),
    ] * 2 + [("pairs", "second.jsonl:1")]
    assert lines[1]["messages"] == DIALOGUES[1]["messages"]
    sources = receipt.metadata["sources"]
    assert sources["chat"] == {"dialogues": 3, "repeated": 6, "unreadable": 0}
    assert sources["pairs"]["unreadable"] == 1
    assert "second.jsonl:2" in sources["pairs"]["unreadable_first"][0]


def test_no_sources_make_an_empty_file_that_is_found_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = collect_dialogues(data=section(), storage=str(tmp_path))
    again = collect_dialogues(data=section(), storage=str(tmp_path))

    assert stored(first, tmp_path) == []
    assert again == first
    assert "mix: unchanged" in capsys.readouterr().err


def test_a_dialogue_cannot_be_repeated_half_a_time(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'expr' has weight 1\.5.*whole number"):
        collect_dialogues(data=section({"kind": "expressions", "name": "expr", "weight": 1.5}), storage=str(tmp_path))


def test_a_record_that_is_no_dialogue_counts_as_unreadable_and_too_many_stop_the_run(tmp_path: Path) -> None:
    path, storage = tmp_path / "chat.jsonl", str(tmp_path / "storage")
    good = "".join(json.dumps(fields) + "\n" for fields in DIALOGUES)
    path.write_text(good + '{"prompt": "alone"}\n' * 11)
    data = section({"kind": "jsonl", "name": "chat", "root": str(path)})

    with pytest.raises(RecipeError, match=r"'chat': 11 of 14 records cannot be read.*chat\.jsonl:4 \("):
        collect_dialogues(data=data, storage=storage)
    assert not list(tmp_path.rglob(MANIFEST_NAME))
    path.write_text(good + '{"prompt": "alone"}\n' * 10)
    assert collect_dialogues(data=data, storage=storage).metadata["sources"]["chat"]["unreadable"] == 10


def test_only_what_is_in_the_file_makes_another_one(tmp_path: Path) -> None:
    path = tmp_path / "chat.jsonl"
    path.write_text(json.dumps(DIALOGUES[0]) + "\n")

    def key(**changes: Any) -> str:
        data = section({"kind": "jsonl", "name": "chat", "root": str(path), **changes})
        return collect_dialogues(data=data, storage=str(tmp_path / "storage")).key

    first = key()
    assert key(available_records=5, available_tokens=100) == first
    assert key(weight=2) != first
    path.write_text(json.dumps(DIALOGUES[1]) + "\n")
    assert key() != first

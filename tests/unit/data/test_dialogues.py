"""Dialogues of both formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lemur.data.dialogues import as_messages
from lemur.data.mixing import collect_dialogues
from lemur.errors import RecipeError
from lemur.receipt import Receipt
from lemur.recipe import DataSection
from lemur.results import fetch


def messages(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def section(*dialogues: dict[str, Any]) -> DataSection:
    return DataSection.model_validate(
        {"sources": [{"kind": "python_docs", "name": "docs"}], "sequence_length": 8, "dialogues": list(dialogues)}
    )


def stored(receipt: Receipt, folder: Path) -> list[dict[str, Any]]:
    path = fetch(receipt, folder) / "dialogues.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


GOOD = [
    messages(("user", "hi"), ("assistant", "hello")),
    messages(("system", "be kind"), ("user", "hi"), ("assistant", "run"), ("tool", "42"), ("assistant", "42")),
    messages(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")),
]
BAD = [
    (messages(), "last message is by nobody"),
    (messages(("user", "hi")), "last message is by user"),
    (messages(("assistant", "hi")), "message 0 has role 'assistant' where system or user"),
    (messages(("user", "hi"), ("system", "no"), ("assistant", "x")), "message 1 has role 'system'"),
    (messages(("user", "hi"), ("user", "again"), ("assistant", "x")), "where assistant belongs"),
    (messages(("human", "hi"), ("assistant", "x")), "role 'human'"),
    (messages(("user", "hi"), ("assistant", " ")), r"message 1 \(assistant\) has no text"),
    (messages(("user", None), ("assistant", "x")), "has no text"),
    (messages(("user", "\ud800"), ("assistant", "x")), "surrogate"),
    ({"messages": "hi"}, "no list but str"),
    ({"messages": ["hi"]}, "role None"),
    ({"prompt": "hi"}, "fields prompt"),
]


@pytest.mark.parametrize("fields", GOOD)
def test_messages_are_kept_as_they_are(fields: dict[str, Any]) -> None:
    assert as_messages({**fields, "id": 7}) == fields["messages"]


def test_a_prompt_and_its_completion_become_two_messages() -> None:
    fields = {"prompt": "2+2?", "completion": "4", "messages": None}

    assert as_messages(fields) == messages(("user", "2+2?"), ("assistant", "4"))["messages"]


@pytest.mark.parametrize(("fields", "reason"), BAD)
def test_what_is_no_dialogue_is_refused_with_the_reason(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        as_messages(fields)


def test_sources_are_joined_and_repeated_by_weight(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text("".join(json.dumps(fields) + "\n" for fields in GOOD))
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
    assert lines[1]["messages"] == GOOD[1]["messages"]
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

"""Dialogues of both formats."""

from __future__ import annotations

from typing import Any

import pytest

from lemur.data.dialogues.messages import as_messages


def messages(*turns: tuple[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


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

"""Dialogues of both formats."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lemur.data.dialogues.messages import as_dialogue


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
    assert as_dialogue({**fields, "id": 7}) == fields


def test_a_prompt_and_its_completion_become_two_messages() -> None:
    fields = {"prompt": "2+2?", "completion": "4", "messages": None}

    assert as_dialogue(fields) == messages(("user", "2+2?"), ("assistant", "4"))


@pytest.mark.parametrize(("fields", "reason"), BAD)
def test_what_is_no_dialogue_is_refused_with_the_reason(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        as_dialogue(fields)


def call(name: str = "add", arguments: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments or {"a": 1}}, **fields}


def called(
    calls: Any, *after: dict[str, Any], content: Any = None, tools: Any = None, last: str = "done"
) -> dict[str, Any]:
    said = {"role": "assistant", "content": content, "tool_calls": calls}
    ending = [{"role": "assistant", "content": last}] if after else []
    return {"messages": [{"role": "user", "content": "hi"}, said, *after, *ending], "tools": tools}


RESULT = {"role": "tool", "content": "3"}
SCHEMA = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}


def test_calls_results_and_tools_are_kept_and_arguments_become_objects() -> None:
    fields = called(
        [call(arguments='{"a": "\u00e9", "b": [1, 2.5]}', id="c1")],
        {**RESULT, "name": "add", "tool_call_id": "c1", "unknown": 1},
        tools=[SCHEMA],
    )

    made = as_dialogue(fields)

    assert made["messages"][1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [call(arguments={"a": "\u00e9", "b": [1, 2.5]}, id="c1")],
    }
    assert made["messages"][2] == {**RESULT, "name": "add", "tool_call_id": "c1"}
    assert made["tools"] == [SCHEMA]


@pytest.mark.parametrize(
    "tools",
    [[SCHEMA["function"]], json.dumps([SCHEMA]), [{"function": SCHEMA["function"]}]],
    ids=["bare", "text", "untyped"],
)
def test_tools_may_be_written_shorter_or_as_text(tools: Any) -> None:
    assert as_dialogue(called([call()], RESULT, tools=tools))["tools"] == [SCHEMA]


@pytest.mark.parametrize("tools", [None, [], ""])
def test_no_tools_are_no_field(tools: Any) -> None:
    assert "tools" not in as_dialogue(called([call()], tools=tools))


def test_parts_of_text_become_one() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]

    assert as_dialogue(messages(("user", parts), ("assistant", "c")))["messages"][0]["content"] == "ab"


def test_a_tool_may_answer_nothing_and_a_dialogue_may_end_with_a_call() -> None:
    assert as_dialogue(called([call()], {"role": "tool", "content": ""}))["messages"][2]["content"] == ""
    assert as_dialogue(called([call()]))["messages"][-1]["tool_calls"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (called("add"), r"message 1 \(assistant\) has tool_calls that are no list but str"),
        (called([{"name": "add"}]), r"message 1 \(assistant\), tool_calls\[0\] is no call of a function; write"),
        (called([call(), call(name=" ")]), r"tool_calls\[1\] has name ' '; name the function"),
        (called([call(arguments="{a: 1}")]), r"tool_calls\[0\]: arguments are no JSON: Expecting property name"),
        (called([call(arguments="[1]")]), "arguments hold list where JSON of an object belongs"),
        (called([call(arguments=[1])]), "arguments are no object but list; write an object"),
        (called([call(arguments={"a": "\ud800"})]), r"message 1 \(assistant\) holds half of a surrogate"),
        (called([]), r"message 1 \(assistant\) has no text, and no tool_calls"),
        (called([call()], {"role": "user", "content": "?"}), r"calls add, and a user speaks next; put the result"),
        (called([call(id="c1")], {**RESULT, "tool_call_id": "c2"}), r"tool_call_id 'c2', .* before it have 'c1'"),
        (called([call()], {**RESULT, "name": 3}), r"message 2 \(tool\) has name 3, and it must be a string"),
        (called([call()], tools={"add": 1}), "`tools` is no list but dict"),
        (called([call()], tools="[{"), "`tools` are no JSON"),
        (called([call()], tools=[{"type": "retrieval"}]), "tool 0 of `tools` is no function; write"),
        (called([call()], tools=[SCHEMA, SCHEMA]), "lists 'add' twice"),
        (called([call(name="sub")], tools=[SCHEMA]), "tool_calls name sub, which `tools` does not list"),
        (messages(("user", [{"type": "image"}]), ("assistant", "x")), "nor a list of parts of type `text`"),
    ],
)
def test_bad_calls_and_tools_are_refused_with_their_place_and_a_remedy(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        as_dialogue(fields)

"""Dialogues for tuning: both of the original's formats, and tool calls as the OpenAI API writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from lemur.data.dialogues.tools import read_calls, read_tools

FOLLOWS = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
"""Roles that may come after a role; `None` stands for the beginning."""


def as_dialogue(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record as a dialogue.

    Args:
        fields: `messages`, a list of objects with `role` and `content`, and perhaps `tools`; or `prompt` and
            `completion`, two texts, which become a user's and an assistant's message. Other fields are ignored.

    Returns:
        `messages`: perhaps one of the system, then user and assistant in turn, where an assistant may be answered by
        tools; the last one is the assistant's. Each has `role` and `content`; the assistant's perhaps `tool_calls`, a
        tool's perhaps `name` and `tool_call_id`. And `tools`, schemas of functions, where there are any.

    Raises:
        ValueError: It is no such dialogue; names the field and says what would be right.
    """
    messages = _messages(fields)
    result: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        result.append(_checked(message, number, result[-1] if result else None))
    last = result[-1]["role"] if result else "nobody"
    if last != "assistant":
        raise ValueError(f"the last message is by {last}, and must be the assistant's; leave out what comes after it")
    _check_results(result)
    tools = read_tools(fields.get("tools"))
    called = {call["function"]["name"] for message in result for call in message.get("tool_calls", [])}
    unknown = called - {tool["function"]["name"] for tool in tools}
    if tools and unknown:
        raise ValueError(f"tool_calls name {', '.join(sorted(unknown))}, which `tools` does not list; add its schema")
    return {"messages": result, **({"tools": tools} if tools else {})}


def _messages(fields: Mapping[str, Any]) -> list[Any]:
    if fields.get("messages") is not None:
        messages = fields["messages"]
    elif fields.get("prompt") is not None and fields.get("completion") is not None:
        messages = [
            {"role": "user", "content": fields["prompt"]},
            {"role": "assistant", "content": fields["completion"]},
        ]
    else:
        present = ", ".join(fields) or "-"
        raise ValueError(f"neither `messages` nor `prompt` and `completion` among the fields {present}")
    if not isinstance(messages, list):
        raise ValueError(f"`messages` is no list but {type(messages).__name__}")
    return messages


def _checked(message: Any, number: int, previous: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns a message with the fields that count."""
    role = message.get("role") if isinstance(message, dict) else None
    follows = FOLLOWS[previous["role"] if previous else None]
    if role not in follows:
        expected = " or ".join(follows)
        raise ValueError(f"message {number} has role {role!r} where {expected} belongs")
    where = f"message {number} ({role})"
    calls = read_calls(message.get("tool_calls"), where) if role == "assistant" else []
    content = _text(message.get("content"), where)
    # A tool may have nothing to say, and an assistant that calls one need not say anything else.
    if not content.strip() and not calls and role != "tool":
        raise ValueError(f"{where} has no text" + (", and no tool_calls" if role == "assistant" else ""))
    checked = {"role": role, "content": content, **({"tool_calls": calls} if calls else {})}
    if role == "tool":
        checked |= {name: _name(message[name], name, where) for name in ("name", "tool_call_id") if message.get(name)}
    _check_encodable(checked, where)
    return checked


def _text(content: Any, where: str) -> str:
    """Returns what was said; parts of text, as the OpenAI API has them, become one."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    wrong = [part for part in parts if not (isinstance(part, dict) and part.get("type") == "text")]
    if wrong or not all(isinstance(part.get("text"), str) for part in parts):
        raise ValueError(f"{where} has no text: `content` is neither a string nor a list of parts of type `text`")
    return "".join(part["text"] for part in parts)


def _name(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} has {name} {value!r}, and it must be a string")
    return value


def _check_encodable(message: Mapping[str, Any], where: str) -> None:
    try:
        json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} holds half of a surrogate pair") from None


def _check_results(messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuses calls that are left open while the dialogue goes on, and results of calls that were not made."""
    made: list[Mapping[str, Any]] = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            made = message.get("tool_calls", [])
        if message["role"] == "user" and made:
            raise ValueError(
                f"message {number - 1} (assistant) calls {made[0]['function']['name']}, and a user speaks next; put "
                "the result in between, as a message with role `tool`"
            )
        known = [call["id"] for call in made if "id" in call]
        asked = message.get("tool_call_id") if message["role"] == "tool" else None
        if asked and known and asked not in known:
            raise ValueError(
                f"message {number} (tool) has tool_call_id {asked!r}, and the calls before it have "
                f"{', '.join(map(repr, known))}"
            )

"""Dialogues for tuning, both of the original's formats made one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FOLLOWS = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
"""Roles that may come after a role; `None` stands for the beginning."""


def as_messages(fields: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns a record as messages.

    Args:
        fields: `messages`, a list of objects with `role` and `content`; or `prompt` and `completion`, two texts, which
            become a user's and an assistant's message. Other fields are ignored.

    Returns:
        Messages with `role` and `content`: perhaps one of the system, then user and assistant in turn, where an
        assistant may be answered by tools; the last one is the assistant's.

    Raises:
        ValueError: It is no such dialogue; says why.
    """
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
    previous = None
    for number, message in enumerate(messages):
        previous = _checked_role(message, number, previous)
    if previous != "assistant":
        raise ValueError(f"the last message is by {previous or 'nobody'}, and must be the assistant's")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _checked_role(message: Any, number: int, previous: str | None) -> str:
    role = message.get("role") if isinstance(message, dict) else None
    if role not in FOLLOWS[previous]:
        expected = " or ".join(FOLLOWS[previous])
        raise ValueError(f"message {number} has role {role!r} where {expected} belongs")
    content = message.get("content")
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"message {number} ({role}) has no text")
    try:
        content.encode()
    except UnicodeEncodeError:
        raise ValueError(f"message {number} ({role}) holds half of a surrogate pair") from None
    return str(role)

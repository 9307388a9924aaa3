"""Tools in dialogues: schemas of functions, and calls of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_SCHEMA_FIELDS = ("name", "description", "parameters")
"""Fields of a function's schema in the order in which they are written; others come after them."""


def read_tools(tools: Any) -> list[dict[str, Any]]:
    """Returns schemas of functions as the OpenAI API has them.

    Args:
        tools: A list of `{"type": "function", "function": {"name", "description", "parameters"}}`, or of the functions
            alone; or such a list as JSON text. Parquet needs the text, since there every object of a column has all
            fields that any of them has.

    Raises:
        ValueError: It is no such list; names the entry.
    """
    if isinstance(tools, str):
        tools = _parsed(tools, "`tools`", list) if tools.strip() else []
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise ValueError(f"`tools` is no list but {type(tools).__name__}")
    read = [_tool(tool, f"tool {number}") for number, tool in enumerate(tools)]
    names = [tool["function"]["name"] for tool in read]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ValueError(f"`tools` lists {twice!r} twice; names must differ")
    return read


def read_calls(calls: Any, where: str) -> list[dict[str, Any]]:
    """Returns calls of functions, with arguments as objects.

    Args:
        calls: A list of `{"type": "function", "function": {"name", "arguments"}}`, perhaps with `id`; arguments are an
            object, or its JSON text.
        where: The message, for errors.

    Raises:
        ValueError: It is no such list; names the call.
    """
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise ValueError(f"{where} has tool_calls that are no list but {type(calls).__name__}")
    return [_call(call, f"{where}, tool_calls[{number}]") for number, call in enumerate(calls)]


def _tool(tool: Any, where: str) -> dict[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type", "function") not in ("function", None):
        raise ValueError(
            f"{where} of `tools` is no function; write "
            '{"type": "function", "function": {"name": …, "parameters": …}}'
        )
    _check_name(function, f"{where} of `tools`")
    schema = function.get("parameters")
    if schema is not None and not isinstance(schema, dict):
        raise ValueError(f"{where} of `tools` has parameters that are no JSON schema but {type(schema).__name__}")
    ordered = [*_SCHEMA_FIELDS, *(name for name in function if name not in (*_SCHEMA_FIELDS, "type"))]
    read = {"type": "function", "function": {name: function[name] for name in ordered if name in function}}
    try:
        json.dumps(read, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} of `tools` holds half of a surrogate pair") from None
    return read


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or call.get("type", "function") not in ("function", None):
        raise ValueError(
            f'{where} is no call of a function; write {{"type": "function", "function": {{"name": …, "arguments": …}}}}'
        )
    _check_name(function, where)
    given = function.get("arguments")
    if isinstance(given, str):
        given = _parsed(given, f"{where}: arguments", dict) if given.strip() else {}
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise ValueError(f"{where}: arguments are no object but {type(given).__name__}; write an object, or its JSON")
    identity = {"id": str(call["id"])} if call.get("id") else {}
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": given}}


def _check_name(function: Mapping[str, Any], where: str) -> None:
    name = function.get("name")
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{where} has name {name!r}; name the function")


def _parsed(text: str, where: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} are no JSON: {error}") from None
    if not isinstance(value, kind):
        wanted = "a list" if kind is list else "an object"
        raise ValueError(f"{where} hold {type(value).__name__} where JSON of {wanted} belongs")
    return value

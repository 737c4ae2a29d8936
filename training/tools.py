"""Tools that the model may call: their list in the prompt, calls and results.

Contract: `list_tools`, `write_call` and `write_result` write exactly the chat template's text for
OpenAI's `tools`, `tool_calls` and messages of the role `tool`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

TOOLS_START, TOOLS_END = "<tools>\n", "\n</tools>"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a tool: a JSON type, or its possible values."""

    name: str
    type: str
    enum: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """A function as the prompt lists it."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]


def list_tools(tools: Sequence[Tool]) -> str:
    """Writes the list at the end of the system turn: one JSON object a line, between tags."""
    return TOOLS_START + "\n".join(_describe(tool) for tool in tools) + TOOLS_END


def write_call(tool: Tool, arguments: dict[str, object]) -> str:
    """Writes the assistant's turn that calls `tool`."""
    call = json.dumps({"name": tool.name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{call}\n</tool_call>"


def write_result(result: str) -> str:
    """Writes the turn after the call, with the tool's result."""
    return f"<tool_response>\n{result}\n</tool_response>"


def to_openai(tool: Tool) -> dict[str, object]:
    """Returns `tool` as clients send it, with its first parameter required."""
    properties = {
        parameter.name: {"type": parameter.type}
        | ({"enum": list(parameter.enum)} if parameter.enum else {})
        for parameter in tool.parameters
    }
    required = [parameter.name for parameter in tool.parameters[:1]]
    schema = {"type": "object", "properties": properties, "required": required}
    function = {"name": tool.name, "description": tool.description, "parameters": schema}
    return {"type": "function", "function": function}


def _describe(tool: Tool) -> str:
    """Returns a parameter's type or values alone, as every token of the list counts."""
    parameters = {p.name: list(p.enum) or p.type for p in tool.parameters}
    line = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return json.dumps(line, ensure_ascii=False)

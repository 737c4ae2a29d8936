"""Gemma 4's format: a call like a function's, with arguments in a dialect of JSON."""

from src.tool_calling.bare_keys import QUOTE, BareKeyArguments
from src.tool_calling.format import NAME, ToolCallFormat

GEMMA4 = ToolCallFormat(
    name="gemma4",
    tag="<|tool_call>",
    begin=(),
    head=(f"call:{NAME}",),
    arguments=BareKeyArguments(),
    tail=(),
    separator=("<tool_call|><|tool_call>",),
    end=("<tool_call|>",),
    markers=("<|tool_call>", "<tool_call|>", QUOTE),
)

"""Llama 3's format: an answer that is a JSON object; one call alone."""

from src.tool_calling.format import ToolCallFormat, json_head

LLAMA3 = ToolCallFormat(
    name="llama3",
    tag="",
    begin=(),
    head=json_head("parameters"),
    tail=("}",),
    separator=None,
    end=(),
)

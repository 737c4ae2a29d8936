"""Hermes' format, also Qwen2.5's and Qwen3's: JSON objects between tags."""

from src.tool_calling.format import ToolCallFormat, json_head

HERMES = ToolCallFormat(
    name="hermes",
    tag="<tool_call>",
    begin=("\n",),
    head=json_head("arguments"),
    tail=("}",),
    separator=("\n</tool_call>\n<tool_call>\n",),
    end=("\n</tool_call>",),
    markers=("<tool_call>", "</tool_call>"),
)

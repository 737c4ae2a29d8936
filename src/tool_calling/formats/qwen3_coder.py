"""Qwen3-Coder's and Qwen3.5's format: parameters between XML-like tags."""

from src.tool_calling.format import NAME, ToolCallFormat
from src.tool_calling.tagged import KEY, TaggedArguments

QWEN3_CODER = ToolCallFormat(
    name="qwen3_coder",
    tag="<tool_call>",
    begin=("\n",),
    head=(f"<function={NAME}>\n",),
    arguments=TaggedArguments(f"<parameter={KEY}>\n", "\n</parameter>\n"),
    tail=("</function>",),
    separator=("\n</tool_call>\n<tool_call>\n",),
    end=("\n</tool_call>",),
    markers=("<tool_call>", "</tool_call>"),
)

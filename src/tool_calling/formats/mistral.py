"""Mistral's formats: a JSON array (v3 and v7), or names and arguments by themselves (v11 on).

The versions are those of the tokenizers in mistral-common.
"""

from src.tool_calling.format import NAME, SHORT_ID, SPACE, ToolCallFormat, json_head

TAG = "[TOOL_CALLS]"

MISTRAL_V3 = ToolCallFormat(
    name="mistral_v3",
    tag=TAG,
    begin=(SPACE, "["),
    head=json_head("arguments"),
    tail=("}",),
    separator=(",", SPACE),
    end=("]",),
    markers=(TAG,),
)
MISTRAL_V11 = ToolCallFormat(
    name="mistral_v11",
    tag=TAG,
    begin=(),
    head=(f"{NAME}[CALL_ID]", SHORT_ID, "[ARGS]"),
    tail=(),
    separator=(TAG,),
    end=(),
    markers=(TAG, "[CALL_ID]", "[ARGS]"),
)
MISTRAL_V13 = ToolCallFormat(
    name="mistral_v13",
    tag=TAG,
    begin=(),
    head=(f"{NAME}[ARGS]",),
    tail=(),
    separator=(TAG,),
    end=(),
    markers=(TAG, "[ARGS]"),
)

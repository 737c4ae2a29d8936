"""Formats of tool calls, one module for each family of models."""

from src.tool_calling.formats.deepseek import DEEPSEEK_V3, DEEPSEEK_V31
from src.tool_calling.formats.gemma4 import GEMMA4
from src.tool_calling.formats.glm import GLM45, GLM47
from src.tool_calling.formats.hermes import HERMES
from src.tool_calling.formats.llama3 import LLAMA3
from src.tool_calling.formats.mistral import MISTRAL_V3, MISTRAL_V11, MISTRAL_V13
from src.tool_calling.formats.qwen3_coder import QWEN3_CODER

FORMATS = {
    tool_format.name: tool_format
    for tool_format in (
        *(HERMES, QWEN3_CODER, GLM45, GLM47),
        *(MISTRAL_V3, MISTRAL_V11, MISTRAL_V13),
        *(DEEPSEEK_V3, DEEPSEEK_V31, GEMMA4, LLAMA3),
    )
}
"""All formats by their names, in the order in which detection tries them."""

"""Formats of tool calls, one module for each family of models."""

from src.tool_calling.formats.hermes import HERMES
from src.tool_calling.formats.llama3 import LLAMA3

FORMATS = {tool_format.name: tool_format for tool_format in (HERMES, LLAMA3)}
"""All formats by their names, in the order in which detection tries them."""

"""GLM's formats: the name, then keys and values between tags. GLM-4.7 leaves out line ends."""

from src.tool_calling.format import NAME, ToolCallFormat
from src.tool_calling.tagged import KEY, TaggedArguments

MARKERS = (
    *("<tool_call>", "</tool_call>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
)

GLM45 = ToolCallFormat(
    name="glm45",
    tag="<tool_call>",
    begin=(),
    head=(f"{NAME}\n",),
    arguments=TaggedArguments(f"<arg_key>{KEY}</arg_key>\n<arg_value>", "</arg_value>\n"),
    tail=(),
    separator=("</tool_call>\n<tool_call>",),
    end=("</tool_call>",),
    markers=MARKERS,
)
GLM47 = ToolCallFormat(
    name="glm47",
    tag="<tool_call>",
    begin=(),
    head=(NAME,),
    arguments=TaggedArguments(f"<arg_key>{KEY}</arg_key><arg_value>", "</arg_value>"),
    tail=(),
    separator=("</tool_call><tool_call>",),
    end=("</tool_call>",),
    markers=MARKERS,
)

"""DeepSeek's formats: V3 puts the arguments into a block of Markdown, V3.1 behind the name."""

from src.tool_calling.format import NAME, ToolCallFormat


def _token(name: str) -> str:
    """Returns one of DeepSeek's tokens, which have fullwidth bars in their brackets."""
    return f"<\uff5c{name}\uff5c>"


BEGIN, END = _token("tool▁calls▁begin"), _token("tool▁calls▁end")
CALL, CALL_END, NEXT = _token("tool▁call▁begin"), _token("tool▁call▁end"), _token("tool▁sep")
MARKERS = (BEGIN, END, CALL, CALL_END, NEXT)

DEEPSEEK_V3 = ToolCallFormat(
    name="deepseek_v3",
    tag=BEGIN,
    begin=(CALL,),
    head=(f"function{NEXT}{NAME}\n```json\n",),
    tail=(f"\n```{CALL_END}",),
    separator=(f"\n{CALL}",),
    end=(END,),
    markers=MARKERS,
)
DEEPSEEK_V31 = ToolCallFormat(
    name="deepseek_v31",
    tag=BEGIN,
    begin=(CALL,),
    head=(f"{NAME}{NEXT}",),
    tail=(CALL_END,),
    separator=(CALL,),
    end=(END,),
    markers=MARKERS,
)

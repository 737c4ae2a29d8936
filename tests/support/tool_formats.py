"""Chat templates that write calls as each family of models does, and parsers by transformers."""

from dataclasses import dataclass

LISTING = """
{%- if tools %}{{ '<tools>' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}
{%- for m in messages %}{{ m.role ~ ': ' ~ m.content }}
{%- for c in m.tool_calls or [] %}{% set f = c.function %}CALL{% endfor %}{% endfor %}"""
"""A template; CALL stands for the text of a call."""

NAMED = {"type": "function", "function": {"name": "{name}", "arguments": "{content}"}}
WHOLE = {"type": "function", "function": "{content}"}


@dataclass(frozen=True)
class Format:
    """Form of the calls of a family of models.

    Args:
        call: Jinja of a call `f` in a loop over calls.
        calls: fields of transformers' `response_template` for calls; None if it has no parser.
        example: a call of `clock` without arguments, and one of `weather`.
    """

    call: str
    example: str
    calls: dict[str, object] | None = None

    @property
    def template(self) -> str:
        return LISTING.replace("CALL", self.call)

    @property
    def response_template(self) -> dict[str, object]:
        calls = {"repeats": True} | (self.calls or {})
        content = {"content": "text", "content_args": {"strip": False}}
        return {"start_anchor": "<never>", "fields": {"tool_calls": calls, "content": content}}


def json_calls(begin: str, end: str, separator: str, key: str = "arguments") -> str:
    """Returns Jinja of calls that are JSON objects of name and arguments."""
    return (
        "{{ ('" + begin + "' if loop.first else '" + separator + "') ~ '{\"name\": \"' ~ f.name"
        ' ~ \'", "' + key + "\": ' ~ f.arguments | tojson ~ '}' }}"
        "{{ '" + end + "' if loop.last else '' }}"
    )


def parameters(before: str, between: str, after: str) -> str:
    """Returns Jinja of arguments that are parameters between tags."""
    return (
        "{% for k, v in f.arguments | items %}{{ '" + before + "' ~ k ~ '" + between + "'"
        " ~ (v if v is string else v | tojson) ~ '" + after + "' }}{% endfor %}"
    )


def bracketed(*pieces: str) -> str:
    """Returns Jinja of a call of name and arguments with texts around them."""
    before, between, after = pieces
    return (
        "{{ '"
        + before
        + "' ~ f.name ~ '"
        + between
        + "' ~ f.arguments | tojson ~ '"
        + after
        + "' }}"
    )


DS = {
    name: f"<\uff5ctool\u2581{name.replace('_', chr(0x2581))}\uff5c>"
    for name in ("calls_begin", "calls_end", "call_begin", "call_end", "sep")
}
"""DeepSeek's tokens."""

GEMMA_VALUE = (
    "{% macro value(v) %}{% if v is string %}{{ '<|\"|>' ~ v ~ '<|\"|>' }}"
    "{% elif v is mapping %}{{ '{' }}{% for k, w in v | items %}{{ k ~ ':' ~ value(w) }}"
    "{{ ',' if not loop.last else '' }}{% endfor %}{{ '}' }}"
    "{% elif v is sequence %}{{ '[' }}{% for w in v %}{{ value(w) }}"
    "{{ ',' if not loop.last else '' }}{% endfor %}{{ ']' }}"
    "{% else %}{{ v | tojson }}{% endif %}{% endmacro %}"
)


def deepseek(head: str, between: str, tail: str, separator: str) -> str:
    """Returns Jinja of DeepSeek's calls, which want arguments as text."""
    begin = DS["calls_begin"]
    return (
        "{{ ('"
        + begin
        + "' if loop.first else '"
        + separator
        + "') ~ '"
        + DS["call_begin"]
        + head
        + "' ~ f.name + '"
        + between
        + "' + f.arguments + '"
        + tail
        + DS["call_end"]
        + "' }}"
        "{{ '" + DS["calls_end"] + "' if loop.last else '' }}"
    )


FORMATS = {
    "hermes": Format(
        json_calls("<tool_call>\\n", "\\n</tool_call>", "\\n</tool_call>\\n<tool_call>\\n"),
        '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>',
        {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "content": "json",
            "transform": WHOLE,
        },
    ),
    "qwen3_coder": Format(
        "{{ ('' if loop.first else '\\n') ~ '<tool_call>\\n<function=' ~ f.name ~ '>\\n' }}"
        + parameters("<parameter=", ">\\n", "\\n</parameter>\\n")
        + "{{ '</function>\\n</tool_call>' }}",
        "<tool_call>\n<function=clock>\n</function>\n</tool_call>",
        {
            "open_pattern": r"\s*<tool_call>\s*<function=(?P<name>[^>\n]+)>",
            "close_pattern": r"</function>\s*</tool_call>",
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\n(?P<value>.*?)\n</parameter>"
            },
            "transform": NAMED,
        },
    ),
    "glm45": Format(
        "{{ ('' if loop.first else '\\n') ~ '<tool_call>' ~ f.name ~ '\\n' }}"
        + parameters("<arg_key>", "</arg_key>\\n<arg_value>", "</arg_value>\\n")
        + "{{ '</tool_call>' }}",
        "<tool_call>clock\n</tool_call>",
        {
            "open_pattern": r"\s*<tool_call>(?P<name>[^<\n]+)\n",
            "close": "</tool_call>",
            "content": "xml-inline",
            "content_args": {
                "tag_pattern": r"<arg_key>(?P<key>.*?)</arg_key>\n"
                r"<arg_value>(?P<value>.*?)</arg_value>"
            },
            "transform": NAMED,
        },
    ),
    "glm47": Format(
        "{{ '<tool_call>' ~ f.name }}"
        + parameters("<arg_key>", "</arg_key><arg_value>", "</arg_value>")
        + "{{ '</tool_call>' }}",
        "<tool_call>clock</tool_call>",
    ),
    "mistral_v3": Format(
        json_calls("[TOOL_CALLS] [", "]", ", "),
        '[TOOL_CALLS][{"name": "clock", "arguments": {}}]',
        {
            "open_pattern": r"\[TOOL_CALLS\]",
            "content": "json",
            "transform": NAMED | {"function": {"name": "{name}", "arguments": "{arguments}"}},
            "transform_each": True,
            "repeats": False,
        },
    ),
    "mistral_v11": Format(
        "{{ '[TOOL_CALLS]' ~ f.name ~ '[CALL_ID]' ~ c.id ~ '[ARGS]' ~ f.arguments | tojson }}",
        "[TOOL_CALLS]clock[CALL_ID]a1B2c3D4e[ARGS]{}",
    ),
    "mistral_v13": Format(
        "{{ '[TOOL_CALLS]' ~ f.name ~ '[ARGS]' ~ f.arguments | tojson }}",
        "[TOOL_CALLS]clock[ARGS]{}",
        {
            "open_pattern": r"\[TOOL_CALLS\](?P<name>[^\[]+)\[ARGS\]",
            "close_pattern": r"(?=\[TOOL_CALLS\])",
            "content": "json",
            "transform": NAMED,
        },
    ),
    "deepseek_v3": Format(
        deepseek("function" + DS["sep"], "\\n```json\\n", "\\n```", "\\n"),
        f"{DS['calls_begin']}{DS['call_begin']}function{DS['sep']}clock\n```json\n{{}}\n```"
        f"{DS['call_end']}{DS['calls_end']}",
        {
            "open_pattern": f"({DS['calls_begin']})?\\s*{DS['call_begin']}"
            f"function{DS['sep']}(?P<name>[^\n]+)\n```json",
            "close_pattern": f"```{DS['call_end']}({DS['calls_end']})?",
            "content": "json",
            "transform": NAMED,
        },
    ),
    "deepseek_v31": Format(
        deepseek("", DS["sep"], "", ""),
        f"{DS['calls_begin']}{DS['call_begin']}clock{DS['sep']}{{}}{DS['call_end']}{DS['calls_end']}",
        {
            "open_pattern": f"({DS['calls_begin']})?{DS['call_begin']}(?P<name>[^<]+){DS['sep']}",
            "close_pattern": f"{DS['call_end']}({DS['calls_end']})?",
            "content": "json",
            "transform": NAMED,
        },
    ),
    "gemma4": Format(
        "{{ '<|tool_call>call:' ~ f.name ~ value(f.arguments) ~ '<tool_call|>' }}",
        "<|tool_call>call:clock{}<tool_call|>",
        {
            "open_pattern": r"<\|tool_call>call:(?P<name>\w+)",
            "close": "<tool_call|>",
            "content": "json",
            "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
            "transform": NAMED,
        },
    ),
    "llama3": Format(
        json_calls("", "", "", key="parameters"),
        '{"name": "clock", "parameters": {}}',
    ),
}
TEMPLATES = {name: GEMMA_VALUE + known.template for name, known in FORMATS.items()}

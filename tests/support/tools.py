"""Tools that tests of every API tell of, and models that call them by the rules or by heart."""

import json

from jsonschema import Draft202012Validator

WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Rome", "Oslo"]},
        "days": {"type": "integer", "minimum": 0, "maximum": 9},
        "note": {"type": "string", "maxLength": 3},
    },
    "required": ["city", "note"],
    "additionalProperties": False,
}
SCHEMAS = {"weather": WEATHER, "clock": {"type": "object", "maxProperties": 0}}
QUESTION = {"role": "user", "content": "How is it?"}

HERMES_TEMPLATE = """
{%- if tools %}{{ '<tools>' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}
{%- for m in messages %}{{ m.role ~ ': ' ~ m.content }}
{%- for c in m.tool_calls or [] %}{{ '<tool_call>\n{"name": "' ~ c.function.name }}
{{- '", "arguments": ' ~ c.function.arguments | tojson ~ '}\n</tool_call>' }}{% endfor %}
{%- endfor %}"""
LLAMA3_TEMPLATE = (
    HERMES_TEMPLATE.replace("<tool_call>\\n", "")
    .replace("\\n</tool_call>", "")
    .replace('"arguments"', '"parameters"')
)
TEMPLATES = {"hermes": HERMES_TEMPLATE, "llama3": LLAMA3_TEMPLATE}

# The prompt of a model that recites is one token; with tools it would be more.
RECITING_TEMPLATE = (
    "a{% if tools and tools[0].function.name == 'probe_tool' %}probe_tool{% endif %}"
)
WROTE = 'See <tool: <tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'


# The prompt of a reciting model is one token, unless thinking is turned off.
THINKING_TEMPLATE = (
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% else %}"
    + RECITING_TEMPLATE
    + "{% endif %}"
)
OPEN_TEMPLATE = "{{ '<think>' }}"
LEVELS_TEMPLATE = """
{%- for m in messages %}{{ m.role ~ ':' }}
{%- if m.reasoning_content %}{{ '<think>' ~ m.reasoning_content ~ '</think>' }}{% endif %}
{{- m.content ~ '\n' }}{% endfor %}{{ reasoning_effort or '' }}
{%- if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"""


def assert_fits(name: str, arguments: str | dict) -> None:
    """A call's arguments are what its tool takes."""
    read = json.loads(arguments) if isinstance(arguments, str) else arguments
    Draft202012Validator(SCHEMAS[name]).validate(read)

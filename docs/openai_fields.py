"""Tables of request fields in docs/openai.md and docs/anthropic.md, with the treatment of each."""

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from src.api.anthropic.blocks import (
    MessageTurn,
    RedactedThinkingBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from src.api.anthropic.request import (
    CountTokensRequest,
    MessageRequest,
    OutputConfig,
    OutputFormat,
    Thinking,
    ToolChoiceConfig,
    ToolDefinition,
)
from src.api.fields.bounds import StructuredOutputs
from src.api.fields.shared import NoEffect, Refused
from src.api.openai.batches.schemas import BatchRequest
from src.api.openai.chat.messages import ChatTurn, TextPart
from src.api.openai.chat.request import ChatCompletionRequest, JsonSchemaFormat, ResponseFormat
from src.api.openai.chat.tools import (
    AllowedFunctions,
    AllowedToolsChoice,
    CalledFunction,
    FunctionDefinition,
    FunctionReference,
    FunctionTool,
    MessageCall,
    NamedToolChoice,
)
from src.api.openai.completions.schemas import CompletionRequest
from src.api.openai.decisions.schemas import (
    DecisionChoice,
    DecisionItem,
    DecisionLevel,
    DecisionPart,
    DecisionQuestion,
    DecisionRequest,
)
from src.api.openai.embeddings.schemas import EmbeddingRequest
from src.api.openai.fields import StreamOptions
from src.api.openai.files.schemas import ExpiresAfter
from src.api.openai.ranking.schemas import RerankRequest, ScoreRequest
from src.api.openai.responses.items import (
    FunctionCallItem,
    FunctionOutputItem,
    InputPart,
    ReasoningItem,
    ReasoningText,
    ResponseInputMessage,
)
from src.api.openai.responses.request import (
    AllowedResponseTools,
    NamedResponseTool,
    ReasoningConfig,
    ResponseRequest,
    ResponseStreamOptions,
    ResponseTool,
    TextConfig,
    TextFormat,
)
from src.api.openai.tokenize import DetokenizeRequest, TokenizeRequest

REQUESTS: dict[str, type[BaseModel]] = {
    "`POST /v1/completions`": CompletionRequest,
    "`POST /v1/chat/completions`": ChatCompletionRequest,
    "Each of a chat's `messages`": ChatTurn,
    "Each part of a message's `content`": TextPart,
    "Each of a message's `tool_calls`": MessageCall,
    "Its `function`": CalledFunction,
    "Each of a chat's `tools`": FunctionTool,
    "A tool's `function`": FunctionDefinition,
    "A chat's `tool_choice`, if it names a tool": NamedToolChoice,
    "Its only `function`": FunctionReference,
    "A chat's `tool_choice` of the type `allowed_tools`": AllowedToolsChoice,
    "Its `allowed_tools`": AllowedFunctions,
    "`structured_outputs`": StructuredOutputs,
    "A chat's `response_format`": ResponseFormat,
    "Its `json_schema`": JsonSchemaFormat,
    "`stream_options`": StreamOptions,
    "`POST /v1/responses`": ResponseRequest,
    "Each message of a response's `input`": ResponseInputMessage,
    "Each of its parts": InputPart,
    "Each `function_call` of a response's `input`": FunctionCallItem,
    "Each `function_call_output`": FunctionOutputItem,
    "Each `reasoning` of a response's `input`": ReasoningItem,
    "Each part of its `content` or `summary`": ReasoningText,
    "`reasoning` of a response": ReasoningConfig,
    "Each of a response's `tools`": ResponseTool,
    "A response's `tool_choice`, if it names a tool": NamedResponseTool,
    "A response's `tool_choice` of the type `allowed_tools`": AllowedResponseTools,
    "`text`": TextConfig,
    "Its `format`": TextFormat,
    "`stream_options` of a response": ResponseStreamOptions,
    "`POST /v1/embeddings`": EmbeddingRequest,
    "`POST /v1/rerank`, `/rerank`, `/v2/rerank`": RerankRequest,
    "`POST /v1/score`, `/score`": ScoreRequest,
    "`POST /v1/decisions`": DecisionRequest,
    "Each item of a decision's `input`": DecisionItem,
    "Each part of its content": DecisionPart,
    "Each of a decision's `questions`": DecisionQuestion,
    "Each of its `choices`": DecisionChoice,
    "Each of its `levels`": DecisionLevel,
    "`POST /v1/batches`": BatchRequest,
    "Its `output_expires_after`": ExpiresAfter,
    "`POST /tokenize`": TokenizeRequest,
    "`POST /detokenize`": DetokenizeRequest,
}
ANTHROPIC_REQUESTS: dict[str, type[BaseModel]] = {
    "`POST /v1/messages`": MessageRequest,
    "`POST /v1/messages/count_tokens`": CountTokensRequest,
    "Each of `messages`": MessageTurn,
    "Each block of text": TextBlock,
    "Each `tool_use`": ToolUseBlock,
    "Each `tool_result`": ToolResultBlock,
    "Each `thinking` block": ThinkingBlock,
    "Each `redacted_thinking` block": RedactedThinkingBlock,
    "`thinking`": Thinking,
    "Each of `tools`": ToolDefinition,
    "`tool_choice`": ToolChoiceConfig,
    "`output_config`": OutputConfig,
    "Its `format`": OutputFormat,
}
ORDER = ("honoured", "no effect", "refused")


def openai_table() -> str:
    """Creates a table for each request model of OpenAI's API."""
    return _tables(REQUESTS)


def anthropic_table() -> str:
    """Creates a table for each request model of Anthropic's API."""
    return _tables(ANTHROPIC_REQUESTS)


def _tables(requests: dict[str, type[BaseModel]]) -> str:
    return "\n".join(f"### {title}\n\n{_table(kind)}" for title, kind in requests.items())


def _table(kind: type[BaseModel]) -> str:
    schema = kind.model_json_schema()
    rows = []
    for field_name, field in kind.model_fields.items():
        name = field.alias or field_name
        treatment, reason = _treatment(field)
        values = _values(schema["properties"][name], schema.get("$defs", {}))
        rows.append((ORDER.index(treatment), f"| `{name}` | {treatment} | {values} | {reason} |"))
    ordered = [row for _, row in sorted(rows, key=lambda pair: pair[0])]
    return "\n".join(["| Field | | Values | |", "|---|---|---|---|", *ordered]) + "\n"


def _treatment(field: FieldInfo) -> tuple[str, str]:
    """Returns a field's treatment, and the reason or its description."""
    for mark in field.metadata:
        if isinstance(mark, NoEffect):
            return "no effect", mark.why
        if isinstance(mark, Refused):
            return "refused", mark.why
    return "honoured", field.description or ""


def _values(schema: dict, definitions: dict) -> str:
    """Describes the values of a JSON schema, without null, which means the same as no value."""
    if "anyOf" in schema:
        parts = [_values(part, definitions) for part in schema["anyOf"]]
        return " or ".join(dict.fromkeys(part for part in parts if part))
    if "$ref" in schema:
        return "object"
    if "const" in schema or "enum" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{str(value).lower()}`" for value in values)
    kind = schema.get("type", "any")
    if kind == "null":
        return ""
    if kind == "array":
        items = _values(schema["items"], definitions)
        return f"list of ({items})" if " or " in items else f"list of {items}"
    return ", ".join([_word(kind), *_bounds(schema)])


def _word(kind: str) -> str:
    return {"string": "text", "boolean": "`true`, `false`"}.get(kind, kind)


def _bounds(schema: dict) -> list[str]:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return [f"{sign} {schema[key]}" for key, sign in signs.items() if key in schema]

"""Routes `/tokenize`, `/detokenize` and `/tokenizer_info`, in vLLM's format."""

from functools import partial
from typing import Annotated, ClassVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from src.api.chat.pipeline import tokenize_conversation
from src.api.chat.thinking import VARIABLES, TemplateVariables, ThinkingOptions
from src.api.deps import EngineDep, while_connected
from src.api.fields.shared import (
    MAX_MESSAGES,
    MAX_MODEL_NAME,
    MAX_TOOLS,
    Refused,
    WireRequest,
)
from src.api.json_response import json_answer
from src.api.openai.chat.conversation import to_conversation
from src.api.openai.chat.messages import ChatTurn
from src.api.openai.chat.prompt_end import (
    PROMPT_ENDS,
    AddGenerationPrompt,
    ContinueFinalMessage,
    check_prompt_end,
    prompt_end,
)
from src.api.openai.chat.tools import FunctionTool, to_tools
from src.api.openai.family import OPENAI
from src.api.openai.prompts import MAX_TOKEN_IDS
from src.api.openapi import error_responses
from src.api.served_model import check_model
from src.core.outputs import TOKEN_SIZE, Operation
from src.errors import InvalidRequestError
from src.inference import InferenceEngine
from src.limits.rate_limit import RateLimitedRoute
from src.text.chat_template import ChatMessage, PromptEnd
from src.tool_calling.choice import choose
from src.tool_calling.grammar import ToolChoice

router = APIRouter(
    tags=["OpenAI"],
    route_class=RateLimitedRoute,
    responses=error_responses(OPENAI, 400, 404, 413, 415, 429, 503, 504),
)


class TokenizeRequest(WireRequest):
    """A text or a conversation."""

    conversation_field: ClassVar[str] = "messages"

    model: StrictStr | None = Field(
        default=None, max_length=MAX_MODEL_NAME, description="The served model, if it is named."
    )
    prompt: StrictStr | None = Field(
        default=None, description="A text; special tokens spelled in it are plain text."
    )
    messages: list[ChatTurn] | None = Field(
        fail_fast=True,
        default=None,
        min_length=1,
        max_length=MAX_MESSAGES,
        description="A conversation, rendered by the model's chat template.",
    )
    tools: list[FunctionTool] | None = Field(
        fail_fast=True,
        default=None,
        max_length=MAX_TOOLS,
        description="Functions that the answer may call; needs `messages`.",
    )
    add_special_tokens: StrictBool | None = Field(
        default=None,
        description="Add the special tokens that begin or end a prompt, as completions do. Default:"
        " true. With false, a prompt that spells a single special token is that token.",
    )
    return_token_strs: StrictBool | None = Field(
        default=None, description="Return the text of each token."
    )
    chat_template: Annotated[
        None, Refused("templates are code; the server's operator sets CHAT_TEMPLATE")
    ] = None
    chat_template_kwargs: TemplateVariables | None = Field(default=None, description=VARIABLES)
    add_generation_prompt: AddGenerationPrompt = None
    continue_final_message: ContinueFinalMessage = None

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "The capital of France is"}]}
    )

    def check(self) -> None:
        """Raises InvalidRequestError if fields contradict each other."""
        check_prompt_end(self)
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequestError("Send either a prompt or messages.", ("prompt",))
        for name in ("tools", *PROMPT_ENDS, "chat_template_kwargs"):
            if getattr(self, name) not in (None, [], {}) and self.messages is None:
                raise InvalidRequestError(f"{name} needs messages.", (name,))
        if self.messages is not None and self.add_special_tokens:
            raise InvalidRequestError(
                "The chat template adds the special tokens; leave add_special_tokens out.",
                ("add_special_tokens",),
            )

    def to_conversation(self) -> list[ChatMessage]:
        return to_conversation(self.messages or ())

    def prompt_end(self) -> PromptEnd:
        return prompt_end(self)

    def thinking_options(self) -> ThinkingOptions:
        return ThinkingOptions(variables=self.chat_template_kwargs or {})

    def to_tool_choice(self) -> ToolChoice | None:
        return choose(to_tools(self.tools), "auto", is_parallel=True)


class TokenizeResponse(BaseModel):
    """Token ids."""

    count: int
    max_model_len: int = Field(description="Context length in tokens: prompt and new tokens.")
    tokens: list[int]
    token_strs: list[str] | None


class DetokenizeRequest(WireRequest):
    """Token ids."""

    model: StrictStr | None = Field(
        default=None, max_length=MAX_MODEL_NAME, description="The served model, if it is named."
    )
    tokens: list[Annotated[StrictInt, Field(ge=0)]] = Field(
        fail_fast=True, max_length=MAX_TOKEN_IDS, description="The token ids."
    )

    model_config = ConfigDict(json_schema_extra={"examples": [{"tokens": [5, 6, 7]}]})


class DetokenizeResponse(BaseModel):
    """Text of token ids, with special tokens."""

    prompt: str


@router.post("/tokenize", response_model=TokenizeResponse)
async def tokenize(request: Request, body: TokenizeRequest, engine: EngineDep) -> Response:
    """Tokenize a text or a conversation."""
    token_ids = await _encode(request, body, engine)

    def respond() -> TokenizeResponse:
        texts = None
        if body.return_token_strs:
            texts = [engine.codec.decode_token(token_id) for token_id in token_ids]
        return TokenizeResponse(
            count=len(token_ids),
            max_model_len=engine.max_model_len,
            tokens=token_ids,
            token_strs=texts,
        )

    return await json_answer(respond, len(token_ids) * TOKEN_SIZE)


async def _encode(request: Request, body: TokenizeRequest, engine: InferenceEngine) -> list[int]:
    if body.messages is not None:
        return await tokenize_conversation(
            request,
            body,
            engine,
            engine.create_context(("messages",), Operation.CHAT),
        )
    check_model(body.model, engine)
    body.check()
    assert body.prompt is not None
    if body.add_special_tokens is False:
        token_id = engine.codec.special_token_id(body.prompt)
        if token_id is not None:
            return [token_id]
    has_special_tokens = body.add_special_tokens is not False
    encoding = engine.encode(body.prompt, add_special_tokens=has_special_tokens)
    return await while_connected(request, encoding)


@router.post("/detokenize", response_model=DetokenizeResponse)
async def detokenize(request: Request, body: DetokenizeRequest, engine: EngineDep) -> Response:
    """Decode token ids."""
    check_model(body.model, engine)
    decoding = engine.decode(body.tokens, ("tokens",), skip_special_tokens=False)
    text = await while_connected(request, decoding)
    return await json_answer(partial(DetokenizeResponse, prompt=text), len(text))


class TokenizerInfo(BaseModel):
    """Special tokens and chat template; null where the model has none."""

    tokenizer_class: str = Field(description="HuggingFace's class.")
    bos_token: str | None = Field(description="Begins a text.")
    eos_token: str | None = Field(description="Ends a text.")
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None = Field(description="Jinja template.")


@router.get("/tokenizer_info")
async def tokenizer_info(engine: EngineDep) -> TokenizerInfo:
    """Describe the tokenizer."""
    template = engine.codec.chat_template
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    tokens = {name: engine.codec.special_tokens.get(name) for name in names}
    return TokenizerInfo(
        tokenizer_class=engine.codec.class_name,
        chat_template=template.source if template else None,
        **tokens,
    )

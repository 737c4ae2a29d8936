"""`/tokenize`, `/detokenize` and `/tokenizer_info`, in vLLM's shapes."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from src.api.deps import EngineDep, off_loop, while_connected
from src.api.fields import (
    MAX_MESSAGES,
    MAX_MODEL_NAME,
    MAX_TOOLS,
    NoEffect,
    OnlyFalse,
    Refused,
    WireRequest,
)
from src.api.json_response import json_answer
from src.api.openai.chat.conversation import to_conversation
from src.api.openai.chat.request import ChatTurn
from src.api.openai.chat.tools import FunctionTool
from src.api.openai.common import check_model
from src.api.openai.openapi import error_responses
from src.api.openai.prompts import MAX_TOKEN_IDS
from src.core.outputs import TOKEN_SIZE
from src.errors import InvalidRequestError
from src.inference import InferenceEngine
from src.limits.rate_limit import RateLimitedRoute
from src.text.chat_template import ChatMessage
from src.tool_calling.choice import call_format, choose
from src.tool_calling.grammar import ToolChoice

router = APIRouter(
    tags=["OpenAI"],
    route_class=RateLimitedRoute,
    responses=error_responses(400, 404, 413, 415, 429, 503, 504),
)


class TokenizeRequest(WireRequest):
    """A text or a conversation."""

    model: StrictStr | None = Field(
        default=None, max_length=MAX_MODEL_NAME, description="The served model, if it is named."
    )
    prompt: StrictStr | None = Field(
        default=None, description="A text; what spells a special token stays text."
    )
    messages: list[ChatTurn] | None = Field(
        fail_fast=True,
        default=None,
        min_length=1,
        max_length=MAX_MESSAGES,
        description="Or a conversation, as the model's chat template writes it.",
    )
    tools: list[FunctionTool] | None = Field(
        fail_fast=True,
        default=None,
        max_length=MAX_TOOLS,
        description="Functions that a conversation's answer may call; with `messages` alone.",
    )
    add_special_tokens: StrictBool | None = Field(
        default=None,
        description="Whether tokens that begin or end a text are added to a prompt, as for its"
        " completion. Default: true. With false a prompt that is one special token's whole text is"
        " that token.",
    )
    return_token_strs: StrictBool | None = Field(
        default=None, description="Tell how each token is written."
    )
    chat_template: Annotated[
        None, Refused("a template is code; the server's operator sets CHAT_TEMPLATE")
    ] = None
    chat_template_kwargs: Annotated[None, Refused("as chat_template is")] = None
    add_generation_prompt: StrictBool | None = Field(
        default=None,
        description="Whether a conversation's answer has begun, as it has in chats. Default: true.",
    )
    continue_final_message: Annotated[
        OnlyFalse | None,
        NoEffect("answers do not go on with a message; only false is accepted"),
    ] = None

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "The capital of France is"}]}
    )

    def check(self) -> None:
        """Raises InvalidRequestError if fields do not go together."""
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequestError("Send either a prompt or messages.", ("prompt",))
        if self.tools and self.messages is None:
            raise InvalidRequestError("tools go with messages.", ("tools",))
        if self.add_generation_prompt is not None and self.messages is None:
            raise InvalidRequestError(
                "add_generation_prompt goes with messages.", ("add_generation_prompt",)
            )
        if self.messages is not None and self.add_special_tokens:
            raise InvalidRequestError(
                "The chat template adds what special tokens there are; leave this out.",
                ("add_special_tokens",),
            )


class TokenizeResponse(BaseModel):
    """Token ids."""

    count: int
    max_model_len: int = Field(description="Context in tokens, prompt and new ones together.")
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
    """The text; special tokens are written as they are spelled."""

    prompt: str


@router.post("/tokenize", response_model=TokenizeResponse)
async def tokenize(request: Request, body: TokenizeRequest, engine: EngineDep) -> Response:
    """Tell the token ids of a text or a conversation."""
    check_model(body.model, engine)
    body.check()
    token_ids = await while_connected(request, _encode(request, body, engine))

    def respond() -> TokenizeResponse:
        written = None
        if body.return_token_strs:
            written = [engine.codec.decode_token(token_id) for token_id in token_ids]
        return TokenizeResponse(
            count=len(token_ids),
            max_model_len=engine.max_model_len,
            tokens=token_ids,
            token_strs=written,
        )

    return await json_answer(respond, len(token_ids) * TOKEN_SIZE)


def _read(body: TokenizeRequest) -> tuple[list[ChatMessage], ToolChoice | None]:
    """The conversation, and the tools that its answer may call."""
    tools = [
        tool.function.to_engine(("tools", index, "function"))
        for index, tool in enumerate(body.tools or ())
    ]
    return to_conversation(body.messages or ()), choose(tools, "auto", is_parallel=True)


async def _encode(request: Request, body: TokenizeRequest, engine: InferenceEngine) -> list[int]:
    if body.messages is not None:
        messages, choice = await off_loop(request, partial(_read, body))
        call_format(engine, choice, messages, ("messages",))
        return await engine.tokenize_chat(
            messages,
            tools=choice.tools if choice else (),
            begins_answer=body.add_generation_prompt is not False,
        )
    assert body.prompt is not None
    if body.add_special_tokens is False:
        token_id = engine.codec.special_token_id(body.prompt)
        if token_id is not None:
            return [token_id]
    return await engine.encode(body.prompt, add_special_tokens=body.add_special_tokens is not False)


@router.post("/detokenize", response_model=DetokenizeResponse)
async def detokenize(request: Request, body: DetokenizeRequest, engine: EngineDep) -> Response:
    """Tell the text of token ids."""
    check_model(body.model, engine)
    decoding = engine.decode(body.tokens, ("tokens",), skip_special_tokens=False)
    text = await while_connected(request, decoding)
    return await json_answer(partial(DetokenizeResponse, prompt=text), len(text))


class TokenizerInfo(BaseModel):
    """Special tokens as they are spelled, and how conversations are written; null if not there."""

    tokenizer_class: str = Field(description="HuggingFace's class.")
    bos_token: str | None = Field(description="It begins a text.")
    eos_token: str | None = Field(description="It ends a text.")
    pad_token: str | None
    unk_token: str | None
    chat_template: str | None = Field(description="In Jinja's language.")


@router.get("/tokenizer_info")
async def tokenizer_info(engine: EngineDep) -> TokenizerInfo:
    """Describe the tokenizer for clients that work with token ids."""
    template = engine.codec.chat_template
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    tokens = {name: engine.codec.special_tokens.get(name) for name in names}
    return TokenizerInfo(
        tokenizer_class=engine.codec.class_name,
        chat_template=template.source if template else None,
        **tokens,
    )

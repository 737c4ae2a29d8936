"""The routes of `/v1/messages`."""

from functools import partial

from fastapi import APIRouter, Request, Response

from src.api.anthropic.conversation import to_conversation
from src.api.anthropic.openapi import AnthropicErrorResponse, error_responses
from src.api.anthropic.render import MessageRenderer
from src.api.anthropic.request import CountTokensRequest, MessageRequest
from src.api.anthropic.response import (
    BlockDelta,
    BlockStart,
    BlockStop,
    Message,
    MessageDelta,
    MessageStart,
    MessageStop,
    TokenCount,
)
from src.api.deps import EngineDep, SettingsDep, off_loop, while_connected
from src.api.json_response import json_answer
from src.api.openai.common import check_model
from src.api.sampling import sampling_params
from src.api.sse import stream_events, stream_response
from src.core.outputs import Operation
from src.core.request_context import RequestContext
from src.engine.sampling_params import SamplingParams
from src.engine.structured_output.source import GrammarSource
from src.inference import InferenceEngine
from src.limits.rate_limit import RateLimitedRoute
from src.text.chat_template import ChatMessage
from src.tool_calling.choice import answer_grammar, call_format
from src.tool_calling.format import ToolCallFormat
from src.tool_calling.grammar import ToolChoice
from src.tool_calling.parser import TextReader, ToolCallParser

router = APIRouter(
    prefix="/v1/messages",
    tags=["Anthropic"],
    route_class=RateLimitedRoute,
    responses=error_responses(400, 404, 413, 415, 429, 500, 503, 504),
)
STREAMED = stream_response(
    "The message; with `stream` events that make it up, each named by its `type`.",
    MessageStart,
    BlockStart,
    BlockDelta,
    BlockStop,
    MessageDelta,
    MessageStop,
    AnthropicErrorResponse,
    named=True,
)


@router.post("", response_model=Message, responses={200: STREAMED})
async def create_message(
    request: Request, body: MessageRequest, engine: EngineDep, settings: SettingsDep
) -> Response:
    """Answer a conversation."""
    context = engine.context(("messages",), Operation.CHAT)
    messages, choice = await off_loop(request, partial(_read, body, engine))
    written = call_format(engine, choice, messages, ("messages",))
    token_ids = await _tokenize(request, messages, choice, engine, context)
    engine.check(len(token_ids), SamplingParams(max_tokens=1), ("messages",))
    room = engine.max_model_len - len(token_ids)
    shape, grammar = await off_loop(request, partial(_grammar, body, choice, written))
    params = _sampling_params(body, min(body.max_tokens, room), grammar)
    reader = ToolCallParser(written, is_shaped=shape is not None) if written else TextReader()
    left = room if body.max_tokens > room else None
    renderer = MessageRenderer(engine.model_name, len(token_ids), left, reader)
    if body.stream:
        deltas = engine.stream(token_ids, params, context=context)
        return await stream_events(
            request, deltas, renderer.events, settings.send_timeout_seconds, named=True
        )
    collecting = engine.collect([token_ids], params, context=context)
    (generation,) = await while_connected(request, collecting)
    return await json_answer(partial(renderer.whole, generation), generation.size)


@router.post("/count_tokens", response_model=TokenCount)
async def count_tokens(request: Request, body: CountTokensRequest, engine: EngineDep) -> TokenCount:
    """Tell how many tokens a conversation has."""
    messages, choice = await off_loop(request, partial(_read, body, engine))
    call_format(engine, choice, messages, ("messages",))
    context = engine.context(("messages",), Operation.CHAT)
    token_ids = await _tokenize(request, messages, choice, engine, context)
    return TokenCount(input_tokens=len(token_ids))


def _read(
    body: CountTokensRequest, engine: InferenceEngine
) -> tuple[list[ChatMessage], ToolChoice | None]:
    """The conversation, and which tools its answer may or must call."""
    check_model(body.model, engine)
    body.check()
    return to_conversation(body), body.tools_to_call()


def _grammar(
    body: MessageRequest, choice: ToolChoice | None, written: ToolCallFormat | None
) -> tuple[GrammarSource | None, GrammarSource | None]:
    """The shape of answers that are no calls, and the grammar of all answers."""
    shape = body.grammar()
    return shape, answer_grammar(choice, written, shape)


async def _tokenize(
    request: Request,
    messages: list[ChatMessage],
    choice: ToolChoice | None,
    engine: InferenceEngine,
    context: RequestContext,
) -> list[int]:
    tools = choice.tools if choice else ()
    tokenizing = engine.tokenize_chat(messages, context, tools)
    return await while_connected(request, tokenizing)


def _sampling_params(
    body: MessageRequest, max_tokens: int, grammar: GrammarSource | None
) -> SamplingParams:
    return sampling_params(
        body,
        max_tokens=max_tokens,
        min_tokens=None,
        temperature=1 if body.temperature is None else body.temperature,
        top_p=1 if body.top_p is None else body.top_p,
        grammar=grammar,
    )

"""The routes of `/v1/messages`."""

from functools import partial

from fastapi import APIRouter, Request, Response

from src.api.anthropic.family import ANTHROPIC, AnthropicErrorResponse
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
from src.api.chat.pipeline import prepare_chat, tokenize_conversation
from src.api.deps import EngineDep, SettingsDep
from src.api.json_response import json_answer
from src.api.openapi import error_responses, stream_documentation
from src.api.sse import stream_events, stream_times
from src.core.outputs import Operation
from src.limits.rate_limit import RateLimitedRoute

router = APIRouter(
    prefix="/v1/messages",
    tags=["Anthropic"],
    route_class=RateLimitedRoute,
    responses=error_responses(ANTHROPIC, 400, 404, 413, 415, 429, 500, 503, 504),
)
STREAMED = stream_documentation(
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
    chat = await prepare_chat(request, body, engine)
    renderer = MessageRenderer(body, chat)
    if body.stream:
        return await stream_events(
            request, chat.stream(), renderer.events, stream_times(settings), named=True
        )
    generation = await chat.collect(request)
    whole = partial(renderer.whole, generation)
    return await json_answer(
        whole, generation.size, exclude_unset=True, timings=chat.context.timings
    )


@router.post("/count_tokens", response_model=TokenCount)
async def count_tokens(request: Request, body: CountTokensRequest, engine: EngineDep) -> TokenCount:
    """Tell how many tokens a conversation has."""
    context = engine.create_context(("messages",), Operation.CHAT)
    token_ids = await tokenize_conversation(request, body, engine, context)
    return TokenCount(input_tokens=len(token_ids))

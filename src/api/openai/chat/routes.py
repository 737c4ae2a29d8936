"""The route of `/v1/chat/completions`."""

from functools import partial

from fastapi import APIRouter, Request, Response

from src.api.chat.pipeline import prepare_chat
from src.api.deps import EngineDep, SettingsDep
from src.api.json_response import json_answer
from src.api.openai.chat.render import ChatRenderer
from src.api.openai.chat.request import ChatCompletionRequest
from src.api.openai.chat.response import ChatCompletion, ChatCompletionChunk
from src.api.openai.common import UsageCount
from src.api.openai.family import OPENAI
from src.api.openai.stream import chunk_stream, stream_chunks
from src.api.openapi import error_responses
from src.limits.rate_limit import RateLimitedRoute

router = APIRouter(
    prefix="/v1/chat",
    tags=["OpenAI"],
    route_class=RateLimitedRoute,
    responses=error_responses(OPENAI, 400, 404, 413, 415, 429, 500, 503, 504),
)


@router.post(
    "/completions",
    response_model=ChatCompletion,
    responses={200: chunk_stream(ChatCompletionChunk)},
)
async def create_chat_completion(
    request: Request, body: ChatCompletionRequest, engine: EngineDep, settings: SettingsDep
) -> Response:
    """Answer a conversation."""
    chat = await prepare_chat(request, body, engine)
    renderer = ChatRenderer(body, chat, settings.reasoning_field)
    count = UsageCount(chat.num_prompt_tokens, chat.num_choices)
    timings = chat.context.timings
    if body.stream:
        return await stream_chunks(request, body, chat.stream(), renderer, count, settings, timings)
    generation = await chat.collect(request)
    count.add_all(generation)
    whole = partial(renderer.whole, generation, count)
    return await json_answer(whole, generation.size, exclude_unset=True, timings=timings)

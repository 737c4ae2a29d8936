"""The route of `/v1/responses`."""

from functools import partial

from fastapi import APIRouter, Request, Response

from src.api.chat.pipeline import prepare_chat
from src.api.deps import EngineDep, SettingsDep
from src.api.json_response import json_answer
from src.api.openai.family import OPENAI
from src.api.openai.responses.background import queue_response
from src.api.openai.responses.render import ResponseRenderer
from src.api.openai.responses.request import ResponseRequest
from src.api.openai.responses.response import (
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    ItemEvent,
    PartEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    ResponseEvent,
    TextDeltaEvent,
    TextDoneEvent,
)
from src.api.openai.responses.response import Response as Answer
from src.api.openapi import error_responses, stream_documentation
from src.api.sse import stream_events, stream_times
from src.limits.rate_limit import RateLimitedRoute

router = APIRouter(
    prefix="/v1",
    tags=["OpenAI"],
    route_class=RateLimitedRoute,
    responses=error_responses(OPENAI, 400, 404, 413, 415, 429, 500, 503, 504, 507),
)
STREAMED = stream_documentation(
    "The answer; with `stream` events that make it up, each named by its `type`.",
    ResponseEvent,
    ItemEvent,
    PartEvent,
    ReasoningDeltaEvent,
    ReasoningDoneEvent,
    TextDeltaEvent,
    TextDoneEvent,
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    named=True,
)


@router.post("/responses", response_model=Answer, responses={200: STREAMED})
async def create_response(
    request: Request, body: ResponseRequest, engine: EngineDep, settings: SettingsDep
) -> Response:
    """Answer a conversation; nothing of it is stored, unless it is answered in the background."""
    if body.background:
        return await queue_response(request, body, engine)
    chat = await prepare_chat(request, body, engine)
    num_bytes = len(await request.body())
    renderer = ResponseRenderer(body, chat, num_bytes)
    if body.stream:
        return await stream_events(
            request,
            chat.stream(),
            renderer.events,
            stream_times(settings),
            named=True,
            render_failure=renderer.failure,
            size_of=renderer.events_size,
        )
    generation = await chat.collect(request)
    whole = partial(renderer.whole, generation)
    size = num_bytes + generation.size
    return await json_answer(whole, size, exclude_unset=True, timings=chat.context.timings)

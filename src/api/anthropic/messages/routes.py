"""The routes of `/v1/messages`."""

from fastapi import APIRouter, Request, Response

from src.api.anthropic.messages import answer
from src.api.anthropic.messages.answer import Message, TokenCount
from src.api.anthropic.messages.protocol import CountTokensRequest, MessageRequest
from src.api.anthropic.messages.render import MessageRenderer
from src.api.anthropic.responses import AnthropicErrorResponse, error_responses
from src.api.deps import EngineDep, SettingsDep, while_connected
from src.api.openai.answers import check_model
from src.api.sampling import sampling_params
from src.api.sse import stream_events, stream_response
from src.engine.sampling_params import SamplingParams
from src.inference import InferenceEngine
from src.ops.rate_limit import RateLimitedRoute

router = APIRouter(
    prefix="/v1/messages",
    tags=["Anthropic"],
    route_class=RateLimitedRoute,
    responses=error_responses(400, 404, 413, 415, 429, 500, 503, 504),
)
STREAMED = stream_response(
    "The message; with `stream` events that make it up, each named by its `type`.",
    answer.MessageStart,
    answer.BlockStart,
    answer.BlockDelta,
    answer.BlockStop,
    answer.MessageDelta,
    answer.MessageStop,
    AnthropicErrorResponse,
    named=True,
)


@router.post("", response_model=Message, responses={200: STREAMED})
async def create_message(
    request: Request, body: MessageRequest, engine: EngineDep, settings: SettingsDep
) -> Message | Response:
    """Answer a conversation."""
    token_ids = await _tokenize(request, body, engine)
    room = engine.max_model_len - len(token_ids)
    params = _sampling_params(body, min(body.max_tokens, room))
    renderer = MessageRenderer(engine.model_name, len(token_ids), is_cut=body.max_tokens > room)
    if body.stream:
        deltas = engine.stream(token_ids, params)
        return await stream_events(
            request, deltas, renderer.events, settings.send_timeout_seconds, named=True
        )
    (generation,) = await while_connected(request, engine.collect([token_ids], params))
    return renderer.whole(generation)


@router.post("/count_tokens", response_model=TokenCount)
async def count_tokens(request: Request, body: CountTokensRequest, engine: EngineDep) -> TokenCount:
    """Tell how many tokens a conversation has."""
    return TokenCount(input_tokens=len(await _tokenize(request, body, engine, has_room=False)))


async def _tokenize(
    request: Request, body: CountTokensRequest, engine: InferenceEngine, *, has_room: bool = True
) -> list[int]:
    """The conversation's token ids, with room for an answer if that is wanted."""
    check_model(body.model, engine)
    body.check()
    token_ids = await while_connected(request, engine.tokenize_chat(body.to_engine()))
    if has_room:
        engine.check(len(token_ids), SamplingParams(max_tokens=1), ("messages",))
    return token_ids


def _sampling_params(body: MessageRequest, max_tokens: int) -> SamplingParams:
    return sampling_params(
        body,
        max_tokens=max_tokens,
        min_tokens=None,
        temperature=1 if body.temperature is None else body.temperature,
        top_p=1 if body.top_p is None else body.top_p,
        grammar=body.grammar(),
    )

"""The route of `/v1/chat/completions`."""

from functools import partial

from fastapi import APIRouter, Request, Response

from src.api.deps import EngineDep, SettingsDep, off_loop, while_connected
from src.api.json_response import json_answer
from src.api.openai.chat.conversation import to_conversation
from src.api.openai.chat.render import ChatRenderer
from src.api.openai.chat.request import ChatCompletionRequest
from src.api.openai.chat.response import ChatCompletion, ChatCompletionChunk
from src.api.openai.common import UsageCount, check_model
from src.api.openai.openapi import error_responses, streamed
from src.api.openai.stream import stream_chunks
from src.api.sampling import sampling_params
from src.api.structured import only_one
from src.core.outputs import Operation
from src.engine.sampling_params import SamplingParams
from src.engine.structured_output.source import GrammarSource
from src.errors import ContextLengthError
from src.inference import InferenceEngine
from src.limits.rate_limit import RateLimitedRoute
from src.text.chat_template import ChatMessage
from src.tool_calling.choice import answer_grammar, call_format
from src.tool_calling.format import ToolCallFormat
from src.tool_calling.grammar import ToolChoice

router = APIRouter(
    prefix="/v1/chat",
    tags=["OpenAI"],
    route_class=RateLimitedRoute,
    responses=error_responses(400, 404, 413, 415, 429, 500, 503, 504),
)


@router.post(
    "/completions",
    response_model=ChatCompletion,
    responses={200: streamed(ChatCompletionChunk)},
)
async def create_chat_completion(
    request: Request, body: ChatCompletionRequest, engine: EngineDep, settings: SettingsDep
) -> Response:
    """Answer a conversation."""
    context = engine.context(("messages",), Operation.CHAT)
    check_model(body.model, engine)
    messages, choice = await off_loop(request, partial(_read, body))
    written = call_format(engine, choice, messages, ("messages",))
    tools = choice.tools if choice else ()
    tokenizing = engine.tokenize_chat(messages, context, tools)
    token_ids = await while_connected(request, tokenizing)
    shape, grammar = await off_loop(request, partial(_grammar, body, choice, written))
    params = _sampling_params(body, engine, len(token_ids), grammar)
    _check(body, engine, len(token_ids), params)
    renderer = ChatRenderer(engine, body, written, is_shaped=shape is not None)
    count = UsageCount(len(token_ids), body.num_choices)
    if body.stream:
        deltas = engine.stream(token_ids, params, body.num_choices, context)
        return await stream_chunks(request, body, deltas, renderer, count, settings)
    (generation,) = await while_connected(
        request, engine.collect([token_ids], params, body.num_choices, context)
    )
    count.add_all(generation)
    whole = partial(renderer.whole, generation, count)
    return await json_answer(whole, generation.size, exclude_unset=True)


def _read(body: ChatCompletionRequest) -> tuple[list[ChatMessage], ToolChoice | None]:
    """The conversation, and which tools its answer may or must call."""
    body.check()
    return to_conversation(body.messages), body.tools_to_call()


def _grammar(
    body: ChatCompletionRequest, choice: ToolChoice | None, written: ToolCallFormat | None
) -> tuple[GrammarSource | None, GrammarSource | None]:
    """The shape of answers that are no calls, and the grammar of all answers."""
    shape = only_one(body.grammars())
    return shape, answer_grammar(choice, written, shape)


def _check(
    body: ChatCompletionRequest,
    engine: InferenceEngine,
    num_prompt_tokens: int,
    params: SamplingParams,
) -> None:
    try:
        engine.check(num_prompt_tokens, params, ("messages",))
    except ContextLengthError as error:
        if error.field == ("max_tokens",) and body.max_completion_tokens is not None:
            raise ContextLengthError(str(error), ("max_completion_tokens",)) from None
        raise


def _sampling_params(
    body: ChatCompletionRequest,
    engine: InferenceEngine,
    num_prompt_tokens: int,
    grammar: GrammarSource | None,
) -> SamplingParams:
    room = engine.room(num_prompt_tokens, body.num_logprobs, body.n or 1)
    return sampling_params(
        body,
        max_tokens=body.most_new_tokens or room,
        min_tokens=body.min_tokens,
        temperature=1 if body.temperature is None else body.temperature,
        top_p=1 if body.top_p is None else body.top_p,
        logprobs=body.num_logprobs,
        grammar=grammar,
    )

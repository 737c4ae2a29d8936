"""The route of `/v1/responses`."""

from functools import partial

from fastapi import APIRouter, Request, Response

from src.api.deps import EngineDep, SettingsDep, off_loop, while_connected
from src.api.json_response import json_answer
from src.api.openai.common import check_model
from src.api.openai.openapi import error_responses
from src.api.openai.responses.conversation import to_conversation
from src.api.openai.responses.render import ResponseRenderer
from src.api.openai.responses.request import ResponseRequest
from src.api.openai.responses.response import (
    ArgumentsDeltaEvent,
    ArgumentsDoneEvent,
    ItemEvent,
    PartEvent,
    ResponseEvent,
    TextDeltaEvent,
    TextDoneEvent,
)
from src.api.openai.responses.response import (
    Response as Answer,
)
from src.api.sampling import sampling_params
from src.api.sse import stream_events, stream_response
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
from src.tool_calling.parser import TextReader, ToolCallParser

router = APIRouter(
    prefix="/v1",
    tags=["OpenAI"],
    route_class=RateLimitedRoute,
    responses=error_responses(400, 404, 413, 415, 429, 500, 503, 504),
)
STREAMED = stream_response(
    "The answer; with `stream` events that make it up, each named by its `type`.",
    ResponseEvent,
    ItemEvent,
    PartEvent,
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
    """Answer a conversation; nothing of it is stored."""
    context = engine.context(("input",), Operation.CHAT)
    check_model(body.model, engine)
    messages, choice = await off_loop(request, partial(_read, body))
    written = call_format(engine, choice, messages, ("input",))
    tools = choice.tools if choice else ()
    tokenizing = engine.tokenize_chat(messages, context, tools)
    token_ids = await while_connected(request, tokenizing)
    shape, grammar = await off_loop(request, partial(_grammar, body, choice, written))
    params = _sampling_params(body, engine, len(token_ids), grammar)
    reader = ToolCallParser(written, is_shaped=shape is not None) if written else TextReader()
    num_bytes = len(await request.body())
    renderer = ResponseRenderer(engine, body, len(token_ids), num_bytes, reader)
    if body.stream:
        return await stream_events(
            request,
            engine.stream(token_ids, params, context=context),
            renderer.events,
            settings.send_timeout_seconds,
            named=True,
            render_failure=renderer.failure,
            size_of=renderer.events_size,
        )
    collecting = engine.collect([token_ids], params, context=context)
    (generation,) = await while_connected(request, collecting)
    return await json_answer(partial(renderer.whole, generation), num_bytes + generation.size)


def _read(body: ResponseRequest) -> tuple[list[ChatMessage], ToolChoice | None]:
    """The conversation, and which tools its answer may or must call."""
    body.check()
    return to_conversation(body.instructions, body.input), body.tools_to_call()


def _grammar(
    body: ResponseRequest, choice: ToolChoice | None, written: ToolCallFormat | None
) -> tuple[GrammarSource | None, GrammarSource | None]:
    """The shape of answers that are no calls, and the grammar of all answers."""
    shape = body.text_format.grammar()
    return shape, answer_grammar(choice, written, shape)


def _sampling_params(
    body: ResponseRequest,
    engine: InferenceEngine,
    num_prompt_tokens: int,
    grammar: GrammarSource | None,
) -> SamplingParams:
    """What the request says, checked against the context."""
    room = engine.room(num_prompt_tokens, body.num_logprobs)
    params = sampling_params(
        body,
        max_tokens=body.max_output_tokens or room,
        min_tokens=None,
        temperature=1 if body.temperature is None else body.temperature,
        top_p=1 if body.top_p is None else body.top_p,
        logprobs=body.num_logprobs,
        grammar=grammar,
    )
    try:
        engine.check(num_prompt_tokens, params, ("input",))
    except ContextLengthError as error:
        if error.field == ("max_tokens",):
            raise ContextLengthError(str(error), ("max_output_tokens",)) from None
        raise
    return params

"""Routes `/generate` and `/generate/batch`."""

from functools import partial

from fastapi import APIRouter, Request, Response

from src.api.deps import EngineDep, SettingsDep, off_loop, while_connected
from src.api.fields.priority import use_priority
from src.api.fields.sampling import sampling_params
from src.api.fields.structured import structured_source
from src.api.json_response import json_answer
from src.api.native.family import NATIVE
from src.api.native.render import Renderer
from src.api.openapi import error_responses, stream_documentation
from src.api.sse import stream_events, stream_times
from src.config import Settings
from src.engine.sampling_params import SamplingParams
from src.inference import InferenceEngine
from src.limits.rate_limit import RateLimitedRoute
from src.models import (
    BatchResponse,
    GenerateBatchRequest,
    GenerateDelta,
    GenerateRequest,
    GenerateResponse,
    SamplingFields,
    StreamErrorEvent,
)

router = APIRouter(
    tags=["generation"],
    route_class=RateLimitedRoute,
    responses=error_responses(NATIVE, 400, 413, 415, 422, 429, 500, 503, 504),
)
STREAMED = stream_documentation(
    "The answer; with `stream` a `GenerateDelta` in the data of each event, then `[DONE]`.",
    GenerateDelta,
    StreamErrorEvent,
)


@router.post(
    "/generate",
    response_model=GenerateResponse,
    responses={200: STREAMED},
)
async def generate(
    request: Request, body: GenerateRequest, engine: EngineDep, settings: SettingsDep
) -> Response:
    """Continue one prompt, and answer when all is done or as it is made."""
    use_priority(body)
    params = await off_loop(request, partial(_sampling_params, body, engine, settings))
    context, n = engine.create_context(), body.num_return_sequences
    token_ids = await while_connected(request, engine.tokenize(body.prompt, params, context))
    renderer = _renderer(body, body.prompt, engine)
    renderer.num_prompt_tokens = len(token_ids)
    renderer.timings = context.timings if body.timings else None
    if body.stream:
        deltas = engine.stream(token_ids, params, n, context)
        return await stream_events(request, deltas, renderer.deltas, stream_times(settings))
    collecting = engine.collect([token_ids], params, n, context)
    (generation,) = await while_connected(request, collecting)
    respond = partial(renderer.response, generation)
    return await json_answer(respond, generation.size, exclude_none=True, timings=context.timings)


@router.post("/generate/batch", response_model=list[GenerateResponse])
async def generate_batch(
    request: Request, body: GenerateBatchRequest, engine: EngineDep, settings: SettingsDep
) -> Response:
    """Continue several prompts in the same way; the answers are in the prompts' order."""
    use_priority(body)
    params = await off_loop(request, partial(_sampling_params, body, engine, settings))
    context = engine.create_context()
    generating = engine.generate_batch(body.prompts, params, body.num_return_sequences, context)
    generations = await while_connected(request, generating)

    def respond() -> BatchResponse:
        return BatchResponse(
            _renderer(body, prompt, engine).response(generation)
            for prompt, generation in zip(body.prompts, generations, strict=True)
        )

    size = sum(generation.size for generation in generations)
    return await json_answer(respond, size, exclude_none=True, timings=context.timings)


def _sampling_params(
    body: SamplingFields, engine: InferenceEngine, settings: Settings
) -> SamplingParams:
    """Returns the request's sampling parameters."""
    structured = body.structured_outputs
    max_tokens = settings.max_length if body.max_length is None else body.max_length
    return sampling_params(
        body,
        names=("min_length", "max_length"),
        max_tokens=max_tokens,
        min_tokens=body.min_length,
        defaults=engine.sampling_defaults.values(
            temperature=settings.temperature, top_p=settings.top_p
        ),
        logprobs=body.logprobs,
        prompt_logprobs=body.prompt_logprobs,
        grammar=structured_source(structured) if structured else None,
    )


def _renderer(body: SamplingFields, prompt: str, engine: InferenceEngine) -> Renderer:
    return Renderer(engine, prompt if body.return_full_text else "", body.num_return_sequences)

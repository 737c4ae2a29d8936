"""The route of `/v1/completions`."""

from dataclasses import replace
from functools import partial

from fastapi import APIRouter, Request, Response

from src.api.deps import EngineDep, SettingsDep, off_loop, while_connected
from src.api.fields.priority import use_priority
from src.api.fields.sampling import sampling_params
from src.api.fields.structured import only_one
from src.api.json_response import json_answer
from src.api.openai.common import UsageCount
from src.api.openai.completions.render import CompletionRenderer, EchoedPrompt
from src.api.openai.completions.schemas import (
    DEFAULT_MAX_TOKENS,
    Completion,
    CompletionRequest,
)
from src.api.openai.family import OPENAI
from src.api.openai.stream import chunk_stream, stream_chunks
from src.api.openapi import error_responses
from src.api.served_model import check_model
from src.core.request_context import RequestContext
from src.engine.sampling_params import SamplingParams
from src.inference import InferenceEngine
from src.limits.rate_limit import RateLimitedRoute
from src.text.tokenization import Prompt

router = APIRouter(
    prefix="/v1",
    tags=["OpenAI"],
    route_class=RateLimitedRoute,
    responses=error_responses(OPENAI, 400, 404, 413, 415, 429, 500, 503, 504),
)


@router.post(
    "/completions",
    response_model=Completion,
    responses={200: chunk_stream(Completion)},
)
async def create_completion(
    request: Request, body: CompletionRequest, engine: EngineDep, settings: SettingsDep
) -> Response:
    """Continue texts or token ids."""
    use_priority(body)
    context = engine.create_context()
    check_model(body.model, engine)
    params = await off_loop(request, partial(_sampling_params, body, engine))
    prompts = await while_connected(request, _tokenize(body, params, engine, context))
    token_ids = [prompt.token_ids for prompt in prompts]
    renderer = CompletionRenderer(engine, body, prompts)
    count = UsageCount(sum(map(len, token_ids)), body.num_sequences, body.max_tokens == 0)
    if body.stream:
        deltas = engine.stream_batch(token_ids, params, body.num_sequences, context)
        return await stream_chunks(
            request, body, deltas, renderer, count, settings, context.timings
        )
    generations = await while_connected(
        request, engine.collect(token_ids, params, body.num_sequences, context)
    )
    for generation in generations:
        count.add_all(generation)
    size = sum(generation.size for generation in generations)
    whole = partial(renderer.whole, generations, count, context.timings)
    return await json_answer(whole, size, exclude_unset=True, timings=context.timings)


def _sampling_params(body: CompletionRequest, engine: InferenceEngine) -> SamplingParams:
    body.check()
    max_tokens = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    logprobs = body.logprobs
    if logprobs is None and body.num_sequences > body.num_choices:
        logprobs = 0  # needed to rank them
    params = sampling_params(
        body,
        max_tokens=max(1, max_tokens),  # an echo without new tokens drops the generated one
        min_tokens=body.min_tokens,
        defaults=engine.sampling_defaults.values(),
        logprobs=logprobs,
        grammar=only_one(body.grammars()),
    )
    return replace(params, prompt_logprobs=body.logprobs) if body.echo else params


async def _tokenize(
    body: CompletionRequest,
    params: SamplingParams,
    engine: InferenceEngine,
    context: RequestContext,
) -> list[EchoedPrompt]:
    """Returns all prompts, checked before any runs."""
    prompts: list[Prompt] = body.prompt
    echoed = []
    for index, prompt in enumerate(prompts):
        field = ("prompt", index) if len(prompts) > 1 else ("prompt",)
        token_ids = await engine.tokenize(prompt, params, context.at(field))
        echoed.append(EchoedPrompt(token_ids, await _echoed(body, prompt, engine)))
    return echoed


async def _echoed(body: CompletionRequest, prompt: Prompt, engine: InferenceEngine) -> str:
    """Returns the prompt's text if the answer begins with it, else an empty text."""
    if not body.echo:
        return ""
    return prompt if isinstance(prompt, str) else await engine.decode(prompt)

"""The native generation routes."""

from fastapi import APIRouter, Request

from src.api.deps import EngineDep, SettingsDep, while_connected
from src.config import Settings
from src.engine.request import FinishReason
from src.engine.sampling_params import SamplingParams
from src.generation import Completion, Generation
from src.models import (
    GenerateBatchRequest,
    GeneratedText,
    GenerateRequest,
    GenerateResponse,
    SamplingFields,
    error_responses,
)
from src.ops.rate_limit import RateLimitedRoute

router = APIRouter(
    tags=["generation"],
    route_class=RateLimitedRoute,
    responses=error_responses(400, 413, 415, 422, 429, 500, 503, 504),
)


@router.post("/generate")
async def generate(
    request: Request, body: GenerateRequest, engine: EngineDep, settings: SettingsDep
) -> GenerateResponse:
    """Continue one prompt."""
    generation = await while_connected(
        request,
        engine.generate(body.prompt, _sampling_params(body, settings), body.num_return_sequences),
    )
    return _response(body.prompt, generation, engine.model_name)


@router.post("/generate/batch")
async def generate_batch(
    request: Request, body: GenerateBatchRequest, engine: EngineDep, settings: SettingsDep
) -> list[GenerateResponse]:
    """Continue several prompts in the same way; the answers are in the prompts' order."""
    generations = await while_connected(
        request,
        engine.generate_batch(
            body.prompts, _sampling_params(body, settings), body.num_return_sequences
        ),
    )
    return [
        _response(prompt, generation, engine.model_name)
        for prompt, generation in zip(body.prompts, generations, strict=True)
    ]


def _sampling_params(body: SamplingFields, settings: Settings) -> SamplingParams:
    """What the request says, and the server's settings for what it leaves out."""
    return SamplingParams(
        max_tokens=settings.max_length if body.max_length is None else body.max_length,
        temperature=settings.temperature if body.temperature is None else body.temperature,
        top_p=settings.top_p if body.top_p is None else body.top_p,
        top_k=body.top_k or 0,
        seed=body.seed,
        stop=tuple(body.stop or ()),
    )


def _response(prompt: str, generation: Generation, model_name: str) -> GenerateResponse:
    return GenerateResponse(
        generated=[_generated_text(prompt, completion) for completion in generation.completions],
        model=model_name,
        prompt_tokens=generation.num_prompt_tokens,
    )


def _generated_text(prompt: str, completion: Completion) -> GeneratedText:
    return GeneratedText(
        text=prompt + completion.text,
        tokens=completion.num_tokens,
        finish_reason="stop" if completion.finish_reason is FinishReason.STOP else "length",
    )

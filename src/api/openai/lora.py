"""The routes that load and unload LoRA adapters, as vLLM's."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from pydantic import Field, StrictBool, StrictStr

from src.api.deps import EngineDep
from src.api.fields.shared import WireRequest
from src.api.openai.family import OPENAI
from src.api.openapi import error_responses
from src.errors import InvalidRequestError
from src.limits.rate_limit import RateLimitedRoute

router = APIRouter(
    prefix="/v1",
    tags=["operations"],
    route_class=RateLimitedRoute,
    responses=error_responses(OPENAI, 400, 404, 413, 415, 429, 503),
)

TEXT: dict[int | str, dict[str, object]] = {
    200: {"description": "A sentence.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


class LoadAdapterRequest(WireRequest):
    """An adapter to load."""

    lora_name: StrictStr = Field(max_length=256, description="The name, for `model` of requests.")
    lora_path: StrictStr = Field(
        min_length=1, max_length=4096, description="Folder of PEFT's files, inside LORA_DIR."
    )
    load_inplace: StrictBool = Field(
        default=False, description="Replace an adapter of the same name, if there is one."
    )


class UnloadAdapterRequest(WireRequest):
    """An adapter to unload."""

    lora_name: StrictStr = Field(max_length=256, description="The adapter's name.")


@router.post("/load_lora_adapter", response_model=None, responses=TEXT)
async def load_lora_adapter(body: LoadAdapterRequest, engine: EngineDep) -> PlainTextResponse:
    """Load a LoRA adapter; running requests go on meanwhile."""
    if body.lora_name in engine.names:
        raise InvalidRequestError("The name is the served model's own.", ("lora_name",))
    await engine.adapters.load(body.lora_name, body.lora_path, in_place=body.load_inplace)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' added successfully.")


@router.post("/unload_lora_adapter", response_model=None, responses=TEXT)
async def unload_lora_adapter(body: UnloadAdapterRequest, engine: EngineDep) -> PlainTextResponse:
    """Unload a LoRA adapter; requests that run with it are answered."""
    await engine.adapters.unload(body.lora_name)
    return PlainTextResponse(f"Success: LoRA adapter '{body.lora_name}' removed successfully.")

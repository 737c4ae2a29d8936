"""The routes that load and unload LoRA adapters, as vLLM's."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, ConfigDict, Field

from src.api.deps import EngineDep
from src.api.openai.family import OPENAI
from src.api.openapi import error_responses
from src.errors import InvalidRequestError
from src.limits.rate_limit import RateLimitedRoute

router = APIRouter(
    prefix="/v1",
    tags=["OpenAI"],
    route_class=RateLimitedRoute,
    responses=error_responses(OPENAI, 400, 404, 413, 415, 429, 503),
)


class LoadAdapterRequest(BaseModel):
    """An adapter to load."""

    model_config = ConfigDict(extra="forbid")

    lora_name: str = Field(max_length=256, description="The name, for `model` of requests.")
    lora_path: str = Field(
        min_length=1, max_length=4096, description="Folder of PEFT's files, inside LORA_DIR."
    )
    load_inplace: bool = Field(
        default=False, description="Replace an adapter of the same name, if there is one."
    )


class UnloadAdapterRequest(BaseModel):
    """An adapter to unload."""

    model_config = ConfigDict(extra="forbid")

    lora_name: str = Field(max_length=256, description="The adapter's name.")


@router.post("/load_lora_adapter", response_class=PlainTextResponse)
async def load_lora_adapter(body: LoadAdapterRequest, engine: EngineDep) -> str:
    """Load a LoRA adapter; running requests go on meanwhile."""
    if body.lora_name in engine.names:
        raise InvalidRequestError("The name is the served model's own.", ("lora_name",))
    await engine.adapters.load(body.lora_name, body.lora_path, in_place=body.load_inplace)
    return f"Success: LoRA adapter '{body.lora_name}' added successfully."


@router.post("/unload_lora_adapter", response_class=PlainTextResponse)
async def unload_lora_adapter(body: UnloadAdapterRequest, engine: EngineDep) -> str:
    """Unload a LoRA adapter; requests that run with it are answered."""
    await engine.adapters.unload(body.lora_name)
    return f"Success: LoRA adapter '{body.lora_name}' removed successfully."

"""Routes of `/v1/models`."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from src.api.deps import EngineDep
from src.api.openai.family import OPENAI
from src.api.openapi import error_responses
from src.api.served_model import check_model
from src.core.sampling_defaults import Source
from src.inference import InferenceEngine

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=error_responses(OPENAI, 503))


class SamplingDefault(BaseModel):
    """Value of a sampling parameter that a request leaves out."""

    value: int | float
    source: Source = Field(
        description="`setting`: TEMPERATURE or TOP_P. `model`: the model's generation_config.json"
        " or GGUF file. `api`: none of them; `/generate` then has a temperature of 0.7 and a top_p"
        " of 0.9."
    )


class Model(BaseModel):
    """The served model under one of its names."""

    id: str = Field(description="The name, for `model` of requests.")
    object: Literal["model"] = "model"
    created: int = Field(description="When this server started, in Unix time.")
    owned_by: str
    root: str = Field(
        description="The model's id on the hub, which requests may use too; the first name if the"
        " model is not from the hub."
    )
    parent: str | None = Field(
        default=None, description="Of a LoRA adapter, the first name of its base model."
    )
    max_model_len: int = Field(description="Context length in tokens: prompt and new tokens.")
    sampling_defaults: dict[str, SamplingDefault] = Field(
        description="Sampling parameters of requests that leave them out, by their names."
    )


class ModelList(BaseModel):
    """The served model, once for each of its names."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/models")
async def list_models(engine: EngineDep) -> ModelList:
    """List the names of the served model."""
    names = (*engine.names.served, *engine.adapters.names)
    return ModelList(data=[_model(name, engine) for name in names])


@router.get("/models/{model_id:path}", responses=error_responses(OPENAI, 404))
async def retrieve_model(model_id: str, engine: EngineDep) -> Model:
    """Describe the model under one of its names, which may contain slashes."""
    check_model(model_id, engine)
    return _model(model_id, engine)


def _model(name: str, engine: InferenceEngine) -> Model:
    is_adapter = name not in engine.names
    return Model(
        id=name,
        created=engine.created_at,
        owned_by="llm-inference",
        root=name if is_adapter else engine.names.root,
        parent=engine.names.first if is_adapter else None,
        max_model_len=engine.max_model_len,
        sampling_defaults={
            name: SamplingDefault(value=default.value, source=default.source)
            for name, default in engine.sampling_defaults.find().items()
        },
    )

"""Routes of `/v1/models`."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from src.api.deps import EngineDep
from src.api.openai.family import OPENAI
from src.api.openapi import error_responses
from src.api.served_model import check_model
from src.inference import InferenceEngine

router = APIRouter(prefix="/v1", tags=["OpenAI"], responses=error_responses(OPENAI, 503))


class Model(BaseModel):
    """A served model."""

    id: str = Field(description="The server's MODEL_NAME.")
    object: Literal["model"] = "model"
    created: int = Field(description="When this server started, in Unix time.")
    owned_by: str
    max_model_len: int = Field(description="Context length in tokens: prompt and new tokens.")


class ModelList(BaseModel):
    """All served models."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/models")
async def list_models(engine: EngineDep) -> ModelList:
    """List the served model."""
    return ModelList(data=[_model(engine)])


@router.get("/models/{model_id:path}", responses=error_responses(OPENAI, 404))
async def retrieve_model(model_id: str, engine: EngineDep) -> Model:
    """Describe a model; its id may contain slashes."""
    check_model(model_id, engine)
    return _model(engine)


def _model(engine: InferenceEngine) -> Model:
    return Model(
        id=engine.model_name,
        created=engine.created_at,
        owned_by="llm-inference",
        max_model_len=engine.max_model_len,
    )

"""The route of `/v1/embeddings`."""

from fastapi import APIRouter, Request, Response

from src.api.deps import EngineDep, while_connected
from src.api.fields.priority import use_priority
from src.api.openai.embeddings.prompts import read_prompts
from src.api.openai.embeddings.render import render_embeddings
from src.api.openai.embeddings.schemas import EmbeddingList, EmbeddingRequest
from src.api.openai.family import OPENAI
from src.api.openapi import error_responses
from src.api.served_model import check_model
from src.limits.rate_limit import RateLimitedRoute

router = APIRouter(
    prefix="/v1",
    tags=["OpenAI"],
    route_class=RateLimitedRoute,
    responses=error_responses(OPENAI, 400, 404, 413, 415, 429, 500, 503, 504),
)


@router.post("/embeddings", response_model=EmbeddingList)
async def create_embeddings(
    request: Request, body: EmbeddingRequest, engine: EngineDep
) -> Response:
    """Embed texts or token ids: the model's last hidden states, pooled, at length 1."""
    use_priority(body)
    check_model(body.model, engine)
    body.check(engine)
    prompts = await while_connected(request, read_prompts(body, engine))
    embeddings = await while_connected(request, engine.embed(prompts))
    content = await render_embeddings(body, embeddings, engine.model_name)
    return Response(content, media_type="application/json")

"""The routes of rerank and score.

The model is asked whether a document meets the needs of a query, in the words of Qwen3-Reranker
(Zhang et al. 2025, arXiv:2506.05176); the score is the probability of `yes` against `no`.
RERANK_LABELS and RERANK_INSTRUCTION replace the two answers and the task.
"""

import time
import uuid
from collections.abc import Sequence

from fastapi import APIRouter, Request

from src.api.deps import EngineDep, SettingsDep, while_connected
from src.api.fields.priority import use_priority
from src.api.labels import LabelPrompt, LabelReader
from src.api.openai.family import OPENAI
from src.api.openai.ranking.schemas import (
    BilledUnits,
    CohereMeta,
    CohereRerankAnswer,
    DocumentText,
    RankedDocument,
    RankUsage,
    RerankAnswer,
    RerankRequest,
    Score,
    ScoreAnswer,
    ScoreRequest,
)
from src.api.openapi import error_responses
from src.api.served_model import check_model
from src.config import Settings
from src.errors import FieldPath
from src.inference import InferenceEngine
from src.limits.rate_limit import RateLimitedRoute

router = APIRouter(
    tags=["OpenAI"],
    route_class=RateLimitedRoute,
    responses=error_responses(OPENAI, 400, 404, 413, 415, 429, 500, 503, 504),
)

JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct"
    ' provided. Note that the answer can only be "{}" or "{}".'
)


async def _judge(
    engine: InferenceEngine,
    settings: Settings,
    body: RerankRequest | ScoreRequest,
    pairs: Sequence[tuple[str, str]],
    name: str,
) -> tuple[list[float], RankUsage]:
    """Returns the probability of the first label for each query and document, and the tokens.

    Args:
        name: the field of the documents, for errors.
    """
    reader = LabelReader(engine, engine.create_context((name,)))
    answers = settings.rerank_labels.split(",")
    labels = await reader.find_labels(answers, ("model",))
    instruction = body.instruction or settings.rerank_instruction
    judge = JUDGE.format(*answers)
    prompts = []
    for index, (query, document) in enumerate(pairs):
        field: FieldPath = (name, index)
        text = await _cut(engine, document, body.max_tokens_per_doc)
        user = f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {text}"
        prompts.append(LabelPrompt(await reader.encode(judge, user, field), labels))
    probabilities = await reader.probabilities(prompts)
    num_tokens = reader.usage.num_prompt_tokens
    usage = RankUsage(prompt_tokens=num_tokens, total_tokens=num_tokens)
    return [yes for yes, _ in probabilities], usage


async def _cut(engine: InferenceEngine, document: str, max_tokens: int | None) -> str:
    """Returns the first tokens of a document."""
    if max_tokens is None:
        return document
    token_ids = await engine.codec.encode(document, add_special_tokens=False)
    if len(token_ids) <= max_tokens:
        return document
    return await engine.codec.decode(token_ids[:max_tokens])


async def _rank(
    request: Request,
    body: RerankRequest,
    engine: InferenceEngine,
    settings: Settings,
    *,
    returns_documents: bool,
) -> tuple[list[RankedDocument], RankUsage]:
    use_priority(body)
    check_model(body.model, engine)
    pairs = [(body.query, document) for document in body.documents]
    judging = _judge(engine, settings, body, pairs, "documents")
    scores, usage = await while_connected(request, judging)
    best = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    wants = returns_documents if body.return_documents is None else body.return_documents
    ranked = []
    for index in best:
        fields = {"document": DocumentText(text=body.documents[index])} if wants else {}
        ranked.append(RankedDocument(index=index, relevance_score=scores[index], **fields))
    return ranked, usage


@router.post("/rerank", response_model=RerankAnswer, response_model_exclude_unset=True)
@router.post("/v1/rerank", response_model=RerankAnswer, response_model_exclude_unset=True)
async def rerank(
    request: Request, body: RerankRequest, engine: EngineDep, settings: SettingsDep
) -> RerankAnswer:
    """Sort documents by how well they answer a query, as Jina's API does."""
    results, usage = await _rank(request, body, engine, settings, returns_documents=True)
    return RerankAnswer(id=_new_id("rerank"), model=engine.model_name, usage=usage, results=results)


@router.post("/v2/rerank", response_model=CohereRerankAnswer, response_model_exclude_unset=True)
async def rerank_as_cohere(
    request: Request, body: RerankRequest, engine: EngineDep, settings: SettingsDep
) -> CohereRerankAnswer:
    """Sort documents by how well they answer a query, as Cohere's API does."""
    results, _ = await _rank(request, body, engine, settings, returns_documents=False)
    meta = CohereMeta(billed_units=BilledUnits(search_units=1))
    return CohereRerankAnswer(id=_new_id("rerank"), results=results, meta=meta)


@router.post("/score", response_model=ScoreAnswer)
@router.post("/v1/score", response_model=ScoreAnswer)
async def score(
    request: Request, body: ScoreRequest, engine: EngineDep, settings: SettingsDep
) -> ScoreAnswer:
    """Score pairs of a query and a document."""
    use_priority(body)
    check_model(body.model, engine)
    name, pairs = body.pairs()
    scores, usage = await while_connected(request, _judge(engine, settings, body, pairs, name))
    return ScoreAnswer(
        id=_new_id("score"),
        created=int(time.time()),
        model=engine.model_name,
        data=[Score(index=index, score=value) for index, value in enumerate(scores)],
        usage=usage,
    )


def _new_id(prefix: str) -> str:
    return f"{prefix}-{uuid.uuid4().hex}"

"""The routes of `/v1/batches`."""

from typing import Annotated

from fastapi import APIRouter, Query

from src.api.deps import EngineDep, JobsDep, OwnerDep, RunnerWakeDep
from src.api.openai.batches.schemas import BatchObject, BatchPage, BatchRequest
from src.api.openai.family import OPENAI
from src.api.openapi import error_responses
from src.errors import InvalidRequestError, JobNotFoundError, JobStateError
from src.jobs.files import Page
from src.limits.rate_limit import RateLimitedPost

router = APIRouter(
    prefix="/v1/batches",
    tags=["OpenAI"],
    route_class=RateLimitedPost,
    responses=error_responses(OPENAI, 400, 404, 409, 413, 415, 429, 503, 507),
)


@router.post("", response_model=BatchObject)
async def create_batch(
    body: BatchRequest, jobs: JobsDep, owner: OwnerDep, engine: EngineDep, wake: RunnerWakeDep
) -> BatchObject:
    """Answer the requests of a file in the background."""
    try:
        batch = await jobs.batches.create(owner, body.new_batch(engine.names.first))
    except (JobNotFoundError, JobStateError) as error:
        raise InvalidRequestError(str(error), ("input_file_id",)) from None
    wake()
    return BatchObject.of(batch)


@router.get("", response_model=BatchPage)
async def list_batches(
    jobs: JobsDep,
    owner: OwnerDep,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> BatchPage:
    """List the key's batches, newest first."""
    batches, has_more = await jobs.batches.find_page(owner.id, Page(limit, after))
    return BatchPage.of([BatchObject.of(batch) for batch in batches], has_more=has_more)


@router.get("/{batch_id}", response_model=BatchObject)
async def get_batch(batch_id: str, jobs: JobsDep, owner: OwnerDep) -> BatchObject:
    """Tell how far a batch is."""
    return BatchObject.of(await jobs.batches.get(owner.id, batch_id))


@router.post("/{batch_id}/cancel", response_model=BatchObject)
async def cancel_batch(batch_id: str, jobs: JobsDep, owner: OwnerDep) -> BatchObject:
    """End a batch early; answers so far are kept."""
    return BatchObject.of(await jobs.batches.cancel(owner.id, batch_id))

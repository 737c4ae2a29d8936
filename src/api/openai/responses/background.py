"""Background responses: `background: true` of `/v1/responses`, and the routes to poll them."""

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from src.api.chat.pipeline import prepare_chat
from src.api.deps import (
    JobsDep,
    OwnerDep,
    RunnerWakeDep,
    get_jobs,
    get_owner,
    get_runner_wake,
    get_settings,
    off_loop,
)
from src.api.openai.family import OPENAI
from src.api.openai.responses.render import ResponseRenderer
from src.api.openai.responses.request import ResponseRequest
from src.api.openai.responses.response import Response as Answer
from src.api.openapi import error_responses
from src.errors import InvalidRequestError
from src.inference import InferenceEngine
from src.jobs.background.store import NewResponse
from src.jobs.lines import dump_body
from src.limits.rate_limit import RateLimitedPost

router = APIRouter(
    prefix="/v1/responses",
    tags=["OpenAI"],
    route_class=RateLimitedPost,
    responses=error_responses(OPENAI, 400, 404, 415, 429, 503, 507),
)


class DeletedResponse(BaseModel):
    """A response that was deleted."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


async def queue_response(
    request: Request, body: ResponseRequest, engine: InferenceEngine
) -> Response:
    """Stores a valid request, which a runner answers soon, and returns the queued response.

    Raises:
        InvalidRequestError: as of the route without `background`.
        RateLimitedError: the caller has too many unfinished responses.
        StorageFullError, StorageDownError: BATCH_DIR cannot be used.
    """
    if get_settings(request).background_max_responses == 0:
        message = "This server answers no requests in the background (BACKGROUND_MAX_RESPONSES=0)."
        raise InvalidRequestError(message, ("background",))
    chat = await prepare_chat(request, body, engine)
    data = await request.body()
    renderer = ResponseRenderer(body, chat, len(data))

    def create() -> tuple[NewResponse, bytes]:
        text = renderer.queued().model_dump_json(by_alias=True, exclude_unset=True)
        answer = json.loads(text)
        later = dump_body(_without_background(json.loads(data)))
        return NewResponse(answer["id"], engine.model_name, later, answer), text.encode()

    new, content = await off_loop(request, create)
    jobs = await get_jobs(request)
    await jobs.background.create(get_owner(request), new)
    get_runner_wake(request)()
    return _json(content)


def _without_background(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "background"}


@router.get("/{response_id}", response_model=Answer)
async def get_response(
    response_id: str,
    jobs: JobsDep,
    owner: OwnerDep,
    stream: Annotated[
        bool, Query(description="Must be false: poll until the status is a final one.")
    ] = False,
) -> Response:
    """Return a background response as it is now."""
    if stream:
        message = "Background responses cannot be streamed: leave stream out, and poll."
        raise InvalidRequestError(message, ("stream",))
    return _json(await jobs.background.get(owner.id, response_id))


@router.post("/{response_id}/cancel", response_model=Answer)
async def cancel_response(
    response_id: str, jobs: JobsDep, owner: OwnerDep, wake: RunnerWakeDep
) -> Response:
    """End a background response; one that has ended stays as it is."""
    content = await jobs.background.cancel(owner.id, response_id)
    wake()
    return _json(content)


@router.delete("/{response_id}", response_model=DeletedResponse)
async def delete_response(
    response_id: str, jobs: JobsDep, owner: OwnerDep, wake: RunnerWakeDep
) -> DeletedResponse:
    """Delete a background response, and end it if it runs."""
    await jobs.background.delete(owner.id, response_id)
    wake()
    return DeletedResponse(id=response_id)


def _json(content: bytes) -> Response:
    return Response(content, media_type="application/json")

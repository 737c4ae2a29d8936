"""The routes of `/v1/files`."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, BinaryIO, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from src.api.deps import JobsDep, OwnerDep
from src.api.openai.family import OPENAI
from src.api.openai.files.form import read_form
from src.api.openai.files.schemas import (
    FORM_SCHEMA,
    FileDeleted,
    FileObject,
    FilePage,
    upload_purpose,
    upload_seconds,
)
from src.api.openapi import error_responses
from src.jobs.files import Page
from src.limits.rate_limit import RateLimitedPost

CHUNK_BYTES = 2**18

router = APIRouter(
    prefix="/v1/files",
    tags=["OpenAI"],
    route_class=RateLimitedPost,
    responses=error_responses(OPENAI, 400, 404, 413, 429, 503, 507),
)


@router.post("", response_model=FileObject, openapi_extra={"requestBody": FORM_SCHEMA})
async def create_file(request: Request, jobs: JobsDep, owner: OwnerDep) -> FileObject:
    """Store a file: requests for a batch, or examples for fine-tuning."""
    upload = await jobs.files.begin_upload(owner.id)
    try:
        form = await read_form(request, upload)
        purpose, seconds = upload_purpose(form), upload_seconds(form)
        name = form.filename or ""
        return FileObject.of(
            await jobs.files.finish_upload(upload, owner.id, purpose, name, seconds)
        )
    finally:
        await asyncio.to_thread(upload.close)


@router.get("", response_model=FilePage)
async def list_files(
    jobs: JobsDep,
    owner: OwnerDep,
    after: Annotated[str | None, Query(max_length=100)] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
    purpose: Annotated[str | None, Query(max_length=100)] = None,
) -> FilePage:
    """List the key's files, newest first."""
    page = Page(limit, after, is_ascending=order == "asc")
    files, has_more = await jobs.files.find_page(owner.id, page, purpose)
    return FilePage.of([FileObject.of(file) for file in files], has_more=has_more)


@router.get("/{file_id}", response_model=FileObject)
async def get_file(file_id: str, jobs: JobsDep, owner: OwnerDep) -> FileObject:
    """Describe a file."""
    return FileObject.of(await jobs.files.get(owner.id, file_id))


@router.delete("/{file_id}", response_model=FileDeleted)
async def delete_file(file_id: str, jobs: JobsDep, owner: OwnerDep) -> FileDeleted:
    """Delete a file; batches that read it go on."""
    await jobs.files.delete(owner.id, file_id)
    return FileDeleted(id=file_id)


@router.get("/{file_id}/content", response_class=StreamingResponse)
async def get_file_content(file_id: str, jobs: JobsDep, owner: OwnerDep) -> StreamingResponse:
    """Download a file."""
    file, content = await jobs.files.open(owner.id, file_id)
    return StreamingResponse(
        _chunks(content),
        media_type="application/octet-stream",
        headers={"Content-Length": str(file.num_bytes)},
    )


async def _chunks(content: BinaryIO) -> AsyncIterator[bytes]:
    try:
        while chunk := await asyncio.to_thread(content.read, CHUNK_BYTES):
            yield chunk
    finally:
        content.close()

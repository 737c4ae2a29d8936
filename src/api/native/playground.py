"""Routes of the playground: the page at `/`, which is JSON for other clients, and its files."""

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException
from starlette.status import HTTP_404_NOT_FOUND

from src import __version__
from src.api.deps import PlaygroundDep
from src.models import ServiceLinks
from src.playground.files import StaticFile

router = APIRouter(tags=["operations"])

FOR_GOOD = "public, max-age=31536000, immutable"
REVALIDATED = "no-cache"


@router.get(
    "/",
    response_model=ServiceLinks,
    responses={
        200: {
            "description": "Links as JSON, or for `Accept: text/html` the playground's page.",
            "content": {"text/html": {"schema": {"type": "string"}}},
        }
    },
)
async def root(request: Request, playground: PlaygroundDep) -> Response:
    """Links of the service; for a browser the playground, a page to chat with the model."""
    if playground is not None and "text/html" in request.headers.get("accept", ""):
        return _file_response(request, playground.page, {"Vary": "Accept, Accept-Encoding"})
    links = ServiceLinks(version=__version__, playground=None if playground is None else "/")
    return Response(
        links.model_dump_json(), media_type="application/json", headers={"Vary": "Accept"}
    )


@router.get("/playground/{version}/{path:path}", include_in_schema=False)
async def playground_file(
    version: str, path: str, request: Request, playground: PlaygroundDep
) -> Response:
    """A file of the playground; the path of the current version may be cached for good."""
    file = None if playground is None else playground.files.get(path)
    if playground is None or file is None:
        raise HTTPException(HTTP_404_NOT_FOUND)
    cache = FOR_GOOD if version == playground.version else REVALIDATED
    return _file_response(request, file, {"Vary": "Accept-Encoding", "Cache-Control": cache})


def _file_response(request: Request, file: StaticFile, headers: dict[str, str]) -> Response:
    headers["Content-Type"] = file.content_type
    if "gzip" not in request.headers.get("accept-encoding", ""):
        return Response(file.body, headers=headers)
    return Response(file.compressed, headers=headers | {"Content-Encoding": "gzip"})

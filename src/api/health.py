"""What probes and scrapers ask: is it alive, is it ready, what are its figures."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from starlette.status import HTTP_200_OK, HTTP_503_SERVICE_UNAVAILABLE

from src import __version__
from src.api.deps import EngineDep, MetricsDep
from src.inference import EngineState
from src.models import HealthResponse

router = APIRouter(tags=["operations"])

STATUS: dict[EngineState, Literal["healthy", "loading", "unhealthy"]] = {
    EngineState.LOADING: "loading",
    EngineState.READY: "healthy",
    EngineState.DEAD: "unhealthy",
}
UNAVAILABLE = {"model": HealthResponse, "description": "The service cannot do this now."}


def _health(state: EngineState, response: Response, *, ok: bool) -> HealthResponse:
    response.status_code = HTTP_200_OK if ok else HTTP_503_SERVICE_UNAVAILABLE
    return HealthResponse(
        status=STATUS[state], model_loaded=state is not EngineState.LOADING, version=__version__
    )


@router.get("/health", responses={503: UNAVAILABLE})
async def health(engine: EngineDep, response: Response) -> HealthResponse:
    """How the service is: `healthy` or `loading` with 200, `unhealthy` with 503."""
    return _health(engine.state, response, ok=engine.state is not EngineState.DEAD)


@router.get("/health/live", responses={503: UNAVAILABLE})
async def live(engine: EngineDep, response: Response) -> HealthResponse:
    """Liveness: 503 means that only a restart helps."""
    return _health(engine.state, response, ok=engine.state is not EngineState.DEAD)


@router.get("/health/ready", responses={503: UNAVAILABLE})
async def ready(engine: EngineDep, response: Response) -> HealthResponse:
    """Readiness: 200 once requests can be served."""
    return _health(engine.state, response, ok=engine.state is EngineState.READY)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request, metrics: MetricsDep, engine: EngineDep) -> Response:
    """All metrics in Prometheus' text format."""
    metrics.ready.set(engine.state is EngineState.READY)
    body, content_type = metrics.render(request.headers.get("accept", ""))
    return Response(body, media_type=content_type)

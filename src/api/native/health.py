"""Routes of probes and scrapers: `/health`, `/health/live`, `/health/ready`, `/metrics`."""

from typing import Literal

from fastapi import APIRouter, Request, Response
from starlette.status import HTTP_503_SERVICE_UNAVAILABLE

from src import __version__
from src.api.deps import DrainingDep, EngineDep, MetricsDep
from src.core.engine_lifecycle import EngineState
from src.inference import InferenceEngine
from src.models import HealthResponse
from src.server.draining import Draining

router = APIRouter(tags=["operations"])

Status = Literal["healthy", "loading", "stopping", "unhealthy"]
STATUS: dict[EngineState, Status] = {
    EngineState.LOADING: "loading",
    EngineState.READY: "healthy",
    EngineState.DEAD: "unhealthy",
}
UNAVAILABLE = {"model": HealthResponse, "description": "The check has failed."}


def _health(engine: InferenceEngine, draining: Draining) -> HealthResponse:
    state = engine.state
    is_stopping = draining.is_draining and state is EngineState.READY
    return HealthResponse(
        status="stopping" if is_stopping else STATUS[state],
        model_loaded=state is not EngineState.LOADING,
        version=__version__,
    )


@router.get("/health", responses={503: UNAVAILABLE})
async def health(engine: EngineDep, draining: DrainingDep, response: Response) -> HealthResponse:
    """State of the service: `healthy`, `loading` or `stopping` with 200, `unhealthy` with 503."""
    if engine.state is EngineState.DEAD:
        response.status_code = HTTP_503_SERVICE_UNAVAILABLE
    return _health(engine, draining)


@router.get("/health/live", responses={503: UNAVAILABLE})
async def live(engine: EngineDep, draining: DrainingDep, response: Response) -> HealthResponse:
    """Liveness: 503 means that only a restart helps."""
    return await health(engine, draining, response)


@router.get("/health/ready", responses={503: UNAVAILABLE})
async def ready(engine: EngineDep, draining: DrainingDep, response: Response) -> HealthResponse:
    """Readiness: 200 while requests can be served."""
    if not _is_ready(engine, draining):
        response.status_code = HTTP_503_SERVICE_UNAVAILABLE
    return _health(engine, draining)


def _is_ready(engine: InferenceEngine, draining: Draining) -> bool:
    return engine.state is EngineState.READY and not draining.is_draining


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(
    request: Request, metrics: MetricsDep, engine: EngineDep, draining: DrainingDep
) -> Response:
    """All metrics in Prometheus' text format."""
    metrics.ready.set(_is_ready(engine, draining))
    body, content_type = metrics.render(request.headers.get("accept", ""))
    return Response(body, media_type=content_type)

"""Parts of the service, which the server, the lifespan and the routes share."""

import asyncio
from dataclasses import dataclass, field

from fastapi import FastAPI

from src.auth.authenticators import Watched, watch_keys
from src.config import Settings
from src.core.model_names import find_model_names
from src.core.request_validation import RequestLimits
from src.engine.structured_output.compile_pool import GrammarLimits
from src.inference import InferenceEngine
from src.jobs.access import JobsAccess
from src.jobs.background.store import ResponseLimits
from src.jobs.files import Quota
from src.limits.rate_limit import RateLimit
from src.limits.usage import Usage
from src.middleware.route_policy import RoutePolicies
from src.observability.batch_metrics import BatchMetrics
from src.observability.engine_metrics import EngineMetrics
from src.observability.http_metrics import HttpMetrics
from src.observability.tracing import Tracing, create_tracing
from src.playground.files import Playground, load_playground
from src.server.draining import Draining


@dataclass(slots=True)
class Service:
    """Parts and state of the service; `app.state.service` of each app.

    Args:
        settings: of the service.
        policies: of all routes.
        engine: generates text; has no model before the lifespan has loaded one.
        http_metrics: of the process and of HTTP requests; owns the registry.
        engine_metrics: of the engine, in the same registry.
        batch_metrics: of batches, in the same registry.
        rate_limit: counts requests, tokens and open requests against limits.
        usage: accounts of requests.
        tracing: None without OTEL_EXPORTER_OTLP_ENDPOINT.
        watched_keys: API keys or JWKS that are read again when their file changes; None without.
        jobs: files and batches.
        playground: files of the page at `/`; None with PLAYGROUND=false.
        wait_for_model: the server listens only once the model is loaded.
        draining: state of a graceful shutdown.
        is_loaded: the model is loaded.
        url: address to print; None if it is not known before the server listens.
        engine_watch: waits for the engine's death; None before the lifespan begins.
    """

    settings: Settings
    policies: RoutePolicies
    engine: InferenceEngine
    http_metrics: HttpMetrics
    engine_metrics: EngineMetrics
    batch_metrics: BatchMetrics
    rate_limit: RateLimit
    usage: Usage
    tracing: Tracing | None
    watched_keys: Watched | None
    jobs: JobsAccess
    playground: Playground | None
    wait_for_model: bool
    draining: Draining = field(default_factory=Draining)
    is_loaded: bool = False
    url: str | None = None
    engine_watch: asyncio.Task[None] | None = None

    def shutdown(self) -> None:
        """Stops the engine, then flushes usage and spans; blocks. A second call has no effect."""
        self.engine.shutdown()
        self.usage.shutdown()
        if self.tracing is not None:
            self.tracing.shutdown()


def service_of(app: FastAPI) -> Service:
    """Returns the parts of an app that `create_app` made."""
    service = app.state.service
    assert isinstance(service, Service)
    return service


def create_service(settings: Settings, policies: RoutePolicies) -> Service:
    """Creates all parts; the model is loaded later.

    Args:
        settings: of the service.
        policies: of all routes.

    Raises:
        SettingsError: a setting has a bad value.
    """
    model_name = find_model_names(settings.model_name, settings.served_model_name).first
    tracing = create_tracing(model_name)
    http_metrics = HttpMetrics()
    http_metrics.max_step_seconds.set(settings.hang_timeout_seconds)
    measured = (policy.path for policy in policies.policies if policy.is_measured)
    http_metrics.expect_requests(sorted(measured))
    engine_metrics = EngineMetrics(http_metrics.registry, model_name)
    rate_limit = RateLimit(settings, http_metrics.limit_storage_up)
    usage = Usage(settings, rate_limit, http_metrics)
    return Service(
        settings=settings,
        policies=policies,
        engine=_create_engine(settings, engine_metrics, tracing, usage),
        http_metrics=http_metrics,
        engine_metrics=engine_metrics,
        batch_metrics=BatchMetrics(http_metrics.registry),
        rate_limit=rate_limit,
        usage=usage,
        tracing=tracing,
        watched_keys=watch_keys(settings),
        jobs=JobsAccess(
            settings.batch_dir,
            Quota(settings.batch_max_file_bytes, settings.batch_quota_bytes),
            ResponseLimits(settings.background_max_responses, settings.background_ttl_seconds),
        ),
        playground=load_playground() if settings.playground else None,
        wait_for_model=settings.listen_when_loaded,
    )


def _create_engine(
    settings: Settings, observer: EngineMetrics, tracer: Tracing | None, meter: Usage
) -> InferenceEngine:
    return InferenceEngine(
        settings.engine_config(),
        settings.timeout_seconds,
        observer,
        tracer,
        GrammarLimits(
            settings.max_grammar_bytes,
            settings.grammar_timeout_seconds,
            settings.grammar_cache_size,
            int(settings.grammar_memory_gb * 2**30),
        ),
        meter,
        RequestLimits(
            settings.max_prompt_bytes,
            settings.max_stop_texts,
            settings.max_stop_length,
            settings.max_request_sequences,
            settings.max_request_logprobs,
        ),
        settings.served_model_name,
        settings.sampling_settings,
    )

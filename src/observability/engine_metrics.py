"""Prometheus metrics of the engine: sequences, tokens, times, steps.

Metrics that OpenTelemetry's conventions for generative AI define have their names, labels and
buckets: opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics, the server's metrics.
"""

from prometheus_client import CollectorRegistry, Counter

from src.core.observers import SequenceStats
from src.engine.request import EngineStats, StepStats
from src.observability.metric_specs import MetricSpec, MetricTable
from src.observability.step_feed import StepFeed

ADMITTED = "admitted"
FINISHED = ("stop", "length", "embedded")
ABORTED = ("cancelled", "timeout", "shutdown")
FAILED = ("expired", "displaced", "dead_end", "error")
GRAMMAR_OUTCOMES = ("compiled", "cached", "refused")
EMBEDDINGS = "embeddings"
"""The conventions' name of an operation without a first token."""

PROVIDER = "llm-inference"
OPERATION = "gen_ai_operation_name"
MODEL_LABELS = (OPERATION, "gen_ai_provider_name", "gen_ai_request_model")
QUEUE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120)

# The conventions' buckets.
FIRST_TOKEN_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
)  # fmt: skip
TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
DURATION_SECONDS = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)

TABLE = MetricTable()

STARTED = TABLE.counter("inference_sequences_started_total", "Sequences accepted by the engine.")
SEQUENCES_FINISHED = TABLE.counter(
    "inference_sequences_finished_total",
    "Sequences that were computed to their end.",
    "reason",
    values=FINISHED,
)
SEQUENCES_ABORTED = TABLE.counter(
    "inference_sequences_aborted_total",
    "Sequences stopped before their end, as their answer is no longer needed.",
    "reason",
    values=ABORTED,
)
SEQUENCES_FAILED = TABLE.counter(
    "inference_sequences_failed_total",
    "Sequences that failed. reason: expired (too long in the queue), displaced (removed from a full"
    " queue in favour of another key), dead_end (its grammar allowed no next token, or exceeded its"
    " limits of time or memory), error.",
    "reason",
    values=FAILED,
)
PREEMPTED = TABLE.counter(
    "inference_sequences_preempted_total",
    "Preemptions: a running sequence made room for another key's, or for lack of KV cache, and"
    " resumes later.",
)
LIVE = TABLE.gauge("inference_sequences_live", "Sequences started and not ended yet.")
RUNNING = TABLE.gauge("inference_sequences_running", "Sequences in the batch.")
WAITING = TABLE.gauge("inference_sequences_waiting", "Sequences in the queue.")
REUSABLE = TABLE.gauge(
    "inference_kv_cache_reusable_tokens",
    "Tokens of ended sequences kept in the KV cache for their prefixes.",
)
KV_USAGE = TABLE.gauge(
    "inference_kv_cache_usage_ratio",
    "Used share of the KV cache, 0 to 1; the maximum of all workers.",
    across_workers="livemax",
)
PROMPT_TOKENS = TABLE.counter("prompt_tokens_total", "Tokens in prompts.")
CACHED_TOKENS = TABLE.counter(
    "cached_prompt_tokens_total", "Prompt tokens found in the KV cache, so not computed."
)
GENERATED_TOKENS = TABLE.counter("generated_tokens_total", "Tokens generated.")
DRAFTED_TOKENS = TABLE.counter(
    "inference_drafted_tokens_total", "Draft tokens of speculation (NUM_SPECULATIVE_TOKENS)."
)
ACCEPTED_TOKENS = TABLE.counter(
    "inference_accepted_tokens_total", "Draft tokens that the model accepted."
)
QUEUE_TIME = TABLE.histogram(
    "inference_queue_seconds",
    "Seconds of a sequence in the queue. outcome: admitted to the batch, or expired, displaced,"
    " cancelled, timeout before that.",
    QUEUE_SECONDS,
    OPERATION,
    "outcome",
)
PREFILL_TIME = TABLE.histogram(
    "inference_prefill_seconds",
    "Seconds from a sequence's admission to its first token, or to its embedding.",
    FIRST_TOKEN_SECONDS,
    OPERATION,
)
INTER_TOKEN_TIME = TABLE.histogram(
    "inference_inter_token_seconds", "Seconds between two tokens of a sequence.", TOKEN_SECONDS
)
GRAMMARS = TABLE.counter(
    "inference_grammars_total",
    "Grammars requested. outcome: compiled, cached, refused, saturated (503).",
    "outcome",
    values=GRAMMAR_OUTCOMES,
)
GRAMMAR_TIME = TABLE.histogram(
    "inference_grammar_seconds", "Seconds to compile or to refuse a grammar.", TOKEN_SECONDS
)
STEP_SEQUENCES = TABLE.histogram("inference_step_sequences", "Sequences in a step.", BATCH_SIZES)
STEP_TOKENS = TABLE.histogram("inference_step_tokens", "Tokens computed in a step.", BATCH_SIZES)
STEP_TIME = TABLE.histogram("inference_step_seconds", "Seconds of a step.", TOKEN_SECONDS)
STEP_AGE = TABLE.gauge(
    "inference_step_age_seconds",
    "Seconds since the current step began, updated once a second; 0 between steps; the maximum of"
    " all workers. With ENGINE=reference a step is a token, or a whole embedding.",
    across_workers="livemax",
)
TIME_TO_FIRST_TOKEN = TABLE.histogram(
    "gen_ai_server_time_to_first_token_seconds",
    "Seconds from a sequence's arrival to its first token.",
    FIRST_TOKEN_SECONDS,
    *MODEL_LABELS,
)
TIME_PER_OUTPUT_TOKEN = TABLE.histogram(
    "gen_ai_server_time_per_output_token_seconds",
    "Seconds per token after the first, averaged over a finished sequence.",
    TOKEN_SECONDS,
    *MODEL_LABELS,
)
DURATION = TABLE.histogram(
    "gen_ai_server_request_duration_seconds",
    "Seconds from a sequence's arrival to its end; error_type is empty if it finished.",
    DURATION_SECONDS,
    *MODEL_LABELS,
    "error_type",
)


class EngineMetrics:
    """Observer of the engine, as `core/observers.py` defines it.

    The sequences started are at all times the sum of those finished, aborted, failed and live. With
    several workers this holds once they are idle, as a scrape may read one while another counts.

    Args:
        registry: holds the metrics.
        model_name: label of the conventions' metrics.
    """

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        self._metrics = TABLE.create(registry)
        self.model_name = model_name
        self.step_feed = StepFeed()

    def _model(self) -> tuple[str, str]:
        """Values of the last two MODEL_LABELS."""
        return PROVIDER, self.model_name

    def sequence_started(self) -> None:
        self._metrics[STARTED].inc()
        self._metrics[LIVE].inc()

    def sequence_admitted(self, sequence: SequenceStats) -> None:
        assert sequence.queue_seconds is not None
        queue_time = self._metrics[QUEUE_TIME].labels(sequence.operation, ADMITTED)
        queue_time.observe(sequence.queue_seconds)

    def prompt_computed(self, sequence: SequenceStats, seconds: float) -> None:
        self._metrics[PREFILL_TIME].labels(sequence.operation).observe(seconds)
        self._metrics[PROMPT_TOKENS].inc(sequence.num_prompt_tokens)
        self._metrics[CACHED_TOKENS].inc(sequence.num_cached_tokens)

    def first_token(self, sequence: SequenceStats) -> None:
        assert sequence.time_to_first_token is not None
        labels = sequence.operation, *self._model()
        self._metrics[TIME_TO_FIRST_TOKEN].labels(*labels).observe(sequence.time_to_first_token)
        self._metrics[GENERATED_TOKENS].inc()

    def next_tokens(self, count: int, seconds: float) -> None:
        self.step_feed.sequence_decoded()
        for _ in range(count):
            self._metrics[INTER_TOKEN_TIME].observe(seconds)
        self._metrics[GENERATED_TOKENS].inc(count)

    def sequence_ended(self, sequence: SequenceStats) -> None:
        operation, outcome, seconds = sequence.operation, sequence.outcome, sequence.seconds
        assert outcome is not None
        assert seconds is not None
        self._metrics[LIVE].dec()
        self._metrics[_end_counter(outcome)].labels(outcome).inc()
        if sequence.admitted_at is None and sequence.queue_seconds is not None:
            self._metrics[QUEUE_TIME].labels(operation, outcome).observe(sequence.queue_seconds)
        error_type = "" if outcome in FINISHED else outcome
        labels = operation, *self._model()
        self._metrics[DURATION].labels(*labels, error_type).observe(seconds)
        per_token = sequence.time_per_output_token
        if outcome in FINISHED and per_token is not None:
            self._metrics[TIME_PER_OUTPUT_TOKEN].labels(*labels).observe(per_token)

    def engine_updated(self, stats: EngineStats, step: StepStats | None) -> None:
        self._metrics[RUNNING].set(stats.num_running)
        self._metrics[WAITING].set(stats.num_waiting)
        self._metrics[REUSABLE].set(stats.num_cached_tokens)
        self._metrics[KV_USAGE].set(stats.kv_usage)
        self.step_feed.step_ended(stats, step)
        if step is not None:
            self._metrics[STEP_SEQUENCES].observe(step.num_sequences)
            self._metrics[STEP_TOKENS].observe(step.num_tokens)
            self._metrics[STEP_TIME].observe(step.seconds)
            self._metrics[DRAFTED_TOKENS].inc(step.num_drafted)
            self._metrics[ACCEPTED_TOKENS].inc(step.num_accepted)
            self._metrics[PREEMPTED].inc(step.num_preempted)

    def step_in_progress(self, seconds: float) -> None:
        self._metrics[STEP_AGE].set(seconds)

    def grammar_asked_for(self, outcome: str, seconds: float) -> None:
        self._metrics[GRAMMARS].labels(outcome).inc()
        if outcome != "cached":
            self._metrics[GRAMMAR_TIME].observe(seconds)


def _end_counter(outcome: str) -> MetricSpec[Counter]:
    if outcome in FINISHED:
        return SEQUENCES_FINISHED
    return SEQUENCES_ABORTED if outcome in ABORTED else SEQUENCES_FAILED

"""What the engine does, in Prometheus' metrics: sequences, tokens, times, steps.

Where OpenTelemetry's conventions for generative AI have a metric it has their name, labels and
buckets: opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics, the server's metrics. Counters
are there from the start with all their labels, so that Prometheus sees the first of each.
"""

from collections.abc import Sequence
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from src.core.observers import SequenceStats
from src.engine.request import EngineStats, StepStats

ADMITTED = "admitted"
FINISHED = ("stop", "length", "embedded")
ABORTED = ("cancelled", "timeout", "shutdown")
FAILED = ("expired", "displaced", "error")
GRAMMAR_OUTCOMES = ("compiled", "cached", "refused")
EMBEDDINGS = "embeddings"
"""The conventions' name of an operation without a first token."""

QUEUE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120)
OPERATION = "gen_ai_operation_name"

# The conventions' buckets.
FIRST_TOKEN_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10,
)  # fmt: skip
TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5)
DURATION_SECONDS = (
    0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
)  # fmt: skip
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class EngineMetrics:
    """Counts and times what the engine does; `src/core/observers.py` says what and when.

    Sequences started are at all times those finished, aborted, failed and live together; with
    several workers once they rest, as one may count while another reads.

    Args:
        registry: where to register.
        model_name: the server's.
    """

    def __init__(self, registry: CollectorRegistry, model_name: str) -> None:
        def counter(
            name: str, meaning: str, label: str = "", values: Sequence[str] = ()
        ) -> Counter:
            created = Counter(name, meaning, [label] if label else [], registry=registry)
            for value in values:
                created.labels(value)
            return created

        def gauge(
            name: str, meaning: str, of_workers: Literal["livesum", "livemax"] = "livesum"
        ) -> Gauge:
            return Gauge(name, meaning, registry=registry, multiprocess_mode=of_workers)

        def histogram(name: str, meaning: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(name, meaning, labels, buckets=buckets, registry=registry)

        self._started = counter("inference_sequences_started_total", "Sequences taken in.")
        self._finished = counter(
            "inference_sequences_finished_total",
            "Sequences that came to their end.",
            "reason",
            FINISHED,
        )
        self._aborted = counter(
            "inference_sequences_aborted_total",
            "Sequences nobody waits for any more.",
            "reason",
            ABORTED,
        )
        self._failed = counter(
            "inference_sequences_failed_total",
            "Sequences that failed. reason: expired (it waited too long for its turn),"
            " displaced (its place in a full queue went to another key), error.",
            "reason",
            FAILED,
        )
        self._preempted = counter(
            "inference_sequences_preempted_total",
            "Times that a running sequence gave its place to another key's, which had less than its"
            " share; it goes on later.",
        )
        self._live = gauge("inference_sequences_live", "Sequences started and not ended yet.")
        self._running = gauge("inference_sequences_running", "Sequences that are being computed.")
        self._waiting = gauge("inference_sequences_waiting", "Sequences that wait for their turn.")
        self._cached = gauge(
            "inference_sequences_cached", "Ended sequences whose keys and values are still held."
        )
        self._kv_usage = gauge(
            "inference_kv_cache_usage_ratio",
            "Share of the KV cache that holds something, 0 to 1; of several workers the fullest.",
            of_workers="livemax",
        )
        self._prompt_tokens = counter("prompt_tokens_total", "Tokens in prompts.")
        self._cached_tokens = counter(
            "cached_prompt_tokens_total", "Tokens of prompts that did not have to be computed."
        )
        self._generated_tokens = counter("generated_tokens_total", "Tokens generated.")
        self._drafted_tokens = counter(
            "inference_drafted_tokens_total", "Tokens guessed ahead (NUM_SPECULATIVE_TOKENS)."
        )
        self._accepted_tokens = counter(
            "inference_accepted_tokens_total", "Guessed tokens that the model chose too."
        )
        self._queue_seconds = histogram(
            "inference_queue_seconds",
            "Seconds that a sequence was in the queue. outcome: admitted (it got its turn), or"
            " expired, displaced, cancelled, timeout (it left without).",
            QUEUE_SECONDS,
            OPERATION,
            "outcome",
        )
        self._prefill_seconds = histogram(
            "inference_prefill_seconds",
            "Seconds from a sequence's turn to its first token, or to its embedding.",
            FIRST_TOKEN_SECONDS,
            OPERATION,
        )
        self._inter_token_seconds = histogram(
            "inference_inter_token_seconds",
            "Seconds between two tokens of a sequence.",
            TOKEN_SECONDS,
        )
        self._grammars = counter(
            "inference_grammars_total",
            "Grammars asked for. outcome: compiled, cached, refused, saturated (503).",
            "outcome",
            GRAMMAR_OUTCOMES,
        )
        self._grammar_seconds = histogram(
            "inference_grammar_seconds",
            "Seconds to compile a grammar, or to refuse it.",
            TOKEN_SECONDS,
        )
        self._batch_size = histogram(
            "inference_step_sequences", "Sequences that a step computed.", BATCH_SIZES
        )
        self._batch_tokens = histogram(
            "inference_step_tokens", "Tokens that a step computed.", BATCH_SIZES
        )
        self._step_seconds = histogram(
            "inference_step_seconds", "Seconds that a step took.", TOKEN_SECONDS
        )
        self._step_age = gauge(
            "inference_step_age_seconds",
            "Seconds that the step in progress has been taking, looked at once a second; 0 between"
            " steps; of several workers the longest. With ENGINE=reference a step is a token, or a"
            " whole embedding.",
            of_workers="livemax",
        )
        labels = (OPERATION, "gen_ai_provider_name", "gen_ai_request_model")
        self._time_to_first_token = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Seconds from a sequence's arrival to its first token.",
            FIRST_TOKEN_SECONDS,
            *labels,
        )
        self._time_per_output_token = histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Seconds for each token after the first, on average over a finished sequence.",
            TOKEN_SECONDS,
            *labels,
        )
        self._duration = histogram(
            "gen_ai_server_request_duration_seconds",
            "Seconds from a sequence's arrival to its end; error_type is empty if it finished.",
            DURATION_SECONDS,
            *labels,
            "error_type",
        )
        self.model_name = model_name

    def _model(self) -> tuple[str, str]:
        """The labels `gen_ai_provider_name` and `gen_ai_request_model`."""
        return "llm-inference", self.model_name

    def sequence_started(self) -> None:
        self._started.inc()
        self._live.inc()

    def sequence_admitted(self, sequence: SequenceStats) -> None:
        assert sequence.queue_seconds is not None
        self._queue_seconds.labels(sequence.operation, ADMITTED).observe(sequence.queue_seconds)

    def prompt_computed(self, sequence: SequenceStats, seconds: float) -> None:
        self._prefill_seconds.labels(sequence.operation).observe(seconds)
        self._prompt_tokens.inc(sequence.num_prompt_tokens)
        self._cached_tokens.inc(sequence.num_cached_tokens)

    def first_token(self, sequence: SequenceStats) -> None:
        assert sequence.time_to_first_token is not None
        labels = (sequence.operation, *self._model())
        self._time_to_first_token.labels(*labels).observe(sequence.time_to_first_token)
        self._generated_tokens.inc()

    def next_tokens(self, count: int, seconds: float) -> None:
        for _ in range(count):
            self._inter_token_seconds.observe(seconds)
        self._generated_tokens.inc(count)

    def sequence_ended(self, sequence: SequenceStats) -> None:
        operation, outcome, seconds = sequence.operation, sequence.outcome, sequence.seconds
        assert outcome is not None
        assert seconds is not None
        self._live.dec()
        self._ended(outcome).labels(outcome).inc()
        if sequence.admitted_at is None and sequence.queue_seconds is not None:
            self._queue_seconds.labels(operation, outcome).observe(sequence.queue_seconds)
        error_type = "" if outcome in FINISHED else outcome
        self._duration.labels(operation, *self._model(), error_type).observe(seconds)
        per_token = sequence.time_per_output_token
        if outcome in FINISHED and per_token is not None:
            self._time_per_output_token.labels(operation, *self._model()).observe(per_token)

    def _ended(self, outcome: str) -> Counter:
        if outcome in FINISHED:
            return self._finished
        return self._aborted if outcome in ABORTED else self._failed

    def engine_updated(self, stats: EngineStats, step: StepStats | None) -> None:
        self._running.set(stats.num_running)
        self._waiting.set(stats.num_waiting)
        self._cached.set(stats.num_cached)
        self._kv_usage.set(stats.kv_usage)
        if step is not None:
            self._batch_size.observe(step.num_sequences)
            self._batch_tokens.observe(step.num_tokens)
            self._step_seconds.observe(step.seconds)
            self._drafted_tokens.inc(step.num_drafted)
            self._accepted_tokens.inc(step.num_accepted)
            self._preempted.inc(step.num_preempted)

    def step_in_progress(self, seconds: float) -> None:
        self._step_age.set(seconds)

    def grammar_asked_for(self, outcome: str, seconds: float) -> None:
        self._grammars.labels(outcome).inc()
        if outcome != "cached":
            self._grammar_seconds.observe(seconds)

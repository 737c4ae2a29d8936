"""Writes the documentation's generated tables and Grafana's dashboard: `make docs`."""

import ast
import json
import re
from pathlib import Path
from types import UnionType
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from deploy.grafana import dashboard
from docs import draw_blocks
from docs.openai_fields import anthropic_table, openai_table
from src.config import Settings
from src.observability import batch_metrics, engine_metrics, http_metrics
from tests.faults.table import faults_table
from tests.support.layers import MODEL, ROOMS, SRC, WEB, WIRE, Room

DOCS = Path(__file__).parent
DASHBOARD = DOCS.parent / "deploy" / "grafana" / "dashboards" / "llm-inference.json"
MARKED = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

# A query for each metric, for its most common use.
QUERIES = {
    "inference_requests_total": "sum by (endpoint, status) (rate(inference_requests_total[5m]))",
    "inference_request_duration_seconds": "histogram_quantile(0.95, sum by (endpoint, le)"
    " (rate(inference_request_duration_seconds_bucket[5m])))",
    "inference_ready": "min by (instance) (inference_ready)",
    "inference_sequences_limit": "max by (instance)"
    " (inference_sequences_live / inference_sequences_limit)",
    "inference_rate_limit_storage_up": "min by (instance) (inference_rate_limit_storage_up)",
    "inference_event_loop_lag_seconds": "histogram_quantile(0.99, sum by (instance, le)"
    " (rate(inference_event_loop_lag_seconds_bucket[5m])))",
    "inference_caller_requests_total": "sum by (caller)"
    " (rate(inference_caller_requests_total[5m]))",
    "inference_caller_tokens_total": "sum by (caller, kind)"
    " (increase(inference_caller_tokens_total[1h]))",
    "inference_sequences_started_total": "rate(inference_sequences_started_total[5m])",
    "inference_sequences_finished_total": "sum by (reason)"
    " (rate(inference_sequences_finished_total[5m]))",
    "inference_sequences_aborted_total": "sum by (reason)"
    " (rate(inference_sequences_aborted_total[5m]))",
    "inference_sequences_failed_total": "sum by (reason)"
    " (rate(inference_sequences_failed_total[5m]))",
    "inference_sequences_preempted_total": "rate(inference_sequences_preempted_total[5m])",
    "inference_sequences_live": "sum(inference_sequences_live)",
    "inference_sequences_running": "sum(inference_sequences_running)",
    "inference_sequences_waiting": "max by (instance) (inference_sequences_waiting)",
    "inference_kv_cache_reusable_tokens": "sum(inference_kv_cache_reusable_tokens)",
    "inference_kv_cache_usage_ratio": "max by (instance) (inference_kv_cache_usage_ratio)",
    "prompt_tokens_total": "sum(rate(prompt_tokens_total[5m]))",
    "cached_prompt_tokens_total": "sum(rate(cached_prompt_tokens_total[5m]))"
    " / sum(rate(prompt_tokens_total[5m]))",
    "generated_tokens_total": "sum(rate(generated_tokens_total[1m]))",
    "inference_drafted_tokens_total": "sum(rate(inference_drafted_tokens_total[5m]))",
    "inference_accepted_tokens_total": "sum(rate(inference_accepted_tokens_total[5m]))"
    " / sum(rate(inference_drafted_tokens_total[5m]))",
    "inference_queue_seconds": "histogram_quantile(0.95, sum by (outcome, le)"
    " (rate(inference_queue_seconds_bucket[5m])))",
    "inference_prefill_seconds": "histogram_quantile(0.95, sum by (le)"
    " (rate(inference_prefill_seconds_bucket[5m])))",
    "inference_inter_token_seconds": "histogram_quantile(0.95, sum by (le)"
    " (rate(inference_inter_token_seconds_bucket[5m])))",
    "inference_grammars_total": "sum by (outcome) (rate(inference_grammars_total[5m]))",
    "inference_grammar_seconds": "histogram_quantile(0.95, sum by (le)"
    " (rate(inference_grammar_seconds_bucket[5m])))",
    "inference_step_sequences": "rate(inference_step_sequences_sum[5m])"
    " / rate(inference_step_sequences_count[5m])",
    "inference_step_tokens": "rate(inference_step_tokens_sum[5m])"
    " / rate(inference_step_tokens_count[5m])",
    "inference_step_seconds": "rate(inference_step_seconds_sum[5m])",
    "inference_step_age_seconds": "max by (instance)"
    " (inference_step_age_seconds / inference_step_limit_seconds)",
    "inference_step_limit_seconds": "max by (instance) (inference_step_limit_seconds)",
    "gen_ai_server_time_to_first_token_seconds": "histogram_quantile(0.95, sum by (le)"
    " (rate(gen_ai_server_time_to_first_token_seconds_bucket[5m])))",
    "gen_ai_server_time_per_output_token_seconds": "histogram_quantile(0.95, sum by (le)"
    " (rate(gen_ai_server_time_per_output_token_seconds_bucket[5m])))",
    "inference_batch_lines_total": "sum by (result) (rate(inference_batch_lines_total[5m]))",
    "inference_batch_lines_running": "sum(inference_batch_lines_running)",
    "inference_batch_lines_open": "max(inference_batch_lines_open)",
    "inference_batches_open": "max(inference_batches_open)",
    "inference_background_responses_total": (
        "sum by (status) (rate(inference_background_responses_total[5m]))"
    ),
    "inference_background_responses_running": "sum(inference_background_responses_running)",
    "inference_background_responses_open": "max(inference_background_responses_open)",
    "inference_batch_oldest_seconds": "max(inference_batch_oldest_seconds)",
    "gen_ai_server_request_duration_seconds": "histogram_quantile(0.95, sum by (error_type, le)"
    " (rate(gen_ai_server_request_duration_seconds_bucket[5m])))",
}


METRICS = (
    *http_metrics.TABLE.specs,
    *engine_metrics.TABLE.specs,
    *batch_metrics.TABLE.specs,
)

LIBRARIES = {"web": WEB, "pydantic": WIRE, "model": MODEL}
"""Names for groups of libraries in the table of rooms."""


def rooms_table() -> str:
    """Creates the table of rooms in docs/architecture.md: contents and imports of each."""
    rows = [
        "| Room | Contents | May import | Never imports |",
        "|---|---|---|---|",
        *(_room_row(name, room) for name, room in ROOMS.items()),
        "",
        *(
            f"{name}: {', '.join(_code(library) for library in sorted(libraries))}.  "
            for name, libraries in LIBRARIES.items()
        ),
    ]
    return "\n".join(rows) + "\n"


def _room_row(name: str, room: Room) -> str:
    place = SRC.joinpath(*name.split("."))
    module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    summary = (ast.get_docstring(ast.parse(module.read_text())) or "").partition("\n\n")[0]
    imports = ", ".join(_code(other) for other in sorted(room.imports - {name}))
    groups = [group for group, libraries in LIBRARIES.items() if libraries <= room.never]
    grouped = frozenset[str]().union(*(LIBRARIES[group] for group in groups))
    never = ", ".join(groups + [_code(library) for library in sorted(room.never - grouped)])
    contents = " ".join(summary.split()).replace("|", "\\|")
    return f"| `{name}` | {contents} | {imports} | {never} |"


def settings_table() -> str:
    """Creates the table of all settings in docs/configuration.md."""
    rows = ["| Variable | Values | Default | Meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        rows.append(
            f"| `{name.upper()}` | {_values(field)} | {_default(field)} | {field.description} |"
        )
    return "\n".join(rows) + "\n"


def metrics_table() -> str:
    """Creates the table of all metrics in docs/metrics.md."""
    rows = ["| Metric | Type | Labels | Meaning | A query |", "|---|---|---|---|---|"]
    for spec in METRICS:
        kind = spec.kind.__name__.lower()
        labels = ", ".join(_code(label) for label in spec.labels)
        query = _code(QUERIES[spec.name])
        rows.append(f"| `{spec.name}` | {kind} | {labels} | {spec.meaning} | {query} |")
    return "\n".join(rows) + "\n"


def _values(field: FieldInfo) -> str:
    """Describes a setting's type, choices and bounds."""
    annotation = field.annotation
    if isinstance(annotation, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return ", ".join(_code(value) for value in get_args(annotation))
    kind = {int: "integer", float: "number", bool: "`true`, `false`"}.get(annotation, "text")
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(rule, key):g}"
        if isinstance(getattr(rule, key), float)
        else f"{sign} {getattr(rule, key)}"
        for rule in field.metadata
        for key, sign in signs.items()
        if getattr(rule, key, None) is not None
    ]
    return ", ".join([kind, *bounds])


def _default(field: FieldInfo) -> str:
    if field.default is None:
        return ""
    return _code(str(field.default).lower() if field.annotation is bool else str(field.default))


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


TABLES = {
    "rooms": rooms_table,
    "settings": settings_table,
    "metrics": metrics_table,
    "openai": openai_table,
    "anthropic": anthropic_table,
    "faults": faults_table,
}


def main() -> None:
    """Rewrites the text between the marks in every page, the figure and the dashboard."""
    for page in DOCS.glob("*.md"):
        text = page.read_text()
        _write(page, MARKED.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text))
    _write(DOCS / "blocks.svg", draw_blocks.draw())
    _write(DASHBOARD, json.dumps(dashboard.create(), indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
        print(f"wrote {path.name}")


if __name__ == "__main__":
    main()

"""The Grafana dashboard: an operator's questions, in order, with the queries that answer them.

`make docs` writes it to dashboards/llm-inference.json; `python -m deploy.grafana.check` runs every
query against a Prometheus that scrapes the service under load.
"""

import re
from dataclasses import dataclass
from typing import Any

SELECTOR = 'job=~"$job", instance=~"$instance"'
WINDOW = "[$__rate_interval]"
WHOLE = "[$__range]"  # interval of the queries
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24  # of Grafana's grid

GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "#808080"
MAGENTA, LIGHT_BLUE = "#e05fb0", "#8ab8ff"
COLORS = {
    "success": GREEN,
    "client_error": YELLOW,
    "rate_limited": ORANGE,
    "cancelled": GREY,
    "error": RED,
    "stop": GREEN,
    "length": BLUE,
    "timeout": ORANGE,
    "expired": MAGENTA,
    "displaced": YELLOW,
    "embedded": LIGHT_BLUE,
    "shutdown": YELLOW,
    "admitted": GREEN,
}


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel of the dashboard.

    Args:
        title: its question, in a few words.
        description: explanation; shown when the mouse is over the title.
        queries: legend to PromQL; a legend may name labels, as {{status}}.
        unit: Grafana's name of the unit.
        kind: Grafana's type of panel.
        width: columns of the grid.
        is_stacked: stacks the lines.
        maximum: upper end of the axis.
        red_from: value from which a number is bad; None for none, but 0 is bad if `is_up`.
        is_up: marks 0 as bad.
    """

    title: str
    description: str
    queries: dict[str, str]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    is_stacked: bool = False
    maximum: float | None = None
    red_from: float | None = None
    is_up: bool = False

    @property
    def height(self) -> int:
        return 4 if self.kind in {"stat", "state-timeline"} else 8


def rate(metric: str, by: str = "", labels: str = "", window: str = WINDOW) -> str:
    """Creates the query for a counter's rate, all selected instances together."""
    group = f" by ({by})" if by else ""
    selector = f"{SELECTOR}, {labels}" if labels else SELECTOR
    return f"sum{group} (rate({metric}{{{selector}}}{window}))"


def mean(histogram: str, labels: str = "") -> str:
    return f"{rate(histogram + '_sum', '', labels)} / {rate(histogram + '_count', '', labels)}"


def quantile(number: float, histogram: str, by: str = "", window: str = WINDOW) -> str:
    group = f"{by}, le" if by else "le"
    return f"histogram_quantile({number}, {rate(histogram + '_bucket', group, window=window)})"


def quantiles(histogram: str) -> dict[str, str]:
    """Creates queries for the median, the 95th and the 99th percentile."""
    return {
        "median": quantile(0.5, histogram),
        "95 %": quantile(0.95, histogram),
        "99 %": quantile(0.99, histogram),
    }


def gauge(metric: str, function: str = "sum") -> str:
    return f"{function} ({metric}{{{SELECTOR}}})"


FIRST_TOKEN = "gen_ai_server_time_to_first_token_seconds"  # noqa: S105
GENERATES = 'gen_ai_operation_name!="embeddings"'
STATE = f"up{{{SELECTOR}}} + on (job, instance) inference_ready{{{SELECTOR}}}"
FAILED_REQUESTS = rate("inference_requests_total", labels='status="error"')

IS_IT_UP = [
    Panel(
        "Ready instances",
        "Instances with a loaded model that Prometheus reaches.",
        {"ready": f"{gauge('inference_ready')} or vector(0)"},
        kind="stat",
        width=4,
        is_up=True,
    ),
    Panel(
        "Instances not ready",
        "Instances that load their model (yellow on the right), or are dead or unreachable (red).",
        {"not ready": f"count(({STATE} or up{{{SELECTOR}}}) < 2) or vector(0)"},
        kind="stat",
        width=4,
        red_from=1,
    ),
    Panel(
        "Firing alerts",
        "Of deploy/prometheus/rules.yml; Prometheus lists them under /alerts.",
        {"alerts": 'count(ALERTS{alertname=~"LLMInference.*", alertstate="firing"}) or vector(0)'},
        kind="stat",
        width=4,
        red_from=1,
    ),
    Panel(
        "Restarts in the last hour",
        "Processes that replaced another one at the same address. A dead engine ends its process.",
        {"restarts": f"sum(changes(process_start_time_seconds{{{SELECTOR}}}[1h]))"},
        kind="stat",
        width=4,
        red_from=1,
    ),
    Panel(
        "Instances without rate limits",
        "Their Redis for counting requests does not answer. With RATE_LIMIT_STORAGE_FAILURE=open"
        " they serve all requests without a limit. With closed, requests that need the model get"
        " 503; health, metrics, models and documentation remain.",
        {"uncounted": f"count(inference_rate_limit_storage_up{{{SELECTOR}}} == 0) or vector(0)"},
        kind="stat",
        width=4,
        red_from=1,
    ),
    Panel(
        "State, by instance",
        "Green: ready. Yellow: loading, or the engine is dead. Red: unreachable for Prometheus.",
        {"{{instance}}": f"{STATE} or up{{{SELECTOR}}}"},
        kind="state-timeline",
        width=4,
        maximum=2,
        is_up=True,
    ),
]

ARE_USERS_SERVED = [
    Panel(
        "Requests by status",
        "error: the service's fault (5xx). client_error: the caller's. rate_limited: refused with"
        " 429. cancelled: the client disconnected.",
        {"{{status}}": rate("inference_requests_total", "status")},
        unit="reqps",
        is_stacked=True,
    ),
    Panel(
        "Share of failed requests",
        "5xx of all requests. The alert LLMInferenceErrors fires above 5 %.",
        {"failed": f"({FAILED_REQUESTS} or vector(0)) / {rate('inference_requests_total')}"},
        unit="percentunit",
    ),
    Panel(
        "Sequences by end",
        "One answer has one or more. stop, length: whole answers. cancelled, timeout, shutdown:"
        " no client waits. expired: too long in the queue. displaced: from a full queue by another"
        " key. error: the model failed.",
        {
            "{{reason}}": " or ".join(
                rate(f"inference_sequences_{end}_total", "reason")
                for end in ("finished", "aborted", "failed")
            )
        },
        unit="ops",
        is_stacked=True,
    ),
]

HOW_FAST = [
    Panel(
        "Time to the first token",
        "From a sequence's arrival to its first token: the wait before text appears.",
        quantiles(FIRST_TOKEN),
        unit="s",
        width=5,
    ),
    Panel(
        "Time between two tokens",
        "How smoothly text flows once it does. A reader reads about ten tokens a second.",
        quantiles("inference_inter_token_seconds"),
        unit="s",
        width=5,
    ),
    Panel(
        "Time to the whole answer",
        "Requests of all routes. It grows with the length of the answers.",
        quantiles("inference_request_duration_seconds"),
        unit="s",
        width=5,
    ),
    Panel(
        "Whole answers, by route (95 %)",
        "19 of 20 requests took no longer, over all the time that is shown.",
        {"{{endpoint}}": quantile(0.95, "inference_request_duration_seconds", "endpoint", WHOLE)},
        unit="s",
        kind="bargauge",
        width=5,
    ),
    Panel(
        "Tokens generated per second",
        "All sequences together: the throughput.",
        {"tokens": rate("generated_tokens_total")},
        width=4,
    ),
]

WHY_SLOW = [
    Panel(
        "Parts of the time to the first token",
        "On average; embeddings, which have no token, are left out. Mostly queue: too much work for"
        " too few instances. Mostly prefill: long prompts, or slow steps.",
        {
            "queue": mean("inference_queue_seconds", f'{GENERATES}, outcome="admitted"'),
            "prefill": mean("inference_prefill_seconds", GENERATES),
        },
        unit="s",
        is_stacked=True,
        width=6,
    ),
    Panel(
        "Time in the queue (95 %)",
        "admitted: sequences that got their turn. The others left without one: expired after"
        " QUEUE_TIMEOUT_SECONDS, displaced by another key, cancelled by the client, timeout after"
        " TIMEOUT_SECONDS.",
        {"{{outcome}}": quantile(0.95, "inference_queue_seconds", "outcome")},
        unit="s",
        width=6,
    ),
    Panel(
        "Running and waiting sequences",
        "Up to MAX_BATCH_SIZE run in each instance, up to MAX_QUEUE_SIZE wait. When both together"
        " reach MAX_BATCH_SIZE + MAX_QUEUE_SIZE, further ones get 503.",
        {
            "running": gauge("inference_sequences_running"),
            "waiting": gauge("inference_sequences_waiting"),
        },
        is_stacked=True,
        width=6,
    ),
    Panel(
        "Preempted sequences per second",
        "Running sequences that gave way to another key with less than its share. They continue"
        " later. Many over a long time: keys compete; see the tokens of each key.",
        {"preempted": rate("inference_sequences_preempted_total")},
        width=6,
    ),
    Panel(
        "Load of the engine",
        "Share of the time in which a step is computed, the busiest instance. At 100 % more"
        " requests make all slower.",
        {"busy": f"max (rate(inference_step_seconds_sum{{{SELECTOR}}}{WINDOW}))"},
        unit="percentunit",
        maximum=1,
        width=6,
    ),
    Panel(
        "Duration of a step",
        "A step gives each decoding sequence its next token, and is most of the time between two.",
        quantiles("inference_step_seconds"),
        unit="s",
    ),
    Panel(
        "Sequences in a step",
        "The average batch size. A step of many costs little more than a step of few.",
        {"sequences": mean("inference_step_sequences")},
        width=4,
    ),
    Panel(
        "Tokens in a step",
        "On average: one a decoding sequence, and pieces of prompts up to MAX_NUM_BATCHED_TOKENS.",
        {"tokens": mean("inference_step_tokens")},
        width=4,
    ),
    Panel(
        "KV cache in use",
        "The fullest instance. It holds running sequences, and ended ones for their prefixes: full"
        " is bad only while sequences wait.",
        {"in use": gauge("inference_kv_cache_usage_ratio", "max")},
        unit="percentunit",
        width=4,
        maximum=1,
    ),
    Panel(
        "Prefix cache hits, correct drafts",
        "Shares: of the prompts' tokens, those from the prefix cache; of the draft"
        " tokens, those that the model chose too.",
        {
            "cached": f"{rate('cached_prompt_tokens_total')} / {rate('prompt_tokens_total')}",
            "drafts accepted": f"{rate('inference_accepted_tokens_total')}"
            f" / {rate('inference_drafted_tokens_total')}",
        },
        unit="percentunit",
        width=4,
        maximum=1,
    ),
]

KEYS_AND_ROUTES = [
    Panel(
        "Requests, by route",
        "Used routes. __unmatched__ is any unknown path.",
        {"{{endpoint}}": f"{rate('inference_requests_total', 'endpoint')} > 0"},
        unit="reqps",
        is_stacked=True,
    ),
    Panel(
        "Requests, by key",
        "Ids of keys; `python -m src keys list` has their names. jwt: all tokens. anybody:"
        " without authentication. other: keys after the first 100.",
        {"{{caller}}": f"{rate('inference_caller_requests_total', 'caller')} > 0"},
        unit="reqps",
        is_stacked=True,
    ),
    Panel(
        "Tokens per second, by key",
        "Prompts and answers together, as a share of the machine. docs/security.md describes the"
        " limits of keys.",
        {"{{caller}}": f"{rate('inference_caller_tokens_total', 'caller')} > 0"},
        is_stacked=True,
    ),
    Panel(
        "Sequences by operation",
        "chat: chats, responses and Anthropic's messages. text_completion: prompts to continue."
        " embeddings: prompts to embed. With the model that the instance serves.",
        {
            "{{gen_ai_operation_name}} ({{gen_ai_request_model}})": rate(
                "gen_ai_server_request_duration_seconds_count",
                "gen_ai_operation_name, gen_ai_request_model",
            )
        },
        unit="ops",
    ),
    Panel(
        "Tokens read and written per second",
        "read: of prompts, those from the prefix cache too. written: of answers. One written costs"
        " more than one read, as it needs a step of its own.",
        {"read": rate("prompt_tokens_total"), "written": rate("generated_tokens_total")},
    ),
    Panel(
        "Tokens of a sequence",
        "Average length of prompts and answers.",
        {
            "prompt": f"{rate('prompt_tokens_total')} / {rate('inference_prefill_seconds_count')}",
            "answer": f"{rate('generated_tokens_total')} / {rate(FIRST_TOKEN + '_count')}",
        },
    ),
]

BATCHES = [
    Panel(
        "Lines of batches per second",
        "completed: in output files. failed: in error files.",
        {"{{result}}": rate("inference_batch_lines_total", "result")},
        unit="ops",
    ),
    Panel(
        "Lines to answer",
        "open: of all batches that have not ended. running: in the engine or its queue, at most"
        " BATCH_CONCURRENCY for each process; with BATCH_BACKEND=celery handed to workers.",
        {
            "open": gauge("inference_batch_lines_open", "max"),
            "running": gauge("inference_batch_lines_running"),
        },
    ),
    Panel(
        "Background responses",
        "open: all that have not ended. running: in the engine or its queue, at most"
        " BATCH_CONCURRENCY for each process.",
        {
            "open": gauge("inference_background_responses_open", "max"),
            "running": gauge("inference_background_responses_running"),
        },
    ),
    Panel(
        "Oldest batch",
        "Time since the oldest batch that has not ended was created. It grows until then; open"
        " lines fail at the end of its completion window.",
        {"age": gauge("inference_batch_oldest_seconds", "max")},
        unit="s",
    ),
]

ROWS = {
    "Is it up?": IS_IT_UP,
    "Are users served?": ARE_USERS_SERVED,
    "How fast is it?": HOW_FAST,
    "Why is it slow?": WHY_SLOW,
    "Which keys use it?": KEYS_AND_ROUTES,
    "How far are batches?": BATCHES,
}


def create() -> dict[str, Any]:
    """Creates the dashboard as Grafana reads it."""
    return {
        "uid": "llm-inference",
        "title": "LLM inference",
        "tags": ["llm-inference"],
        "schemaVersion": 41,
        "editable": True,
        "graphTooltip": 1,  # one crosshair for all panels
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Data source",
                    "type": "datasource",
                    "query": "prometheus",
                },
                _variable("job", "Job", 'label_values(up{job=~"llm-inference.*"}, job)'),
                _variable("instance", "Instance", 'label_values(up{job=~"$job"}, instance)'),
            ]
        },
        "panels": _panels(),
    }


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "definition": query,
        "refresh": 2,  # whenever the time range changes
        "includeAll": True,
        "multi": True,
        "current": {"text": "All", "value": "$__all"},
    }


def _panels() -> list[dict[str, Any]]:
    """Places all panels: rows from top to bottom, each from left to right."""
    placed: list[dict[str, Any]] = []
    y = 0
    for title, panels in ROWS.items():
        placed.append(_row(title, y) | {"id": len(placed) + 1})
        y += 1
        x = height = 0
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + height
            position = {"x": x, "y": y, "w": panel.width, "h": panel.height}
            placed.append(_panel(panel) | {"id": len(placed) + 1, "gridPos": position})
            x, height = x + panel.width, panel.height
        y += height
    return placed


def _row(title: str, y: int) -> dict[str, Any]:
    position = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": position}


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": DATASOURCE,
                "expr": query,
                "legendFormat": legend,
                "instant": panel.kind in {"stat", "bargauge"},
                "range": panel.kind not in {"stat", "bargauge"},
            }
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": _overrides(panel)},
        "options": _options(panel),
    }


def _defaults(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 30 if panel.is_stacked else 0,
            "stacking": {"mode": "normal" if panel.is_stacked else "none"},
        }
    elif panel.kind == "bargauge":
        defaults["color"] = {"mode": "fixed", "fixedColor": BLUE}
    else:
        defaults["color"] = {"mode": "thresholds"}
        defaults["thresholds"] = {"mode": "absolute", "steps": _steps(panel)}
    if panel.kind == "state-timeline":
        texts = {
            "0": {"text": "down", "color": RED},
            "1": {"text": "not ready", "color": YELLOW},
            "2": {"text": "serves", "color": GREEN},
        }
        defaults["mappings"] = [{"type": "value", "options": texts}]
    return defaults


def _steps(panel: Panel) -> list[dict[str, Any]]:
    if panel.is_up:
        return [{"color": RED, "value": None}, {"color": GREEN, "value": panel.maximum or 1}]
    return [{"color": GREEN, "value": None}, {"color": RED, "value": panel.red_from}]


def _overrides(panel: Panel) -> list[dict[str, Any]]:
    """Gives each reason of an end the same colour everywhere."""
    if not any(re.search("status|reason|outcome", legend) for legend in panel.queries):
        return []
    return [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": color}}],
        }
        for name, color in COLORS.items()
    ]


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "value"}
    if panel.kind == "bargauge":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "orientation": "horizontal",
            "displayMode": "basic",
            "namePlacement": "top",
        }
    if panel.kind == "state-timeline":
        return {"showValue": "never", "legend": {"showLegend": False}}
    return {
        "legend": {"displayMode": "list", "placement": "bottom"},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }

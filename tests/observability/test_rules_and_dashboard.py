"""Documentation, alert rules and dashboard name existing metrics, in valid queries."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import Histogram

from deploy.grafana import check, dashboard
from docs.generate import (
    DASHBOARD,
    DOCS,
    METRICS,
    QUERIES,
    metrics_table,
)
from tests.support.servers import ROOT

RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
PROMISED_QUERIES = {
    "rate(inference_requests_total[5m])",
    'rate(inference_requests_total{status="error"}[5m])',
    (
        "rate(inference_request_duration_seconds_sum[5m]) /"
        " rate(inference_request_duration_seconds_count[5m])"
    ),
    "rate(generated_tokens_total[1m])",
}
PANELS = {panel.title: panel for panels in dashboard.ROWS.values() for panel in panels}
SAMPLES = {
    name
    for spec in METRICS
    for name in (
        [f"{spec.name}_{end}" for end in ("bucket", "sum", "count")]
        if spec.kind is Histogram
        else [spec.name]
    )
}


@pytest.fixture
def _promtool():
    """Skips a test without Prometheus, except in CI, which installs it."""
    if shutil.which("promtool") is None or shutil.which("prometheus") is None:
        message = "needs promtool and prometheus: Debian's package prometheus"
        assert "CI" not in os.environ, message
        pytest.skip(message)


def metrics_in(query: str) -> set[str]:
    """Returns the service's metrics in a query."""
    return set(re.findall(r"\b(?:inference|gen_ai_server|generated|prompt|cached)_\w+", query))


def test_the_table_of_metrics_is_current_and_complete():
    assert metrics_table() in (DOCS / "metrics.md").read_text()
    names = {re.sub("_(bucket|sum|count)$", "", name) for name in SAMPLES}
    assert set(QUERIES) == names


def test_the_dashboard_is_current():
    assert json.loads(DASHBOARD.read_text()) == dashboard.create()


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_documented_query_uses_its_metric(query):
    (name,) = [name for name, value in QUERIES.items() if value == query]
    assert name in query
    assert metrics_in(query) <= SAMPLES


def test_panels_name_existing_metrics_and_most_of_them():
    used = set().union(
        *(metrics_in(query) for panel in PANELS.values() for query in panel.queries.values())
    )
    assert used <= SAMPLES
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in used}
    assert len(families) >= len(QUERIES) * 0.7


def test_rules_name_existing_metrics():
    text = re.sub(r"job\w*:\w+(:\w+)?", "", RULES.read_text())  # names of recorded series
    used = metrics_in(re.sub(r"(?m)^ *(summary|description|#).*$", "", text))
    assert used
    assert used <= SAMPLES


def test_panels_do_not_overlap():
    panels = dashboard.create()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= dashboard.COLUMNS
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken
                taken.add((x, y))


def test_every_alert_is_documented_and_tested():
    alerts = set(re.findall(r"- alert: (\w+)", RULES.read_text()))
    assert len(alerts) >= 5
    tested = (RULES.parent / "rules_test.yml").read_text()
    assert {name for name in alerts if f"alertname: {name}" in tested} == alerts
    documented = (DOCS / "observability.md").read_text()
    assert {name for name in alerts if f"`{name}`" in documented} == alerts


def test_the_promised_queries_are_documented():
    assert set(check.documented_queries()) >= PROMISED_QUERIES


@pytest.mark.usefixtures("_promtool")
def test_promtool_accepts_the_rules():
    command = ["promtool", "test", "rules", "rules_test.yml"]
    done = subprocess.run(command, cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("_promtool")
def test_promtool_accepts_every_query(tmp_path: Path):
    """Passes queries as rules, which promtool parses without a server."""
    queries = [query for panel in PANELS.values() for query in panel.queries.values()]
    queries += [*QUERIES.values(), *check.documented_queries()]
    rules = [
        {"record": f"query_{number}", "expr": check.in_grafana(query)}
        for number, query in enumerate(queries)
    ]
    path = tmp_path / "queries.yml"
    path.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    command = ["promtool", "check", "rules", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("_promtool")
def test_every_query_has_data_under_load():
    assert [answer.query for answer in check.measure(15) if not answer.has_data] == []

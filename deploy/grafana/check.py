"""Runs every documented query against a real Prometheus: `make monitoring-check`.

It starts the service on the bundled model, a Prometheus that scrapes it with a key, and users with
keys. Then it runs the queries of the dashboard, of docs/metrics.md and of docs/observability.md,
prints the answers in a table, and fails if one has no data. Everything stays on loopback addresses.

Needs `prometheus` on the PATH. `--picture FILE` draws the dashboard, and needs matplotlib.
"""

import argparse
import contextlib
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2

from deploy.grafana import load
from deploy.grafana.dashboard import ROWS
from docs.generate import QUERIES
from tests.support.keys import create_key
from tests.support.servers import ROOT, free_port, serve

SCRAPE_SECONDS = 1
RATE_INTERVAL = "12s"
RANGE = "2m"  # what Grafana would show
PATIENCE_SECONDS = 60
"""Queries that may be empty: a fast machine fails no request in the first burst, a slow one ends
none.
"""
CONFIGURATION = """
global: {{scrape_interval: {seconds}s, evaluation_interval: {seconds}s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: llm-inference
    static_configs: [targets: ["{target}"]]
    authorization: {{credentials_file: {key}}}
"""


@dataclass(frozen=True, slots=True)
class Series:
    """Values over time: (seconds, value), without NaN and infinity."""

    labels: dict[str, str]
    points: list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Answer:
    """Result of a query."""

    where: str
    legend: str
    query: str
    series: list[Series]

    @property
    def has_data(self) -> bool:
        return any(series.points for series in self.series)


class Prometheus:
    """A running Prometheus."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def query(self, query: str, start: float, end: float) -> list[Series]:
        """Returns all series of a query between two times."""
        parameters = {"query": query, "start": start, "end": end, "step": SCRAPE_SECONDS}
        answer = self._client.get("/api/v1/query_range", params=parameters).json()
        if answer["status"] != "success":
            raise ValueError(f"{query}: {answer['error']}")
        return [Series(one["metric"], _numbers(one["values"])) for one in answer["data"]["result"]]


def _numbers(values: list[tuple[float, str]]) -> list[tuple[float, float]]:
    points = ((when, float(value)) for when, value in values)
    return [(when, value) for when, value in points if math.isfinite(value)]


@contextlib.contextmanager
def prometheus(target: str, key: str, folder: Path) -> Iterator[Prometheus]:
    """Scrapes a service every second, with a key, and evaluates the project's rules."""
    address = f"127.0.0.1:{free_port()}"
    configuration = folder / "prometheus.yml"
    rules = ROOT / "deploy" / "prometheus" / "rules.yml"
    (folder / "metrics.key").write_text(key)
    configuration.write_text(
        CONFIGURATION.format(
            seconds=SCRAPE_SECONDS, rules=rules, target=target, key=folder / "metrics.key"
        )
    )
    options = {
        "config.file": configuration,
        "storage.tsdb.path": folder / "tsdb",
        "web.listen-address": address,
        "log.level": "error",
    }
    command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
    with (
        subprocess.Popen(command) as process,  # noqa: S603 - our own arguments
        httpx2.Client(base_url=f"http://{address}", timeout=30) as client,
    ):
        try:
            server = Prometheus(client)
            while not server.is_ready():
                if process.poll() is not None:
                    raise RuntimeError("Prometheus has ended")
                time.sleep(0.1)
            yield server
        finally:
            process.terminate()


def ask(server: Prometheus, start: float, end: float) -> list[Answer]:
    """Runs all queries of the dashboard and the documentation."""

    def answer(where: str, legend: str, query: str) -> Answer:
        return Answer(where, legend, query, server.query(in_grafana(query), start, end))

    answers = [
        answer(panel.title, legend, query)
        for panels in ROWS.values()
        for panel in panels
        for legend, query in panel.queries.items()
    ]
    answers += [answer("docs/metrics.md", name, query) for name, query in QUERIES.items()]
    answers += [answer("docs/observability.md", "", query) for query in documented_queries()]
    return answers


def in_grafana(query: str) -> str:
    """Fills in a query's variables as Grafana does with everything selected."""
    values = {"$__rate_interval": RATE_INTERVAL, "$__range": RANGE, "$job": ".*", "$instance": ".*"}
    return re.sub(r"\$\w+", lambda match: values[match[0]], query)


def documented_queries() -> list[str]:
    """Returns the queries of docs/observability.md: blocks of PromQL, one query a paragraph."""
    text = (ROOT / "docs" / "observability.md").read_text()
    blocks = re.findall(r"```promql\n(.*?)```", text, re.DOTALL)
    paragraphs = [part for block in blocks for part in block.split("\n\n")]
    queries = [re.sub(r"^#.*\n", "", part, flags=re.MULTILINE) for part in paragraphs]
    return [" ".join(query.split()) for query in queries]


def measure(seconds: float) -> list[Answer]:
    """Puts load on the service for a time, or until everything has data, then runs all queries."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "keys.json"
        keys = {team: create_key(file, team) for team in load.TEAMS}
        metrics_key = create_key(file, "prometheus", "--scopes", "metrics")
        settings = load.SETTINGS | {"auth": "api_key", "api_keys_file": file}
        service = stack.enter_context(serve(folder, **settings))
        service.wait_until("/health/ready")
        target = service.url.removeprefix("http://")
        server = stack.enter_context(prometheus(target, metrics_key, folder))
        start = time.time()
        with load.running(service.url, keys, seconds + PATIENCE_SECONDS):
            time.sleep(seconds)
            answers = ask(server, start, time.time())
            while not has_data(answers) and time.time() < start + seconds + PATIENCE_SECONDS:
                time.sleep(5)
                answers = ask(server, start, time.time())
            return answers


def has_data(answers: list[Answer]) -> bool:
    return all(answer.has_data for answer in answers)


def last_values(answer: Answer) -> str:
    """Formats the last value of each series."""
    shown = []
    for series in answer.series[:4]:
        labels = {key: value for key, value in series.labels.items() if key not in HIDDEN}
        value = f"{series.points[-1][1]:.3g}" if series.points else "NaN"
        shown.append(f"{','.join(labels.values())}={value}" if labels else value)
    return " ".join(shown) + (" …" if len(answer.series) > 4 else "")


HIDDEN = {"__name__", "job", "instance"}


def print_table(answers: list[Answer]) -> None:
    print("| where | query | series | points | last values |")
    print("|---|---|---|---|---|")
    for answer in answers:
        num_points = sum(len(series.points) for series in answer.series)
        row = (answer.where, f"`{answer.legend or answer.query}`", len(answer.series), num_points)
        print(f"| {' | '.join(map(str, row))} | {last_values(answer) or '**no data**'} |")


def answers_by_panel(answers: list[Answer]) -> dict[str, list[Answer]]:
    by_panel: dict[str, list[Answer]] = {}
    for answer in answers:
        by_panel.setdefault(answer.where, []).append(answer)
    return by_panel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=45, help="how long to put load on it")
    parser.add_argument("--picture", type=Path, help="where to draw the dashboard, as PNG")
    arguments = parser.parse_args()
    if shutil.which("prometheus") is None:
        sys.exit("prometheus is not on the PATH; Debian's package of that name has it")
    answers = measure(arguments.seconds)
    print_table(answers)
    if arguments.picture:
        from deploy.grafana.picture import draw  # noqa: PLC0415 - matplotlib is not installed

        draw(answers_by_panel(answers), arguments.picture)
    without = [answer for answer in answers if not answer.has_data]
    print(f"\n{len(answers) - len(without)} of {len(answers)} queries returned data.")
    if without:
        sys.exit("no data: " + "; ".join(answer.query for answer in without))


if __name__ == "__main__":
    main()

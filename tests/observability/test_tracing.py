"""Traces that arrive at a receiver in a separate process."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from src.errors import SettingsError
from src.observability.tracing import create_tracing
from tests.conftest import wait_until
from tests.support.servers import ROOT, Server, environment, serve

TRACE_ID, CALLER_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE_ID}-{CALLER_ID}-01"}
PROMPT = "Once upon a time, a very secret prompt"
STOP = "a very secret stop text"


@dataclass
class Traced:
    """A service and the file of its receiver."""

    server: Server
    path: Path

    def spans(self, trace_id: str) -> list[dict[str, Any]]:
        """Returns the received spans of a trace in the order of time."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        spans = [span for span in map(json.loads, lines) if span["trace_id"] == trace_id]
        return sorted(spans, key=lambda span: (span["start"], -span["end"]))

    def wait_for(self, trace_id: str, num_spans: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.spans(trace_id)) >= num_spans)
        return self.spans(trace_id)

    def post(self, trace_id: str, **body: object) -> httpx2.Response:
        headers = {"traceparent": f"00-{trace_id}-{CALLER_ID}-01"}
        return self.server.post({"prompt": PROMPT, "stop": [STOP], **body}, headers=headers)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Starts a receiver; yields its URL and its file."""
    path = tmp_path_factory.mktemp("receiver") / "spans.jsonl"
    command = [sys.executable, "-m", "tests.support.otlp_receiver", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}", path
        process.terminate()


@pytest.fixture(scope="module")
def traced(receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    endpoint, path = receiver
    settings = {
        "otel_exporter_otlp_endpoint": endpoint,
        "otel_bsp_schedule_delay": 100,
        "environment": "production",
        "log_level": "DEBUG",
    }
    with serve(tmp_path_factory.mktemp("traced"), **settings) as server:
        server.wait_until("/health/ready")
        yield Traced(server, path)


def test_a_streamed_request_is_a_trace_of_http_sequence_and_phases(traced):
    body = {"max_length": 8, "temperature": 0.5, "seed": 7, "ignore_eos": True, "stream": True}
    assert traced.post(TRACE_ID, **body).text.endswith("[DONE]\n\n")
    http, sequence, *phases = traced.wait_for(TRACE_ID, 5)

    assert (http["name"], http["kind"]) == ("POST /generate", "SERVER")
    assert http["parent_span_id"] == CALLER_ID
    assert http["attributes"]["http.request.method"] == "POST"
    assert http["attributes"]["http.route"] == "/generate"
    assert http["attributes"]["http.response.status_code"] == 200

    assert (sequence["name"], sequence["kind"]) == ("text_completion storyteller", "INTERNAL")
    assert sequence["parent_span_id"] == http["span_id"]
    attributes = sequence["attributes"]
    assert attributes.pop("gen_ai.response.id")
    assert attributes.pop("gen_ai.usage.input_tokens") >= 5
    assert attributes == {
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "llm-inference",
        "gen_ai.request.model": "storyteller",
        "gen_ai.request.max_tokens": 8,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 0,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.seed": 7,
        "gen_ai.response.model": "storyteller",
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 8,
    }

    assert [phase["name"] for phase in phases] == ["queue", "prefill", "decode"]
    assert {phase["parent_span_id"] for phase in phases} == {sequence["span_id"]}
    borders = [sequence["start"], *(phase["end"] for phase in phases)]
    assert borders[:-1] == [phase["start"] for phase in phases]
    assert borders[-1] == sequence["end"]
    assert http["start"] <= sequence["start"]

    assert {span["status"] for span in (http, sequence, *phases)} == {"UNSET"}
    resource = http["resource"]
    assert resource["service.name"] == "llm-inference"
    assert resource["service.version"]


def test_each_sequence_of_a_request_has_a_span(traced):
    trace_id = "1" * 32
    traced.post(trace_id, max_length=2, num_return_sequences=3).raise_for_status()
    http, *below = traced.wait_for(trace_id, 1 + 3 * 4)
    sequences = [span for span in below if span["parent_span_id"] == http["span_id"]]
    assert len(sequences) == 3
    assert len({span["attributes"]["gen_ai.response.id"] for span in sequences}) == 3


def test_an_embedding_has_its_own_operation(traced):
    trace_id = "9" * 32
    httpx2.post(
        traced.server.url + "/v1/embeddings",
        json={"model": "storyteller", "input": PROMPT},
        headers={"traceparent": f"00-{trace_id}-{CALLER_ID}-01"},
    ).raise_for_status()
    http, sequence, *phases = traced.wait_for(trace_id, 4)
    assert sequence["name"] == "embeddings storyteller"
    assert sequence["parent_span_id"] == http["span_id"]
    assert sequence["status"] == "UNSET"
    attributes = sequence["attributes"]
    assert attributes.pop("gen_ai.response.id")
    assert attributes.pop("gen_ai.usage.input_tokens") >= 5
    assert attributes == {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "llm-inference",
        "gen_ai.request.model": "storyteller",
        "gen_ai.response.model": "storyteller",
        "gen_ai.usage.cache_read.input_tokens": 0,
    }
    assert [phase["name"] for phase in phases] == ["queue", "prefill"]
    assert phases[-1]["end"] == sequence["end"]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2}),
        ("/v1/responses", {"input": PROMPT, "max_output_tokens": 16}),
    ],
)
def test_a_chat_has_its_own_operation_and_its_url_query_is_redacted(traced, path, body):
    trace_id = uuid.uuid4().hex
    httpx2.post(
        f"{traced.server.url}{path}?api_key=hidden",
        json={"model": "storyteller"} | body,
        headers={"traceparent": f"00-{trace_id}-{CALLER_ID}-01"},
        timeout=60,
    ).raise_for_status()
    http, sequence, *_ = traced.wait_for(trace_id, 5)
    assert sequence["name"] == "chat storyteller"
    assert sequence["attributes"]["gen_ai.operation.name"] == "chat"
    assert http["attributes"]["url.path"] == path
    assert http["attributes"]["url.query"] == "REDACTED"
    assert "hidden" not in json.dumps(traced.spans(trace_id))


def test_a_refused_request_is_a_trace_without_sequences(traced):
    trace_id = "2" * 32
    assert traced.post(trace_id, max_length=0).status_code == 422
    (http,) = traced.wait_for(trace_id, 1)
    assert http["attributes"]["http.response.status_code"] == 422


def test_no_prompt_or_generated_text_is_in_a_trace_or_in_the_log(traced):
    trace_id = "3" * 32
    generated = traced.post(trace_id, max_length=12, return_full_text=False).json()["generated"]
    spans = traced.wait_for(trace_id, 5)
    for text in (PROMPT, "secret", generated[0]["text"]):
        assert text not in json.dumps(spans)
        assert text not in traced.server.log


def test_the_log_has_the_ids_of_the_trace(traced):
    trace_id = "4" * 32
    traced.post(trace_id, max_length=1)
    http, *_ = traced.wait_for(trace_id, 5)
    lines = [json.loads(line) for line in traced.server.log.splitlines() if trace_id in line]
    (access,) = [line for line in lines if line["logger"] == "src.access"]
    assert access["span_id"] == http["span_id"]
    assert access["endpoint"] == "/generate"


def test_probes_and_scrapes_are_not_traced(traced):
    trace_id = "5" * 32
    headers = {"traceparent": f"00-{trace_id}-{CALLER_ID}-01"}
    for path in ("/health", "/health/live", "/health/ready", "/metrics"):
        httpx2.get(traced.server.url + path, headers=headers).raise_for_status()
    traced.post("6" * 32, max_length=1)  # spans arrive in order
    traced.wait_for("6" * 32, 5)
    assert traced.spans(trace_id) == []


def test_a_failing_stream_has_the_status_error(start_server, receiver, monkeypatch):
    endpoint, path = receiver
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    server = start_server()
    num_steps = 0

    def forward(real, *args, **kwargs):
        nonlocal num_steps
        num_steps += 1
        if num_steps > 3:
            raise RuntimeError("made to fail")
        return real(*args, **kwargs)

    server.break_model(forward)
    body = {"prompt": "the", "max_length": 20, "stream": True}
    response = server.post(body, headers={"traceparent": f"00-{'7' * 32}-{CALLER_ID}-01"})
    assert "event: error" in response.text
    server.service.tracing.provider.force_flush()
    http, sequence, *_ = Traced(server, path).wait_for("7" * 32, 5)
    assert (http["status"], http["attributes"]["error.type"]) == ("ERROR", "500")
    assert (sequence["status"], sequence["attributes"]["error.type"]) == ("ERROR", "error")
    assert "made to fail" not in path.read_text()


def test_pending_spans_are_sent_at_the_end_of_the_service(receiver, tmp_path):
    endpoint, path = receiver
    settings = {"otel_exporter_otlp_endpoint": endpoint, "otel_bsp_schedule_delay": 10**6}
    with serve(tmp_path, **settings) as server:
        server.wait_until("/health/ready")
        traced = Traced(server, path)
        traced.post("8" * 32, max_length=2).raise_for_status()
        assert traced.spans("8" * 32) == []
        assert server.stop() == 0
    assert len(traced.spans("8" * 32)) == 5


def test_requests_succeed_without_a_receiver(tmp_path):
    settings = {"otel_exporter_otlp_endpoint": "http://127.0.0.1:9", "otel_bsp_schedule_delay": 50}
    with serve(tmp_path, **settings) as server:
        server.wait_until("/health/ready")
        for _ in range(3):
            server.post({"prompt": "the", "max_length": 2}).raise_for_status()
        assert server.stop() == 0


def test_tracing_is_off_without_an_endpoint(client, monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert create_tracing("storyteller") is None
    assert client.app.state.service.tracing is None


def test_the_name_of_the_service_can_be_set(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "another")
    tracing = create_tracing("storyteller")
    assert tracing is not None
    assert tracing.provider.resource.attributes["service.name"] == "another"
    tracing.shutdown()


def test_another_protocol_is_refused(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with pytest.raises(SettingsError, match="OTEL_EXPORTER_OTLP_PROTOCOL=grpc"):
        create_tracing("storyteller")


def test_a_start_without_the_sdk_names_the_remedy(tmp_path):
    """Runs the service in a Python without OpenTelemetry's SDK."""
    code = (
        "import sys, runpy; sys.modules['opentelemetry.sdk'] = None; runpy.run_module('src.main')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        cwd=tmp_path,
        env=environment(otel_exporter_otlp_endpoint="http://127.0.0.1:9"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("OTEL_EXPORTER_OTLP_ENDPOINT is set, but")
    assert "pip install -e '.[tracing]'" in done.stderr
    assert "Traceback" not in done.stderr

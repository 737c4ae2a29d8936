"""A receiver of traces in a process of its own: `python -m tests.support.otlp_receiver FILE`.

It speaks OTLP over HTTP with protobuf, prints its port, and appends to the file a line of JSON for
each span, as it came.
"""

import gzip
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

PROTOBUF = "application/x-protobuf"


def spans(request: ExportTraceServiceRequest) -> Iterator[dict[str, Any]]:
    for of_resource in request.resource_spans:
        resource = {one.key: plain(one.value) for one in of_resource.resource.attributes}
        for of_scope in of_resource.scope_spans:
            for span in of_scope.spans:
                yield {
                    "name": span.name,
                    "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    "trace_id": span.trace_id.hex(),
                    "span_id": span.span_id.hex(),
                    "parent_span_id": span.parent_span_id.hex(),
                    "start": span.start_time_unix_nano,
                    "end": span.end_time_unix_nano,
                    "status": Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
                    "attributes": {one.key: plain(one.value) for one in span.attributes},
                    "events": [event.name for event in span.events],
                    "scope": of_scope.scope.name,
                    "resource": resource,
                }


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(one) for one in value.array_value.values]
    return getattr(value, kind)


class Handler(BaseHTTPRequestHandler):
    path_of_file: Path

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        is_ours = self.path == "/v1/traces" and self.headers["Content-Type"] == PROTOBUF
        if is_ours:
            with self.path_of_file.open("a") as file:
                for span in spans(ExportTraceServiceRequest.FromString(body)):
                    file.write(json.dumps(span) + "\n")
        self.send_response(200 if is_ours else 404)
        self.send_header("Content-Type", PROTOBUF)
        self.end_headers()
        self.wfile.write(ExportTraceServiceResponse().SerializeToString())

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    Handler.path_of_file = Path(sys.argv[1])
    server = HTTPServer(("127.0.0.1", 0), Handler)
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()

"""Clients over HTTP in a process of their own: `python -m benchmarks.load --url URL --protocol P`.

Reads jobs from standard input, one JSON line each, and answers each with a line of traces. It
speaks HTTP/1.1 itself, with one connection for each request: a general client takes a sixth of a
millisecond for each token, on cores that the server needs.
"""

import argparse
import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from benchmarks.worker import serve_jobs
from benchmarks.workload import BenchmarkError, Request, run_job

LINE_LIMIT = 2**20


@dataclass(frozen=True, slots=True)
class Protocol:
    """Protocol of a server: its route, its requests and its events.

    Args:
        path: path of the route.
        body: creates the JSON of a request.
        read: returns text and number of tokens of an event; the number may come once, at the end.
    """

    path: str
    body: Callable[[Request], dict[str, object]]
    read: Callable[[dict[str, Any]], tuple[str, int]]


def _generate_body(request: Request) -> dict[str, object]:
    return {
        "prompt": request.prompt,
        "max_length": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stream": True,
        "return_full_text": False,
        "ignore_eos": True,
    }


def _completions_body(request: Request) -> dict[str, object]:
    """Creates a request without `ignore_eos`; the measured model never samples the end token."""
    return {
        "prompt": request.prompt,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "stream": True,
    }


def _llama_server_body(request: Request) -> dict[str, object]:
    return _completions_body(request) | {
        "ignore_eos": True,
        "stream_options": {"include_usage": True},
    }


def _read_usage_last(event: dict[str, Any]) -> tuple[str, int]:
    """Reads an event of llama.cpp's server; the last one has usage and no choice."""
    text = "".join(choice["text"] for choice in event["choices"])
    return text, (event.get("usage") or {}).get("completion_tokens", 0)


def _read_completion(event: dict[str, Any]) -> tuple[str, int]:
    usage = event.get("usage") or {}
    return event["choices"][0]["text"], usage.get("completion_tokens", 0)


def _read_text(event: dict[str, Any]) -> tuple[str, int]:
    """Reads an event of `llama_cpp.server`, which sends each token by itself and counts none."""
    text = event["choices"][0]["text"]
    return text, int(text != "")


PROTOCOLS = {
    "generate": Protocol(
        "/generate", _generate_body, lambda event: (event["text"], event.get("tokens") or 0)
    ),
    "completions": Protocol("/v1/completions", _completions_body, _read_completion),
    "llama-cpp": Protocol("/v1/completions", _completions_body, _read_text),
    "llama-server": Protocol("/v1/completions", _llama_server_body, _read_usage_last),
}


async def stream(url: str, protocol: Protocol, request: Request) -> AsyncGenerator[tuple[str, int]]:
    """Sends a request and yields text and token counts as they arrive.

    Raises:
        BenchmarkError: the answer is not 200, not a stream, or has an error.
    """
    async with _post(url, protocol.path, json.dumps(protocol.body(request)).encode()) as reader:
        status = int((await reader.readline()).split()[1])
        headers = [line.lower() async for line in _header_lines(reader)]
        if status != 200:
            raise BenchmarkError(f"status {status}: {(await reader.read(2000))!r}")
        if b"transfer-encoding: chunked" not in headers:
            raise BenchmarkError("the answer is no stream")
        async for line in _lines_of_chunks(reader):
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise BenchmarkError(f"the stream has an error: {line!r}")
                yield protocol.read(event)


@asynccontextmanager
async def _post(url: str, path: str, body: bytes) -> AsyncGenerator[asyncio.StreamReader]:
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=LINE_LIMIT)
    try:
        writer.write(
            b"POST %b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (path.encode(), address.netloc.encode(), len(body), body)
        )
        yield reader
    finally:
        writer.close()


async def _header_lines(reader: asyncio.StreamReader) -> AsyncGenerator[bytes]:
    while line := (await reader.readline()).strip():
        yield line


async def _lines_of_chunks(reader: asyncio.StreamReader) -> AsyncGenerator[bytes]:
    """Yields whole lines of a chunked body; chunks may end within lines."""
    rest = b""
    while size := int(await reader.readline() or b"0", 16):
        chunk = await reader.readexactly(size + 2)  # it ends with CR LF
        *lines, rest = (rest + chunk[:-2]).split(b"\n")
        for line in lines:
            yield line.rstrip(b"\r")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--protocol", choices=PROTOCOLS, required=True)
    arguments = parser.parse_args()
    protocol = PROTOCOLS[arguments.protocol]
    serve_jobs(
        lambda job: asyncio.run(
            run_job(job, lambda request: stream(arguments.url, protocol, request))
        )
    )


if __name__ == "__main__":
    main()

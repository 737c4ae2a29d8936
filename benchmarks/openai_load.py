"""OpenAI's client as load generator: `python -m benchmarks.openai_load --url URL --protocol P`.

It runs as `benchmarks.load` does. The same client reads the native stream too, so the difference is
the server's work and the size of its events. The client itself takes a core, so it measures less
than the server's limit.
"""

import argparse
import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from openai import AsyncOpenAI, AsyncStream, BaseModel

from benchmarks.worker import serve_jobs
from benchmarks.workload import Job, Request, run_job
from src.cli.measurement import Trace

MODEL_FIELDS = {"stream": True, "stream_options": {"include_usage": True}}
IGNORE_EOS = {"ignore_eos": True}

Stream = Callable[[AsyncOpenAI, str, Request], AsyncGenerator[tuple[str, int]]]


class GenerateDelta(BaseModel):
    """An event of `/generate` as a type of OpenAI's client."""

    index: int
    text: str
    finish_reason: str | None
    tokens: int | None = None
    prompt_tokens: int | None = None


async def completions(
    client: AsyncOpenAI, model: str, request: Request
) -> AsyncGenerator[tuple[str, int]]:
    """Streams from `/v1/completions`."""
    chunks = await client.completions.create(
        **_fields(model, request), prompt=request.prompt, extra_body=IGNORE_EOS
    )
    async for chunk in chunks:
        text = chunk.choices[0].text if chunk.choices else ""
        yield text, chunk.usage.completion_tokens if chunk.usage else 0


async def chat(
    client: AsyncOpenAI, model: str, request: Request
) -> AsyncGenerator[tuple[str, int]]:
    """Streams from `/v1/chat/completions`."""
    messages = [{"role": "user", "content": request.prompt}]
    chunks = await client.chat.completions.create(
        **_fields(model, request), messages=messages, extra_body=IGNORE_EOS
    )
    async for chunk in chunks:
        text = chunk.choices[0].delta.content or "" if chunk.choices else ""
        yield text, chunk.usage.completion_tokens if chunk.usage else 0


async def generate(
    client: AsyncOpenAI, model: str, request: Request
) -> AsyncGenerator[tuple[str, int]]:
    """Streams from `/generate`, over the same connections and with the same reader of events."""
    deltas = await client.post(
        str(client.base_url).removesuffix("/v1/") + "/generate",
        body={
            "prompt": request.prompt,
            "max_length": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stream": True,
            "return_full_text": False,
            **IGNORE_EOS,
        },
        cast_to=GenerateDelta,
        stream=True,
        stream_cls=AsyncStream[GenerateDelta],
    )
    async for delta in deltas:
        yield delta.text, delta.tokens or 0


def _fields(model: str, request: Request) -> dict[str, Any]:
    return MODEL_FIELDS | {
        "model": model,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
    }


PROTOCOLS: dict[str, Stream] = {"completions": completions, "chat": chat, "generate": generate}


async def run(url: str, protocol: str, job: Job) -> list[Trace]:
    """Runs a job with one client, as an application does."""
    async with AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0) as client:
        model = (await client.models.list()).data[0].id
        stream = PROTOCOLS[protocol]
        return await run_job(job, lambda request: stream(client, model, request))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--protocol", choices=PROTOCOLS, required=True)
    arguments = parser.parse_args()
    serve_jobs(lambda job: asyncio.run(run(arguments.url, arguments.protocol, job)))


if __name__ == "__main__":
    main()

"""`RequestRunner`: runs sequences through the engine until they end or the deadline passes."""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING

from src.core.engine_lifecycle import EngineLifecycle
from src.core.identity import current_caller
from src.core.observers import Outcome
from src.core.output_dispatcher import OutputDispatcher, Trim
from src.core.outputs import Embedding, TextDelta
from src.core.request_context import RequestContext, timeout_error
from src.core.text_stream import TextStream
from src.engine.request import FAILURES, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.errors import InvalidGrammarError, InvalidRequestError

if TYPE_CHECKING:
    from src.engine.structured_output.matcher import Grammar

HOLD_SECONDS = 0.005
"""Time after which a call with outputs at hand yields to the event loop."""

MAX_EMBEDDED_AT_ONCE = 32
"""Prompts of one call in the queue at a time; the rest of the queue stays free for others."""


class OutputReader:
    """Reads a call's outputs, and yields to the event loop every `HOLD_SECONDS`.

    A queue that is never empty never suspends its reader: 128 sequences of a call would hold the
    event loop until the last one ends.

    Args:
        queue: the call's outputs.
    """

    def __init__(self, queue: "asyncio.Queue[RequestOutput | None]") -> None:
        self._queue = queue
        self._since = time.monotonic()

    async def get(self) -> RequestOutput | None:
        """Waits for the next output."""
        if self._queue.empty():
            output = await self._queue.get()
            self._since = time.monotonic()
            return output
        if time.monotonic() - self._since > HOLD_SECONDS:
            await asyncio.sleep(0)
            self._since = time.monotonic()
        return self._queue.get_nowait()


class RequestRunner:
    """Runs the sequences of one call at a time, for any number of concurrent calls.

    Args:
        lifecycle: holds model and engine.
        dispatcher: carries requests to the engine and outputs back.
    """

    def __init__(self, lifecycle: EngineLifecycle, dispatcher: OutputDispatcher) -> None:
        self._lifecycle = lifecycle
        self._dispatcher = dispatcher

    async def generate(
        self, prompts: list[list[int]], params: SamplingParams, n: int, context: RequestContext
    ) -> AsyncGenerator[TextDelta]:
        """Continues each prompt n times; errors as of `InferenceEngine.stream_batch`."""
        async with context.time_limit():
            grammar = await self._compile(params)
        loaded = self._lifecycle.require_model()
        token_bytes = self._lifecycle.require_codec().token_bytes
        create = partial(TextStream, params=params, timings=context.timings, grammar=grammar)
        streams = [
            create(index, index % n, loaded, token_bytes, prompts[index // n])
            for index in range(n * len(prompts))
        ]
        by_id = {stream.request.request_id: stream for stream in streams}
        trims = {request_id: stream.trim for request_id, stream in by_id.items()}
        requests = [stream.request for stream in streams]
        async with aclosing(self._run(requests, context, trims)) as outputs:
            async for output in outputs:
                yield by_id[output.request_id].take()

    async def embed(self, prompts: list[list[int]], context: RequestContext) -> list[Embedding]:
        """Embeds prompts, some at a time; errors as of `InferenceEngine.embed`."""
        embeddings: list[Embedding] = []
        max_live = self._lifecycle.require_engine().admission.max_live
        batch_size = min(MAX_EMBEDDED_AT_ONCE, max_live)
        for start in range(0, len(prompts), batch_size):
            embeddings += await self._embed_batch(prompts[start : start + batch_size], context)
        return embeddings

    async def _embed_batch(
        self, prompts: list[list[int]], context: RequestContext
    ) -> list[Embedding]:
        requests = [
            Request(uuid.uuid4().hex, token_ids, SamplingParams(), embeds=True)
            for token_ids in prompts
        ]
        values: dict[str, list[float]] = {}
        async with aclosing(self._run(requests, context)) as outputs:
            async for output in outputs:
                values[output.request_id] = output.embedding
        return [
            Embedding(request.prompt_token_ids, values[request.request_id]) for request in requests
        ]

    async def _run(
        self,
        requests: list[Request],
        context: RequestContext,
        trims: Mapping[str, Trim] | None = None,
    ) -> AsyncGenerator[RequestOutput]:
        """Submits requests, all or none, and yields their outputs until all have ended.

        Closing the iterator cancels the live requests. When one request fails, all end. At the
        deadline the live ones end with their text so far, and the finish reason LENGTH.
        """
        engine = self._lifecycle.require_engine()
        queue = await self._dispatcher.submit(engine, requests, context.operation, trims)
        outputs = OutputReader(queue)
        request_ids = [request.request_id for request in requests]
        live = set(request_ids)
        # One timer a call: one for each token took as long as the rest of this loop.
        timer = asyncio.get_running_loop().call_at(
            context.deadline, self._dispatcher.cut, request_ids, queue
        )
        try:
            while live:
                output = await outputs.get()
                if output is None:
                    raise timeout_error()
                if output.request_id not in live:
                    continue  # it was under way when the sequence ended
                if output.finish_reason in FAILURES:
                    raise self._lifecycle.failure(output.finish_reason, engine)
                if output.finish_reason is not None:
                    live.remove(output.request_id)
                yield output
        finally:
            timer.cancel()
            for request_id in live:
                self._dispatcher.end(engine, request_id, Outcome.CANCELLED)

    async def _compile(self, params: SamplingParams) -> "Grammar | None":
        """Returns the compiled grammar of a request, if it has one."""
        source, compiler = params.grammar, self._lifecycle.grammars
        if source is None:
            return None
        if compiler is None:
            raise InvalidGrammarError(
                "Structured output does not work with this model's tokenizer: leave it out, and"
                " describe the format in the prompt.",
                source.field,
            )
        token_bytes = self._lifecycle.require_codec().token_bytes
        for token_id in params.stop_token_ids:
            if not token_bytes.get(token_id).is_special:
                raise InvalidRequestError(
                    f"Token {token_id} is text, which would cut structured output short: leave it"
                    " out.",
                    ("stop_token_ids",),
                )
        return await compiler.compile(source, current_caller.get().id)

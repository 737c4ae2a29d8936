"""`InferenceEngine`: text in, text out. The web layer talks to this and to nothing below it.

`generate` and `generate_batch` collect what `stream` yields, so there is one way through the house.
The engine below runs in its own thread; its outputs come back to the event loop one call at a time
and wait in one queue per stream.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from enum import StrEnum
from typing import TYPE_CHECKING

from src.engine.config import EngineConfig
from src.engine.request import FinishReason, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.errors import (
    EngineDeadError,
    EngineNotReadyError,
    GenerationFailedError,
    GenerationTimeoutError,
    InvalidRequestError,
    ServiceError,
)
from src.generation import Completion, Generation, TextDelta, TextStream

if TYPE_CHECKING:
    from src.engine.loop import EngineLoop
    from src.engine.model_loader import LoadedModel
    from src.engine.reference import ReferenceEngine


class EngineState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DEAD = "dead"


class InferenceEngine:
    """Runs one model for many callers.

    Args:
        config: which model, and how to run it.
        timeout_seconds: how long one call may wait and run.
        on_tokens: told the number of new tokens whenever some were generated.
    """

    def __init__(
        self,
        config: EngineConfig,
        timeout_seconds: float = 60,
        on_tokens: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._config = config
        self._timeout_seconds = timeout_seconds
        self._on_tokens = on_tokens
        self._loaded: LoadedModel | None = None
        self._engine: EngineLoop | ReferenceEngine | None = None

    @property
    def model_name(self) -> str:
        return self._config.model_name

    @property
    def state(self) -> EngineState:
        if self._engine is None:
            return EngineState.LOADING
        return EngineState.READY if self._engine.is_alive else EngineState.DEAD

    @property
    def max_model_len(self) -> int:
        """Prompt and new tokens together at most."""
        return self._require_ready()[0].max_model_len

    @property
    def num_live(self) -> int:
        """Sequences that wait or run."""
        return self._engine.num_live if self._engine else 0

    def load_model(self) -> None:
        """Loads the model and starts the engine; takes seconds, so call it in a thread.

        Raises:
            ModelLoadError: the model cannot be loaded; the message says what to do.
        """
        # Importing torch and transformers takes seconds in which the server already listens.
        from src.engine.factory import create_engine  # noqa: PLC0415
        from src.engine.model_loader import load_model  # noqa: PLC0415

        self._loaded = load_model(self._config)
        self._engine = create_engine(self._loaded, self._config)

    def shutdown(self) -> None:
        """Ends what runs and stops the engine. May be called at any time, twice too."""
        if self._engine is not None:
            self._engine.shutdown()

    async def generate(self, prompt: str, params: SamplingParams, n: int = 1) -> Generation:
        """Continues a prompt n times.

        Raises:
            InvalidRequestError: the prompt is empty or does not fit the model's context.
            ServiceError: as `stream`.
        """
        deadline = self._deadline()
        token_ids = await self.tokenize(prompt, params.max_tokens, deadline=deadline)
        return await self._collect(token_ids, params, n, deadline)

    async def generate_batch(
        self, prompts: list[str], params: SamplingParams, n: int = 1
    ) -> list[Generation]:
        """Continues each prompt n times; the answers are in the prompts' order.

        All prompts are checked before any runs. When one fails, all end. Raises as `generate`.
        """
        deadline = self._deadline()
        tokenized = [
            await self.tokenize(prompt, params.max_tokens, ("prompts", index), deadline)
            for index, prompt in enumerate(prompts)
        ]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._collect(ids, params, n, deadline)) for ids in tokenized
                ]
        except* ServiceError as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def tokenize(
        self,
        prompt: str,
        max_tokens: int,
        field: tuple[str | int, ...] = ("prompt",),
        deadline: float | None = None,
    ) -> list[int]:
        """Returns the prompt's token ids if they fit the context together with the new tokens.

        Args:
            prompt: plain text; what spells a special token stays text.
            max_tokens: new tokens that are to follow.
            field: where the prompt stands in the caller's request, for the error.
            deadline: on the event loop's clock; None is the time limit from now on.

        Raises:
            InvalidRequestError: the prompt is empty or too long.
            GenerationTimeoutError: the time is up.
        """
        loaded, _ = self._require_ready()
        _check_size(prompt, loaded, field)
        # encode_batch lets go of the interpreter lock, encode does not; a megabyte takes a second.
        async with _until(deadline or self._deadline()):
            encodings = await asyncio.to_thread(loaded.tokenizer.encode_batch, [prompt])
        token_ids: list[int] = encodings[0].ids
        _check_length(len(token_ids), max_tokens, loaded.max_model_len, field)
        return token_ids

    async def stream(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        n: int = 1,
        deadline: float | None = None,
    ) -> AsyncGenerator[TextDelta]:
        """Continues a prompt n times and yields the text as it is made.

        Leaving the iterator ends the generation. The i-th sequence uses seed + i.

        Args:
            prompt_token_ids: as `tokenize` returns them.
            params: how to choose the tokens.
            n: number of sequences.
            deadline: on the event loop's clock; None is the time limit from now on.

        Raises:
            EngineNotReadyError: the model is still loading.
            EngineDeadError: the engine has ended.
            GenerationFailedError: the model raised.
            GenerationTimeoutError: the time is up.
        """
        loaded, engine = self._require_ready()
        loop = asyncio.get_running_loop()
        deadline = deadline or self._deadline()
        outputs: asyncio.Queue[RequestOutput] = asyncio.Queue()

        def deliver(output: RequestOutput) -> None:
            with suppress(RuntimeError):  # the loop has ended, and all who would read with it
                loop.call_soon_threadsafe(outputs.put_nowait, output)

        live: dict[str, TextStream] = {}
        try:
            for index in range(n):
                sequence = TextStream(index, loaded, prompt_token_ids, params)
                live[sequence.request.request_id] = sequence
                engine.add_request(sequence.request, deliver)
            while live:
                async with _until(deadline):
                    output = await outputs.get()
                self._on_tokens(len(output.new_token_ids))
                if output.request_id not in live:
                    continue  # what was under way when a stop string ended it
                delta = live[output.request_id].advance(output)
                if delta.finish_reason in (FinishReason.ABORT, FinishReason.ERROR):
                    raise self._failure()
                if delta.finish_reason is not None:
                    del live[output.request_id]
                    engine.abort_request(output.request_id)
                yield delta
        finally:
            for request_id in live:
                engine.abort_request(request_id)

    async def _collect(
        self, prompt_token_ids: list[int], params: SamplingParams, n: int, deadline: float
    ) -> Generation:
        completions = [Completion() for _ in range(n)]
        async with aclosing(self.stream(prompt_token_ids, params, n, deadline)) as deltas:
            async for delta in deltas:
                completions[delta.index].add(delta)
        return Generation(len(prompt_token_ids), completions)

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._timeout_seconds

    def _require_ready(self) -> "tuple[LoadedModel, EngineLoop | ReferenceEngine]":
        if self._loaded is None or self._engine is None:
            raise EngineNotReadyError("The model is still loading; try again in a few seconds.")
        if not self._engine.is_alive:
            raise EngineDeadError("The engine has ended; this server can generate no more.")
        return self._loaded, self._engine

    def _failure(self) -> ServiceError:
        if self.state is EngineState.DEAD:
            return EngineDeadError("The engine has ended; this server can generate no more.")
        return GenerationFailedError("The model failed on this request; the cause is in the log.")


@asynccontextmanager
async def _until(deadline: float) -> AsyncGenerator[None]:
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError:
        raise GenerationTimeoutError(
            "The request took longer than this server allows; ask for fewer tokens, or try again"
            " when it is less busy."
        ) from None


def _check_size(prompt: str, loaded: "LoadedModel", field: tuple[str | int, ...]) -> None:
    """Refuses at once what is too long for any tokenization to fit."""
    num_bytes = len(prompt.encode("utf-8", "replace"))
    if loaded.max_prompt_bytes is not None and num_bytes > loaded.max_prompt_bytes:
        raise InvalidRequestError(
            f"The prompt has {num_bytes} bytes, and no text of more than {loaded.max_prompt_bytes}"
            f" bytes fits the model's context of {loaded.max_model_len} tokens: shorten it.",
            field,
        )


def _check_length(
    num_prompt_tokens: int, max_tokens: int, max_model_len: int, field: tuple[str | int, ...]
) -> None:
    if num_prompt_tokens == 0:
        raise InvalidRequestError("The prompt is empty; it needs at least one token.", field)
    if num_prompt_tokens + max_tokens <= max_model_len:
        return
    remedies = []
    if max_tokens >= max_model_len:
        field = ("max_tokens",)
    else:
        remedies.append(f"shorten the prompt to at most {max_model_len - max_tokens} tokens")
    if num_prompt_tokens < max_model_len:
        remedies.append(f"ask for at most {max_model_len - num_prompt_tokens} new tokens")
    raise InvalidRequestError(
        f"The prompt's {num_prompt_tokens} tokens and {max_tokens} new tokens are more than the"
        f" model's context of {max_model_len} tokens: "
        f"{' or '.join(remedies) or 'shorten the prompt and ask for fewer new tokens'}.",
        field,
    )

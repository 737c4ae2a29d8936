"""`InferenceEngine`: text in, text out. The web layer talks to this and to nothing below it.

`generate` and `generate_batch` collect what `stream` yields, so there is one way through the house.
`EngineLifecycle` holds the model and its engine, `RequestRunner` takes requests through it.
"""

import asyncio
import hashlib
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from src import __version__
from src.core.engine_lifecycle import EngineLifecycle, EngineState
from src.core.identity import current_caller
from src.core.output_dispatcher import Meter, Observer, OutputDispatcher, Tracer
from src.core.outputs import (
    Completion,
    Embedding,
    Generation,
    Operation,
    TextDelta,
    TextStream,
)
from src.core.request_runner import RequestRunner, until
from src.core.request_validation import Field, RequestLimits, check_length, check_params
from src.engine.config import EngineConfig
from src.engine.interface import Engine
from src.engine.kernels.build import usable_variants
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from src.engine.structured_output.compile_pool import GrammarLimits
from src.errors import (
    InvalidGrammarError,
    InvalidRequestError,
)
from src.text.chat_template import ChatMessage
from src.text.token_bytes import TokenText
from src.text.tokenization import (
    Prompt,
    decode,
    encode,
    encode_chat,
    require_chat_template,
)
from src.tool_calling.format import ToolCallFormat, find_format
from src.tool_calling.grammar import Tool

if TYPE_CHECKING:
    from src.engine.model.loader import LoadedModel
    from src.engine.structured_output.matcher import Grammar

MAX_EMBEDDED_AT_ONCE = 32
"""So many prompts of one call take places in the queue at a time; the others are left to others."""


class InferenceEngine:
    """Runs one model for many callers.

    Args:
        config: which model, and how to run it.
        timeout_seconds: how long one call may wait and run.
        observer: counts and times what happens.
        tracer: follows single sequences.
        grammar_limits: what grammars may cost.
        meter: counts what each caller uses.
        request_limits: what one request may ask for.
    """

    def __init__(
        self,
        config: EngineConfig,
        timeout_seconds: float = 60,
        observer: Observer | None = None,
        tracer: Tracer | None = None,
        grammar_limits: GrammarLimits | None = None,
        meter: Meter | None = None,
        request_limits: RequestLimits | None = None,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._limits = request_limits or RequestLimits()
        self._delivery = OutputDispatcher(observer, tracer, meter)
        limits = grammar_limits or GrammarLimits()
        self._host = EngineLifecycle(config, self._delivery.receive, observer, limits)
        self._runs = RequestRunner(self._host, self._delivery)
        self._tool_call_format: ToolCallFormat | None = None  # once somebody asked for it
        self.created_at = int(time.time())

    @property
    def model_name(self) -> str:
        return self._host.config.model_name

    @property
    def fingerprint(self) -> str:
        """Ten hexadecimal digits that change with what a seed's answer depends on."""
        config = self._host.config
        parts = [__version__, config.model_name, config.engine, config.dtype, config.quantization]
        if config.kernels != "pytorch":
            parts += usable_variants()[:1]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:10]

    @property
    def state(self) -> EngineState:
        return self._host.state

    @property
    def max_model_len(self) -> int:
        """Prompt and new tokens together at most."""
        return self._host.require_ready()[0].max_model_len

    @property
    def max_live(self) -> int:
        """Sequences that run and wait at most; more are refused."""
        return self._host.require_ready()[1].admission.max_live

    @property
    def embedding_size(self) -> int | None:
        """Numbers in an embedding; None if the model has none."""
        return self._host.require_ready()[0].embedding_size

    @property
    def tokenizer_class(self) -> str:
        """HuggingFace's name of the tokenizer's class."""
        return self._host.require_ready()[0].tokenizer_class

    @property
    def special_tokens(self) -> Mapping[str, str]:
        """Names such as `eos_token`, to the special tokens' texts."""
        return self._host.require_ready()[0].special_tokens

    @property
    def chat_template_source(self) -> str | None:
        """The chat template as Jinja reads it; None if the model has none."""
        template = self._host.require_ready()[0].chat_template
        return template.source if template else None

    def special_token_id(self, text: str) -> int | None:
        """The id of the special token with exactly this text; None for any other text."""
        loaded, _ = self._host.require_ready()
        for token_id, token in loaded.tokenizer.get_added_tokens_decoder().items():
            if token.special and token.content == text:
                return int(token_id)
        return None

    @property
    def num_live(self) -> int:
        """Sequences that wait or run."""
        engine = self._host.engine
        return engine.admission.num_live if engine else 0

    def load_model(self, check: Callable[[int], None] | None = None) -> None:
        """Loads the model and starts the engine, as `EngineLifecycle.load` documents."""
        self._host.load(check)

    def end(self) -> None:
        """Ends what runs, as the server shuts down; who waits is told so at once."""
        self._host.end()

    @property
    def has_chat_template(self) -> bool:
        """Whether the model, which must be loaded, can be asked in conversations."""
        return self._host.require_ready()[0].chat_template is not None

    def shutdown(self) -> None:
        """Ends what runs and stops the engine. May be called at any time, twice too."""
        self._host.shutdown()

    async def wait_until_dead(self, hang_seconds: float) -> None:
        """Returns when the engine can generate no more; arguments as of `EngineLifecycle`'s."""
        await self._host.wait_until_dead(hang_seconds)

    def token_text(self, token_id: int) -> str:
        """How a token is written by itself; a piece of a character is U+FFFD."""
        text: str = self._host.require_ready()[0].tokenizer.decode(
            [token_id], skip_special_tokens=False
        )
        return text

    def token(self, token_id: int) -> TokenText:
        """What a token adds to a text."""
        self._host.require_ready()
        assert self._host.token_texts is not None
        return self._host.token_texts.get(token_id)

    async def generate(self, prompt: str, params: SamplingParams, n: int = 1) -> Generation:
        """Continues a prompt n times.

        Raises:
            InvalidRequestError: the prompt is empty or does not fit the model's context.
            ServiceError: as `stream`.
        """
        deadline = self.deadline()
        token_ids = await self.tokenize(prompt, params, deadline=deadline)
        (generation,) = await self.collect([token_ids], params, n, deadline)
        return generation

    async def generate_batch(
        self, prompts: list[str], params: SamplingParams, n: int = 1
    ) -> list[Generation]:
        """Continues each prompt n times; the answers are in the prompts' order.

        All prompts are checked before any runs. When one fails, all end. Raises as `generate`.
        """
        if n == 1:  # else it is their number times n that is too large
            self._check_num_sequences(self._host.require_ready()[1], len(prompts), ("prompts",))
        deadline = self.deadline()
        tokenized = [
            await self.tokenize(prompt, params, ("prompts", index), deadline)
            for index, prompt in enumerate(prompts)
        ]
        return await self.collect(tokenized, params, n, deadline)

    async def collect(
        self,
        prompts: list[list[int]],
        params: SamplingParams,
        n: int = 1,
        deadline: float | None = None,
        operation: Operation = Operation.TEXT_COMPLETION,
    ) -> list[Generation]:
        """Continues each of several prompts n times; arguments and errors as `stream_batch`."""
        generations = [Generation(ids, [Completion() for _ in range(n)]) for ids in prompts]
        async with aclosing(self.stream_batch(prompts, params, n, deadline, operation)) as deltas:
            async for delta in deltas:
                generations[delta.index // n].add(delta)
        return generations

    async def tokenize(
        self,
        prompt: Prompt,
        params: SamplingParams,
        field: Field = ("prompt",),
        deadline: float | None = None,
    ) -> list[int]:
        """Returns the prompt's token ids if they fit the context together with the new tokens.

        Args:
            prompt: plain text, in which what spells a special token stays text; or token ids.
            params: what is to follow; checked against the model too.
            field: where the prompt stands in the caller's request, for the error.
            deadline: on the event loop's clock; None is the time limit from now on.

        Raises:
            InvalidRequestError: the prompt is empty or too long, or there is no such token.
            GenerationTimeoutError: the time is up.
        """
        loaded, _ = self._host.require_ready()
        check_params(params, loaded.vocab_size)
        async with until(deadline or self.deadline()):
            token_ids = await self._encode(loaded, prompt, field)
        check_length(len(token_ids), params.max_tokens, loaded.max_model_len, field)
        return token_ids

    @property
    def tool_call_format(self) -> ToolCallFormat:
        """How the model writes calls of tools.

        Raises:
            InvalidRequestError: it calls none, or in no way that is known.
        """
        template = require_chat_template(self._host.require_ready()[0], ("messages",))
        if self._tool_call_format is None:  # the template renders two conversations for it
            self._tool_call_format = find_format(template, self._host.config.tool_call_format)
        return self._tool_call_format

    async def tokenize_chat(
        self,
        messages: list[ChatMessage],
        field: Field = ("messages",),
        tools: Sequence[Tool] = (),
        deadline: float | None = None,
        *,
        begins_answer: bool = True,
    ) -> list[int]:
        """Returns the token ids of a conversation, by the model's chat template.

        Whether they fit the context is `check`'s to say: with how many new tokens may depend on
        their number.

        Args:
            messages: the conversation.
            field: where it stands in the caller's request, for the error.
            tools: what the model may call.
            deadline: on the event loop's clock; None is the time limit from now on.
            begins_answer: the answer's turn has begun.

        Raises:
            InvalidRequestError: the messages are too long for any context, the model has no chat
                template, or it refuses these messages.
            GenerationTimeoutError: the time is up.
        """
        loaded, _ = self._host.require_ready()
        async with until(deadline or self.deadline()):
            described = [tool.described() for tool in tools]
            return await encode_chat(
                loaded, messages, self._limits, field, described, begins_answer=begins_answer
            )

    def room(self, num_prompt_tokens: int, num_logprobs: int | None = None, n: int = 1) -> int:
        """Returns how many new tokens a request may have that names no number; at least 1.

        Args:
            num_prompt_tokens: a prompt that leaves no room is refused by `check`.
            num_logprobs: alternatives of each token; None wants no log-probabilities.
            n: sequences.
        """
        room = self.max_model_len - num_prompt_tokens
        return self._limits.max_new_tokens(room, num_logprobs, n)

    def check(self, num_prompt_tokens: int, params: SamplingParams, field: Field) -> None:
        """Refuses what the model cannot do.

        Raises:
            InvalidRequestError: prompt and new tokens do not fit the context, or there is no such
                token.
        """
        loaded, _ = self._host.require_ready()
        check_params(params, loaded.vocab_size)
        check_length(num_prompt_tokens, params.max_tokens, loaded.max_model_len, field)

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Returns the token ids of a text, with or without those that begin and end one.

        Raises:
            InvalidRequestError: the text is too long for any context.
            GenerationTimeoutError: the time is up.
        """
        loaded, _ = self._host.require_ready()
        async with until(self.deadline()):
            return await self._encode(
                loaded, text, ("prompt",), add_special_tokens=add_special_tokens
            )

    async def _encode(
        self,
        loaded: "LoadedModel",
        prompt: Prompt,
        field: Field,
        *,
        add_special_tokens: bool = True,
    ) -> list[int]:
        if isinstance(prompt, str):
            self._limits.check_prompt(prompt, field)
        return await encode(loaded, prompt, field, add_special_tokens=add_special_tokens)

    async def decode(
        self,
        token_ids: list[int],
        field: Field = ("prompt",),
        *,
        skip_special_tokens: bool = True,
    ) -> str:
        """Returns the text of token ids; arguments and errors as of `tokenization.decode`."""
        loaded, _ = self._host.require_ready()
        return await decode(loaded, token_ids, field, skip_special_tokens=skip_special_tokens)

    def stream(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        n: int = 1,
        deadline: float | None = None,
        operation: Operation = Operation.TEXT_COMPLETION,
    ) -> AsyncGenerator[TextDelta]:
        """Continues one prompt n times; as `stream_batch`."""
        return self.stream_batch([prompt_token_ids], params, n, deadline, operation)

    async def stream_batch(
        self,
        prompts: list[list[int]],
        params: SamplingParams,
        n: int = 1,
        deadline: float | None = None,
        operation: Operation = Operation.TEXT_COMPLETION,
    ) -> AsyncGenerator[TextDelta]:
        """Continues each prompt n times and yields the texts as they are made.

        Leaving the iterator ends the generation. The i-th sequence of each prompt uses seed + i;
        of the p-th prompt its index is p * n + i. When one fails, all end.

        Args:
            prompts: token ids, as `tokenize` returns them.
            params: how to choose the tokens.
            n: number of sequences of each prompt.
            deadline: on the event loop's clock; None is the time limit from now on.
            operation: what the call is there for, for metrics and traces.

        Raises:
            EngineNotReadyError: the model is still loading.
            EngineDeadError: the engine has ended.
            InvalidRequestError: these are more sequences than the server ever holds, or answers
                cannot be shaped as `params.grammar` says.
            OverloadedError: the queue is full, or the request waited too long in it.
            GenerationFailedError: the model raised.
            GenerationTimeoutError: the time is up.
        """
        loaded, engine = self._host.require_ready()
        deadline = deadline or self.deadline()
        self._limits.check_stop(params.stop)
        self._limits.check_logprobs(prompts, params, n)
        self._check_num_sequences(engine, n * len(prompts), ("n",) if n > 1 else ("prompt",))
        async with until(deadline):
            grammar = await self._compile(params)
        streams = [
            TextStream(index, index % n, loaded, prompts[index // n], params, grammar)
            for index in range(n * len(prompts))
        ]
        by_id = {stream.request.request_id: stream for stream in streams}
        live = set(by_id)
        requests = [stream.request for stream in streams]
        trims = {request_id: stream.trim for request_id, stream in by_id.items()}
        async with aclosing(
            self._runs.run(engine, requests, live, deadline, operation, trims)
        ) as outputs:
            async for output in outputs:
                yield by_id[output.request_id].take()

    async def embed(self, prompts: list[Prompt], field: Field = ("input",)) -> list[Embedding]:
        """Returns the mean of the model's last hidden states over each prompt, at length 1.

        All prompts are checked before any runs. When one fails, all end.

        Args:
            prompts: texts or token ids; each may have as many tokens as the context.
            field: where they stand in the caller's request, for the error.

        Raises:
            InvalidRequestError: a prompt is empty or does not fit, or this model has no embeddings.
            ServiceError: as `stream_batch`.
        """
        loaded, engine = self._host.require_ready()
        deadline = self.deadline()
        if loaded.embedding_size is None:
            raise InvalidRequestError(
                "This model's code does not tell its hidden states, so it has no embeddings; serve"
                " another model for them.",
                ("model",),
            )
        tokenized: list[list[int]] = []
        for index, prompt in enumerate(prompts):
            own = (*field, index) if len(prompts) > 1 else field
            async with until(deadline):
                tokenized.append(await self._encode(loaded, prompt, own))
            check_length(len(tokenized[-1]), 0, loaded.max_model_len, own)
        found: list[Embedding] = []
        at_once = min(MAX_EMBEDDED_AT_ONCE, engine.admission.max_live)
        for start in range(0, len(tokenized), at_once):
            found += await self._embed(engine, tokenized[start : start + at_once], deadline)
        return found

    async def _embed(
        self, engine: Engine, prompts: list[list[int]], deadline: float
    ) -> list[Embedding]:
        requests = [
            Request(uuid.uuid4().hex, one, SamplingParams(), embeds=True) for one in prompts
        ]
        live = {request.request_id for request in requests}
        found: dict[str, list[float]] = {}
        async with aclosing(
            self._runs.run(engine, requests, live, deadline, Operation.EMBEDDINGS)
        ) as outputs:
            async for output in outputs:
                found[output.request_id] = output.embedding
        return [Embedding(one.prompt_token_ids, found[one.request_id]) for one in requests]

    async def _compile(self, params: SamplingParams) -> "Grammar | None":
        """The grammar of a request, if it has one."""
        source = params.grammar
        if source is None:
            return None
        if self._host.grammars is None:
            raise InvalidGrammarError(
                "This model's tokenizer is of a kind that structured output does not work with; ask"
                " for the shape in words.",
                source.field,
            )
        for token_id in params.stop_token_ids:
            if not self.token(token_id).is_special:
                raise InvalidRequestError(
                    f"Token {token_id} is text, which would cut structured output short: leave it"
                    " out.",
                    ("stop_token_ids",),
                )
        return await self._host.grammars.compile(source, current_caller.get().id)

    def _check_num_sequences(self, engine: Engine, count: int, field: Field) -> None:
        allowed, held = self._limits.max_sequences, engine.admission.max_live
        if allowed is not None and count > allowed:
            raise InvalidRequestError(
                f"{count} sequences are more than a request may have, {allowed}: ask for fewer.",
                field,
            )
        if count > held:
            raise InvalidRequestError(
                f"{count} sequences are more than this server runs and queues, {held}: ask for"
                " fewer.",
                field,
            )

    def deadline(self) -> float:
        """When the time of a call that begins now is up, on the event loop's clock."""
        return asyncio.get_running_loop().time() + self._timeout_seconds

"""`InferenceEngine`: the facade of model and engine for the API routes: text in, text out.

Routes call this class; from the layers below they import data types alone, such as
`SamplingParams` and `TextDelta`. `generate`, `generate_batch` and `collect` gather the deltas of
`stream_batch`, so all generation takes one path.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from types import MappingProxyType

from src.core.adapters import current_adapter
from src.core.engine_lifecycle import EngineLifecycle, EngineState
from src.core.model_names import ModelNames
from src.core.observers import Meter, Observer, Tracer
from src.core.output_dispatcher import OutputDispatcher
from src.core.outputs import Completion, Embedding, Generation, Operation, TextDelta
from src.core.request_context import RequestContext
from src.core.request_runner import RequestRunner
from src.core.request_validation import RequestLimits, RequestValidator
from src.core.sampling_defaults import SamplingDefaults
from src.core.thinking import Thinking, ThinkingSupport, thinking_support, thought_params
from src.engine.config import EmbeddingConfig, EngineConfig
from src.engine.sampling_params import SamplingParams
from src.engine.structured_output.compile_pool import GrammarLimits
from src.engine.thought import ThoughtParams
from src.errors import FieldPath
from src.text.chat_template import ChatMessage, PromptEnd, Scalar
from src.text.tokenization import Chat, Prompt, TextCodec
from src.tool_calling.detection import DetectedFormat, detect
from src.tool_calling.format import ToolCallFormat
from src.tool_calling.grammar import Tool


class InferenceEngine:
    """Runs one model for many concurrent callers.

    Args:
        config: the model and the engine's options.
        timeout_seconds: time that one call may wait and run.
        observer: metrics.
        tracer: traces of sequences.
        grammar_limits: bounds on the cost of grammars.
        meter: usage accounts.
        request_limits: bounds on one request.
        served_model_name: SERVED_MODEL_NAME; None derives the name from the config.
        sampling_settings: TEMPERATURE and TOP_P by the parameters' names, if they are set.
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
        served_model_name: str | None = None,
        sampling_settings: Mapping[str, float] | None = None,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._dispatcher = OutputDispatcher(observer, tracer, meter)
        self._lifecycle = EngineLifecycle(
            config,
            self._dispatcher.receive,
            observer,
            grammar_limits or GrammarLimits(),
            request_limits or RequestLimits(),
            served_model_name,
        )
        self.adapters = self._lifecycle.adapters
        self._runner = RequestRunner(self._lifecycle, self._dispatcher)
        self._tool_calls = DetectedFormat()
        self._sampling_settings = sampling_settings or {}
        self._thinking_support = ThinkingSupport()
        self.created_at = int(time.time())

    @property
    def state(self) -> EngineState:
        return self._lifecycle.state

    @property
    def num_live(self) -> int:
        """Number of sequences that run or wait."""
        engine = self._lifecycle.engine
        return engine.admission.num_live if engine else 0

    def load_model(self, check_context_length: Callable[[int], None] | None = None) -> None:
        """Loads the model and starts the engine; see `EngineLifecycle.load`.

        Args:
            check_context_length: gets the model's context length in tokens before the state is
                READY; raises StartupError if the settings do not fit it.
        """

        config = self._lifecycle.config

        def prepare(max_model_len: int, codec: TextCodec) -> None:
            if check_context_length is not None:
                check_context_length(max_model_len)
            self._tool_calls = detect(codec.chat_template, config.tool_call_format)
            name, is_enabled = config.reasoning_format, config.enable_thinking
            self._thinking_support = thinking_support(codec, name, is_enabled)

        self._lifecycle.load(prepare)

    def end(self) -> None:
        """Ends all requests at once with an error that names the server's shutdown."""
        self._lifecycle.end()

    def shutdown(self) -> None:
        """Stops the engine and ends all requests. Idempotent, and safe before `load_model`."""
        self._lifecycle.shutdown()

    async def wait_until_dead(self, hang_seconds: float) -> None:
        """Returns when the engine is dead; see `EngineLifecycle.wait_until_dead`."""
        await self._lifecycle.wait_until_dead(hang_seconds)

    @property
    def names(self) -> ModelNames:
        """Names of the model; those of the fallback if it was loaded."""
        return self._lifecycle.names

    @property
    def model_name(self) -> str:
        """The model's name in answers: the adapter's that the current request names, if any."""
        return getattr(current_adapter.get(), "name", self.names.first)

    @property
    def fingerprint(self) -> str:
        """Digits that change if a seed may give another answer; see `find_fingerprint`."""
        return self._lifecycle.fingerprint

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and answer together that the model and its KV cache have room for."""
        return self._validator.model.max_model_len

    @property
    def max_live(self) -> int:
        """Number of sequences that may run and wait; more are refused."""
        return self._lifecycle.require_engine().admission.max_live

    @property
    def embedding_config(self) -> EmbeddingConfig:
        """Pooling, prompts and sizes of the model's embeddings."""
        return self._lifecycle.require_model().embedding

    @property
    def embedding_size(self) -> int | None:
        """Dimension of an embedding; None if the model has none."""
        return self._lifecycle.require_model().embedding_size

    @property
    def codec(self) -> TextCodec:
        """The tokenizer with its chat template, without validation of what it gets."""
        return self._lifecycle.require_codec()

    @property
    def tool_call_format(self) -> ToolCallFormat:
        """The model's format of tool calls.

        Raises:
            InvalidRequestError: the chat template is missing, or shows no known format.
        """
        self.codec.require_chat_template(("messages",))
        return self._tool_calls.require()

    @property
    def sampling_defaults(self) -> SamplingDefaults:
        """Defaults of sampling parameters; without the model's before it is loaded."""
        return SamplingDefaults(self._sampling_settings, self._lifecycle.sampling_defaults)

    @property
    def thinking_support(self) -> ThinkingSupport:
        """The model's thinking mode, and the variables that its chat template reads."""
        self._lifecycle.require_codec()
        return self._thinking_support

    def thought(self, prompt_token_ids: list[int], thinking: Thinking) -> ThoughtParams | None:
        """Returns the thought of answers to a prompt; None if they have none.

        Args:
            prompt_token_ids: a conversation by `tokenize_chat`, with the same variables.
            thinking: choices of the request.
        """
        reasoning = self.thinking_support.reasoning
        return thought_params(reasoning, self.codec, prompt_token_ids, thinking)

    async def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Returns the token ids of a text, with or without the special tokens that enclose a text.

        Raises:
            InvalidRequestError: the text is too long for the context.
            GenerationTimeoutError: the deadline has passed.
        """
        return await self._encode(
            text, self.create_context(), add_special_tokens=add_special_tokens
        )

    async def decode(
        self,
        token_ids: list[int],
        field: FieldPath = ("prompt",),
        *,
        skip_special_tokens: bool = True,
    ) -> str:
        """Returns the text of token ids, with or without special tokens.

        Raises:
            InvalidRequestError: an id is outside of the vocabulary.
        """
        self._validator.check_token_ids(token_ids, field)
        return await self.codec.decode(token_ids, skip_special_tokens=skip_special_tokens)

    def create_context(
        self, field: FieldPath = ("prompt",), operation: Operation = Operation.TEXT_COMPLETION
    ) -> RequestContext:
        """Creates the context of a call that begins now."""
        deadline = asyncio.get_running_loop().time() + self._timeout_seconds
        return RequestContext(deadline, field, operation)

    async def tokenize(
        self, prompt: Prompt, params: SamplingParams, context: RequestContext | None = None
    ) -> list[int]:
        """Validates a prompt with its sampling parameters and returns its token ids.

        Args:
            prompt: a text, in which the spelling of a special token stays text; or token ids.
            params: sampling parameters of the answer.
            context: deadline and field; None begins a new call.

        Raises:
            InvalidRequestError: the prompt is empty or too long, or a token id is unknown.
            GenerationTimeoutError: the deadline has passed.
        """
        context = context or self.create_context()
        self._validator.check_params(params)
        token_ids = await self._encode(prompt, context)
        self._validator.check_length(len(token_ids), params.max_tokens, context.field)
        return token_ids

    async def tokenize_chat(
        self,
        messages: list[ChatMessage],
        context: RequestContext | None = None,
        tools: Sequence[Tool] = (),
        *,
        end: PromptEnd = PromptEnd.ANSWER_HEAD,
        variables: Mapping[str, Scalar] = MappingProxyType({}),
    ) -> list[int]:
        """Returns the token ids of a conversation, rendered by the model's chat template.

        Call `check_params` before, and `check_length` afterwards.

        Args:
            messages: the conversation.
            context: deadline and field; None begins a new call.
            tools: tools for the template.
            end: end of the prompt.
            variables: values of variables that the template reads.

        Raises:
            InvalidRequestError: the model has no chat template, the template refuses the messages,
                or their text is too long for the context.
            GenerationTimeoutError: the deadline has passed.
        """
        context = context or self.create_context(("messages",), Operation.CHAT)
        documents = [tool.to_template() for tool in tools]
        chat = Chat(messages, documents, end, variables)
        check_text = partial(self._validator.check_prompt, field=context.field)
        async with context.time_limit():
            return await self.codec.encode_chat(chat, context.field, check_text)

    def max_new_tokens(
        self, num_prompt_tokens: int, num_logprobs: int | None = None, n: int = 1
    ) -> int:
        """Returns the default of `max_tokens`; see `RequestValidator.max_new_tokens`."""
        return self._validator.max_new_tokens(num_prompt_tokens, num_logprobs, n)

    def check_params(self, params: SamplingParams, n: int) -> None:
        """Validates the parts of a request for one prompt that need no tokenization.

        Args:
            params: sampling parameters of the answers.
            n: sequences of the prompt.

        Raises:
            InvalidRequestError: a token id is unknown, or a limit on one request is exceeded.
        """
        self._validator.check_params(params)
        self._validator.check_num_sequences(n, ("n",) if n > 1 else ("prompt",))

    def check_length(self, num_prompt_tokens: int, max_tokens: int, field: FieldPath) -> None:
        """Validates the length of a prompt with its new tokens.

        Raises:
            InvalidRequestError: the prompt is empty, or they do not fit the context.
        """
        self._validator.check_length(num_prompt_tokens, max_tokens, field)

    async def generate(self, prompt: str, params: SamplingParams, n: int = 1) -> Generation:
        """Validates a prompt and continues it n times; errors as `tokenize` and `stream_batch`."""
        context = self.create_context()
        token_ids = await self.tokenize(prompt, params, context)
        (generation,) = await self.collect([token_ids], params, n, context)
        return generation

    async def generate_batch(
        self,
        prompts: list[str],
        params: SamplingParams,
        n: int = 1,
        context: RequestContext | None = None,
    ) -> list[Generation]:
        """Continues each prompt n times and returns the generations in the prompts' order.

        All prompts are validated before any runs. When one fails, all end. Errors as `generate`.
        """
        if n == 1:  # with larger n the product is the one to check, and `n` the field to name
            self._validator.check_num_sequences(len(prompts), ("prompts",))
        context = context or self.create_context()
        tokenized = [
            await self.tokenize(prompt, params, context.at(("prompts", index)))
            for index, prompt in enumerate(prompts)
        ]
        return await self.collect(tokenized, params, n, context)

    async def collect(
        self,
        prompts: list[list[int]],
        params: SamplingParams,
        n: int = 1,
        context: RequestContext | None = None,
    ) -> list[Generation]:
        """Continues each prompt n times; arguments and errors as `stream_batch`."""
        generations = [Generation(ids, [Completion() for _ in range(n)]) for ids in prompts]
        async with aclosing(self.stream_batch(prompts, params, n, context)) as deltas:
            async for delta in deltas:
                generations[delta.index // n].add(delta)
        return generations

    def stream(
        self,
        prompt_token_ids: list[int],
        params: SamplingParams,
        n: int = 1,
        context: RequestContext | None = None,
    ) -> AsyncGenerator[TextDelta]:
        """Continues one prompt n times; as `stream_batch`."""
        return self.stream_batch([prompt_token_ids], params, n, context)

    async def stream_batch(
        self,
        prompts: list[list[int]],
        params: SamplingParams,
        n: int = 1,
        context: RequestContext | None = None,
    ) -> AsyncGenerator[TextDelta]:
        """Continues each prompt n times and yields the text deltas as they are generated.

        Closing the iterator cancels the generation. When one sequence fails, all end. Sequence i
        of prompt p has the index p * n + i and uses seed + i.

        Args:
            prompts: token ids, as `tokenize` returns them.
            params: sampling parameters.
            n: sequences of each prompt.
            context: deadline and operation; None begins a new call.

        Raises:
            EngineNotReadyError: the model is still loading.
            EngineDeadError: the engine has ended.
            InvalidRequestError: a limit on one request is exceeded, or the grammar is invalid.
            OverloadedError: the queue is full, or the request waited in it too long.
            GenerationFailedError: the model raised.
            GenerationTimeoutError: the deadline has passed without a token.
        """
        self._validator.check_generation(prompts, params, n)
        runs = self._runner.generate(prompts, params, n, context or self.create_context())
        async with aclosing(runs) as deltas:
            async for delta in deltas:
                yield delta

    async def embed(
        self, prompts: list[Prompt], context: RequestContext | None = None
    ) -> list[Embedding]:
        """Returns the mean of the model's last hidden states over each prompt, L2-normalised.

        All prompts are validated before any runs. When one fails, all end.

        Args:
            prompts: texts or token ids; each may fill the context.
            context: deadline and field; None begins a new call.

        Raises:
            InvalidRequestError: a prompt is empty or too long, or the model has no embeddings.
            ServiceError: as `stream_batch`.
        """
        context = context or self.create_context(("input",), Operation.EMBEDDINGS)
        self._lifecycle.require_embeddings()
        tokenized: list[list[int]] = []
        for index, prompt in enumerate(prompts):
            field = (*context.field, index) if len(prompts) > 1 else context.field
            tokenized.append(await self._encode(prompt, context.at(field)))
            self._validator.check_length(len(tokenized[-1]), 0, field)
        return await self._runner.embed(tokenized, context)

    async def _encode(
        self, prompt: Prompt, context: RequestContext, *, add_special_tokens: bool = True
    ) -> list[int]:
        self._validator.check_prompt(prompt, context.field)
        if not isinstance(prompt, str):
            return prompt
        async with context.time_limit():
            return await self.codec.encode(prompt, add_special_tokens=add_special_tokens)

    @property
    def _validator(self) -> RequestValidator:
        return self._lifecycle.require_validator()

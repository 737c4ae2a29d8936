"""`EngineLifecycle`: one model and its engine, from loading to shutdown.

Everything here is called in the event loop's thread except `load`, which takes seconds.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import TYPE_CHECKING

from src.core.adapters import Adapters
from src.core.model_names import find_model_names
from src.core.observers import Observer
from src.core.request_validation import ModelLimits, RequestLimits, RequestValidator
from src.engine.config import EngineConfig
from src.engine.interface import Engine
from src.engine.lora.settings import LoraSettings
from src.engine.model.runtime_env import (
    preload_torch_library,
    torch_environment,
    without_collections,
)
from src.engine.request import FinishReason, UpdateCallback
from src.engine.structured_output.compile_pool import (
    GrammarCompiler,
    GrammarLimits,
    create_grammar_compiler,
)
from src.errors import (
    EngineDeadError,
    EngineNotReadyError,
    GenerationFailedError,
    InvalidGrammarError,
    InvalidRequestError,
    OverloadedError,
    ServiceError,
)
from src.text.token_bytes import TokenBytes
from src.text.tokenization import TextCodec

if TYPE_CHECKING:
    from src.engine.model.loader import LoadedModel

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1

DEAD_END_MESSAGE = (
    "The answer cannot go on: its grammar or schema allows no next token, or exceeded"
    " GRAMMAR_TIMEOUT_SECONDS or GRAMMAR_MEMORY_GB. Simplify it."
)


class EngineState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DEAD = "dead"


class EngineLifecycle:
    """Holds a model and the engine that runs it.

    Args:
        config: the model and the engine's options.
        on_update: gets an update after each step; called in the engine's thread.
        observer: metrics; None counts nothing.
        grammar_limits: bounds on the cost of grammars.
        request_limits: bounds on one request.
        served_model_name: SERVED_MODEL_NAME; None derives the name from the config.
    """

    def __init__(
        self,
        config: EngineConfig,
        on_update: UpdateCallback,
        observer: Observer | None,
        grammar_limits: GrammarLimits,
        request_limits: RequestLimits,
        served_model_name: str | None = None,
    ) -> None:
        self.adapters = Adapters(config.lora or LoraSettings())
        self.loaded: LoadedModel | None = None
        self.engine: Engine | None = None
        self.codec: TextCodec | None = None
        self.grammars: GrammarCompiler | None = None
        self.validator: RequestValidator | None = None
        self.fingerprint = ""
        self.config = config
        self.names = find_model_names(config.model_name, served_model_name)
        self._on_update = on_update
        self._observer = observer
        self._grammar_limits = grammar_limits
        self._request_limits = request_limits
        self._served_model_name = served_model_name
        self._end_message = "The engine has ended; this server can generate no more."

    @property
    def state(self) -> EngineState:
        if self.engine is None:
            return EngineState.LOADING
        return EngineState.READY if self.engine.admission.is_open else EngineState.DEAD

    def load(self, prepare: Callable[[int, TextCodec], None]) -> None:
        """Loads the model and starts the engine; blocks for seconds, so call it in a thread.

        Args:
            prepare: gets the context length in tokens and the tokenizer before the engine starts;
                raises StartupError if the settings do not fit them.

        Raises:
            ModelLoadError: the model cannot be loaded; the message gives the remedy.
        """
        # Each thread that computes keeps OpenMP threads of its own until it ends. With more of
        # them than cores they stop spinning and wake slowly, so only the engine's may stay.
        with ThreadPoolExecutor(1, "load-model") as executor:
            executor.submit(self._load, prepare).result()

    def _load(self, prepare: Callable[[int, TextCodec], None]) -> None:
        for name, value in torch_environment(self.config.kernels).items():
            os.environ.setdefault(name, value)
        # These imports load torch and transformers, which takes seconds; the server listens by now.
        preload_torch_library()
        with without_collections():
            from src.engine.factory import create_engine  # noqa: PLC0415
            from src.engine.fingerprint import find_fingerprint  # noqa: PLC0415
            from src.engine.model.loader import load_model  # noqa: PLC0415
            from src.engine.model.source import with_available_model  # noqa: PLC0415

        self.config = with_available_model(self.config)
        self.names = find_model_names(self.config.model_name, self._served_model_name)
        self.loaded = load_model(self.config)
        self.codec = _create_codec(self.loaded)
        prepare(self.loaded.max_model_len, self.codec)
        self.fingerprint = find_fingerprint(self.loaded, self.config)
        with ThreadPoolExecutor(1, "start-grammars") as executor:  # it mostly waits for a process
            grammars = executor.submit(
                create_grammar_compiler,
                self.loaded.tokenizer.to_str(),
                self.loaded.vocab_size,
                self._grammar_limits,
                self._observer,
            )
            try:
                engine = create_engine(self.loaded, self.config, self._on_update)
            finally:
                self.grammars = grammars.result()
        self.validator = RequestValidator(self._request_limits, _model_limits(self.loaded, engine))
        if engine.lora is not None:
            self.adapters.load_modules(engine.lora)
        self.engine = engine  # last: requests are taken from here on

    def end(self) -> None:
        """Ends all requests at once with an error that names the server's shutdown."""
        self._end_message = "The server is shutting down."
        if self.engine is not None:
            self.engine.admission.end_all(FinishReason.ABORT)

    def shutdown(self) -> None:
        """Stops the engine and ends all requests. Idempotent, and safe before `load`."""
        if self.engine is not None:
            self.engine.shutdown()
        if self.grammars is not None:
            self.grammars.shutdown()

    async def wait_until_dead(self, hang_seconds: float) -> None:
        """Returns when the engine is dead and its requests have ended; watchdog for hung steps.

        Args:
            hang_seconds: a longer step counts as hung, and the engine as dead.
        """
        paused = 0.0
        while self.state is not EngineState.DEAD:
            slept_at = time.monotonic()
            await asyncio.sleep(HEARTBEAT_SECONDS)
            engine = self.engine
            seconds = engine.seconds_in_step if engine is not None else 0.0
            # A stopped process (debugger, frozen container) stops this loop and the step alike.
            late = time.monotonic() - slept_at - 2 * HEARTBEAT_SECONDS
            paused = paused + max(0.0, late) if seconds > HEARTBEAT_SECONDS else 0.0
            if self._observer is not None:
                self._observer.step_in_progress(seconds - paused)
            if engine is not None and seconds - paused > hang_seconds:
                logger.critical("a step of the model hangs: it takes over %.0f s", hang_seconds)
                engine.admission.end_all(FinishReason.ERROR)

    def require_model(self) -> "LoadedModel":
        """Returns the model of a running engine; raises as `require_engine`."""
        self.require_engine()
        assert self.loaded is not None
        return self.loaded

    @property
    def sampling_defaults(self) -> Mapping[str, float]:
        """Sampling parameters of the model's files; empty before it is loaded."""
        return self.loaded.sampling_defaults if self.loaded is not None else {}

    def require_embeddings(self) -> None:
        """Raises InvalidRequestError if the model has no embeddings; else as `require_engine`."""
        if self.require_model().embedding_size is None:
            raise InvalidRequestError(
                "This model's code does not give access to its hidden states, so it has no"
                " embeddings: serve another model for them (MODEL_NAME).",
                ("model",),
            )
        if (obstacle := self.require_model().embedding.obstacle) is not None:
            raise InvalidRequestError(
                "This model's embeddings cannot be computed here, as its files ask for more than"
                f" pooling of mean, last or first token: {obstacle}.",
                ("model",),
            )

    def require_codec(self) -> TextCodec:
        """Returns the tokenizer with its chat template; raises as `require_engine`."""
        self.require_engine()
        assert self.codec is not None
        return self.codec

    def require_validator(self) -> RequestValidator:
        """Returns the checks of requests; raises as `require_engine`."""
        self.require_engine()
        assert self.validator is not None
        return self.validator

    def require_engine(self) -> Engine:
        """Returns the running engine.

        Raises:
            EngineNotReadyError: the model is still loading.
            EngineDeadError: the engine has ended.
        """
        if self.engine is None:
            raise EngineNotReadyError("The model is still loading; try again in a few seconds.")
        if not self.engine.admission.is_open:
            raise EngineDeadError(self._end_message)
        return self.engine

    def failure(self, reason: FinishReason | None, engine: Engine) -> ServiceError:
        """Creates the caller's error for a request that the engine ended without an answer."""
        if self.state is EngineState.DEAD:
            return EngineDeadError(self._end_message)
        if reason is FinishReason.EXPIRED:
            return OverloadedError(
                "The server is busy: the request waited too long for its turn.",
                engine.admission.seconds_to_drain(),
            )
        if reason is FinishReason.DISPLACED:
            return OverloadedError(
                "The queue is full, and the request's place went to a key that has fewer there.",
                engine.admission.seconds_to_drain(),
            )
        if reason is FinishReason.DEAD_END:
            return InvalidGrammarError(DEAD_END_MESSAGE, ())
        return GenerationFailedError("The model failed on this request; the cause is in the log.")


def _model_limits(loaded: "LoadedModel", engine: "Engine") -> ModelLimits:
    context = loaded.max_model_len
    return ModelLimits(
        max_model_len=min(context, engine.num_cache_tokens or context),
        context=context,
        max_prompt_bytes=loaded.max_prompt_bytes,
        vocab_size=loaded.vocab_size,
        max_live=engine.admission.max_live,
    )


def _create_codec(loaded: "LoadedModel") -> TextCodec:
    return TextCodec(
        loaded.tokenizer,
        TokenBytes(loaded.tokenizer),
        loaded.chat_template,
        loaded.tokenizer_class,
        loaded.special_tokens,
    )

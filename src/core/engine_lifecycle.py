"""`EngineLifecycle`: one model and its engine, from loading to the end.

What is below runs in the engine's thread; everything here is called in the event loop's, but
`load`, which takes seconds.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import TYPE_CHECKING

from src.core.output_dispatcher import Observer
from src.engine.config import EngineConfig
from src.engine.interface import Engine
from src.engine.model.runtime_env import torch_environment
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
    OverloadedError,
    ServiceError,
)
from src.text.token_bytes import TokenTexts

if TYPE_CHECKING:
    from src.engine.model.loader import LoadedModel

logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 1


class EngineState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    DEAD = "dead"


class EngineLifecycle:
    """Holds a model and the engine that runs it.

    Args:
        config: which model, and how to run it.
        on_update: gets what each step changes; called in the engine's thread.
        observer: counts and times what happens.
        grammar_limits: what grammars may cost.
    """

    def __init__(
        self,
        config: EngineConfig,
        on_update: UpdateCallback,
        observer: Observer | None,
        grammar_limits: GrammarLimits,
    ) -> None:
        self.loaded: LoadedModel | None = None
        self.engine: Engine | None = None
        self.token_texts: TokenTexts | None = None
        self.grammars: GrammarCompiler | None = None
        self.config = config
        self._on_update = on_update
        self._observer = observer
        self._grammar_limits = grammar_limits
        self._end_message = "The engine has ended; this server can generate no more."

    @property
    def state(self) -> EngineState:
        if self.engine is None:
            return EngineState.LOADING
        return EngineState.READY if self.engine.admission.is_open else EngineState.DEAD

    def load(self, check: Callable[[int], None] | None = None) -> None:
        """Loads the model and starts the engine; takes seconds, so call it in a thread.

        Args:
            check: is called with the model's context in tokens, and raises if that does not fit
                the settings. The state is not READY before.

        Raises:
            ModelLoadError: the model cannot be loaded; the message says what to do.
        """
        # A thread that computes has OpenMP threads of its own until it ends. Where there are more
        # of those than cores they hardly spin and are slow to wake: so none but the engine's stays.
        with ThreadPoolExecutor(1, "load-model") as executor:
            executor.submit(self._load, check).result()

    def _load(self, check: Callable[[int], None] | None) -> None:
        for name, value in torch_environment(self.config.kernels).items():
            os.environ.setdefault(name, value)
        # Importing torch and transformers takes seconds in which the server already listens.
        from src.engine.factory import create_engine  # noqa: PLC0415
        from src.engine.model.loader import load_model  # noqa: PLC0415
        from src.engine.model.source import with_available_model  # noqa: PLC0415

        self.config = with_available_model(self.config)
        self.loaded = load_model(self.config)
        if check is not None:
            check(self.loaded.max_model_len)
        self.token_texts = TokenTexts(self.loaded.tokenizer)
        self.grammars = create_grammar_compiler(self.loaded, self._grammar_limits, self._observer)
        self.engine = create_engine(self.loaded, self.config, self._on_update)

    def end(self) -> None:
        """Ends what runs, as the server shuts down; who waits is told so at once."""
        self._end_message = "The server is shutting down."
        if self.engine is not None:
            self.engine.admission.end_all(FinishReason.ABORT)

    def shutdown(self) -> None:
        """Ends what runs and stops the engine. May be called at any time, twice too."""
        if self.engine is not None:
            self.engine.shutdown()
        if self.grammars is not None:
            self.grammars.shutdown()

    async def wait_until_dead(self, hang_seconds: float) -> None:
        """Returns when the engine can generate no more; whoever waits for it has been told.

        Args:
            hang_seconds: a step that takes longer is taken for one that never ends.
        """
        paused = 0.0
        while self.state is not EngineState.DEAD:
            slept_at = time.monotonic()
            await asyncio.sleep(HEARTBEAT_SECONDS)
            engine = self.engine
            seconds = engine.seconds_in_step if engine is not None else 0.0
            # Who stops the process (a debugger, a frozen container) stops this loop and the step.
            late = time.monotonic() - slept_at - 2 * HEARTBEAT_SECONDS
            paused = paused + max(0.0, late) if seconds > HEARTBEAT_SECONDS else 0.0
            if self._observer is not None:
                self._observer.step_goes_on(seconds - paused)
            if engine is not None and seconds - paused > hang_seconds:
                logger.critical("a step of the model takes %.0f s: it hangs", hang_seconds)
                engine.admission.end_all(FinishReason.ERROR)

    def require_ready(self) -> "tuple[LoadedModel, Engine]":
        """The model and its engine.

        Raises:
            EngineNotReadyError: the model is still loading.
            EngineDeadError: the engine has ended.
        """
        if self.loaded is None or self.engine is None:
            raise EngineNotReadyError("The model is still loading; try again in a few seconds.")
        if not self.engine.admission.is_open:
            raise EngineDeadError(self._end_message)
        return self.loaded, self.engine

    def failure(self, reason: FinishReason | None, engine: Engine) -> ServiceError:
        """Why a request has no answer, for its caller."""
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
        return GenerationFailedError("The model failed on this request; the cause is in the log.")

"""`EngineLoop`: the continuous engine, an `EngineCore` in a thread of its own."""

from src.engine.admission import AdmissionController
from src.engine.core import EngineCore
from src.engine.engine_thread import EngineThread
from src.engine.request import Request


class EngineLoop(EngineThread):
    """Runs an `EngineCore`, step after step, and publishes what each step changed.

    Args:
        core: from now on the engine's thread alone uses it.
        admission: admits requests and publishes their outputs.
    """

    def __init__(self, core: EngineCore, admission: AdmissionController) -> None:
        super().__init__("engine", admission)
        self._core = core
        self._thread.start()

    @property
    def num_cache_tokens(self) -> int:
        return self._core.num_cache_tokens

    @property
    def _has_work(self) -> bool:
        return self._core.has_work

    def _add(self, request: Request) -> None:
        update = self._core.add(request)
        if update.outputs:
            self.admission.publish(update)

    def _abort(self, request_id: str) -> None:
        self.admission.publish(self._core.abort(request_id))

    def _step(self) -> None:
        self._start_step()
        update = self._core.step()
        self._end_step()
        self.admission.publish(update)

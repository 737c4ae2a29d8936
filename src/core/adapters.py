"""`Adapters`: the LoRA adapters of the served model, by their names, and the current request's.

Loading reads files and takes a while, so it runs in a thread; a name changes its weights in one
assignment. A running request holds its adapter itself, so unloading a name never disturbs it.
"""

import asyncio
import logging
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from src.engine.lora.settings import LoraSettings, find_problem
from src.errors import AdapterError, InvalidRequestError, ModelLoadError, ModelNotFoundError

if TYPE_CHECKING:
    from src.engine.lora.adapter import LoraAdapter
    from src.engine.lora.state import LoraState

logger = logging.getLogger(__name__)

current_adapter: "ContextVar[LoraAdapter | None]" = ContextVar("current_adapter", default=None)
"""The adapter that the current request names as its model; None is the base model."""


class Adapters:
    """Loaded adapters. Used in the event loop's thread, but for `load_modules`.

    Args:
        settings: bounds, and adapters to load at start.
    """

    def __init__(self, settings: LoraSettings) -> None:
        self._settings = settings
        self._state: LoraState | None = None
        self._loaded: dict[str, LoraAdapter] = {}
        self._lock = asyncio.Lock()

    @property
    def names(self) -> list[str]:
        return list(self._loaded)

    def get(self, name: str) -> "LoraAdapter | None":
        return self._loaded.get(name)

    def load_modules(self, state: "LoraState") -> None:
        """Loads the adapters of LORA_MODULES; blocks.

        Raises:
            ModelLoadError: one of them cannot be loaded.
        """
        self._state = state
        for name, folder in self._settings.modules.items():
            try:
                self._loaded[name] = self._read(name, folder)
            except AdapterError as error:
                raise ModelLoadError(f"LORA_MODULES: {name}={folder}: {error}") from None

    async def load(self, name: str, path: str, *, in_place: bool) -> None:
        """Loads an adapter; with `in_place` it may replace one of the same name.

        Raises:
            InvalidRequestError: the name is taken, the memory is full, or the files are not valid.
            ModelNotFoundError: there is no such folder in LORA_DIR.
        """
        async with self._lock:
            self._check_name(name, in_place=in_place)
            folder = await asyncio.to_thread(self._find, path)
            try:
                adapter = await asyncio.to_thread(self._read, name, folder)
            except AdapterError as error:
                raise InvalidRequestError(str(error), ("lora_path",)) from None
            self._loaded[name] = adapter
        logger.info("LoRA adapter loaded", extra={"adapter": name})

    async def unload(self, name: str) -> None:
        """Removes a name; requests that run with the adapter end as usual.

        Raises:
            ModelNotFoundError: there is no such adapter.
        """
        async with self._lock:
            if self._loaded.pop(name, None) is None:
                raise ModelNotFoundError(f"There is no adapter {name[:80]!a}.", ("lora_name",))
        logger.info("LoRA adapter unloaded", extra={"adapter": name})

    def _check_name(self, name: str, *, in_place: bool) -> None:
        problem = find_problem(name)
        if problem is not None:
            raise InvalidRequestError(f"The name {problem}.", ("lora_name",))
        if name in self._loaded:
            if in_place:
                return
            raise InvalidRequestError(
                f"The adapter {name[:80]!a} is loaded already: set load_inplace to replace"
                " it, or unload it first.",
                ("lora_name",),
            )
        if len(self._loaded) >= self._settings.max_loras:
            raise InvalidRequestError(
                f"{len(self._loaded)} adapters are loaded, the most that are allowed (the server's"
                " MAX_LORAS): unload one first.",
                ("lora_name",),
            )

    def _find(self, path: str) -> Path:
        """Returns the folder of a path in LORA_DIR; follows links, which must not lead outside."""
        root = self._settings.folder
        if root is None or self._state is None:
            raise InvalidRequestError(
                "Adapters cannot be loaded by requests here: set LORA_DIR.", ("lora_path",)
            )
        try:
            resolved_root = root.resolve()
            folder = (resolved_root / path).resolve()
            is_inside = folder != resolved_root and folder.is_relative_to(resolved_root)
            is_found = is_inside and folder.is_dir()
        except (OSError, ValueError, RuntimeError):  # too long, a null character, a loop of links
            is_found = False
        if not is_found:
            raise ModelNotFoundError(
                f"There is no folder {path[:80]!a} in the server's LORA_DIR.", ("lora_path",)
            )
        return folder

    def _read(self, name: str, folder: Path) -> "LoraAdapter":
        from src.engine.lora.checkpoint import load_adapter  # noqa: PLC0415 - loads torch

        assert self._state is not None
        return load_adapter(name, folder, self._settings.max_rank, self._state)

"""The service with faults to inject: `python -m tests.support.faulty_server FOLDER`.

The settings are those of the service. A token of the prompt makes the model fail on its request:

- POISON raises an exception.
- NO_NUMBER makes the logits NaN.

A file in FOLDER makes the model fail for all requests:

- `dies` ends the engine's thread.
- `hangs` makes a step last for ever.
- `fits` holds the number of tokens that one step has memory for.
- `loading` keeps the model from being loaded.

FAULTY_STEP_SECONDS slows each step down.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from src import main as service

POISON = "!"
NO_NUMBER = "?"
STEP_SECONDS = float(os.environ.get("FAULTY_STEP_SECONDS", "0"))


def main(folder: Path) -> None:
    engine = service.app.state.service.engine
    load_model = engine.load_model

    def load_and_break(check_context_length: Callable[[int], None] | None = None) -> None:
        while (folder / "loading").exists():
            time.sleep(0.01)
        load_model(check_context_length)
        model, tokenizer = engine._lifecycle.loaded.model, engine._lifecycle.loaded.tokenizer
        engine._lifecycle.loaded.eos_token_ids.clear()
        poison, no_number = (tokenizer.token_to_id(text) for text in (POISON, NO_NUMBER))
        model.forward = failing(model.forward, folder, poison, no_number)

    engine.load_model = load_and_break
    service.main()


def failing(
    real: Callable[..., Any], folder: Path, poison: int, no_number: int
) -> Callable[..., Any]:
    """Returns what takes the place of a model's forward."""

    def forward(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        time.sleep(STEP_SECONDS)
        if (folder / "dies").exists():
            raise SystemExit("made to die")
        if (folder / "hangs").exists():
            threading.Event().wait()
        if (fits := folder / "fits").exists() and input_ids.shape[1] > int(fits.read_text()):
            raise torch.OutOfMemoryError("made to run out of memory")
        if (input_ids == poison).any():
            raise RuntimeError("made to fail")
        output = real(input_ids=input_ids, **kwargs)
        kept = input_ids[0, kwargs["logits_to_keep"]]
        output.logits[0, kept == no_number] = float("nan")
        return output

    return forward


if __name__ == "__main__":
    main(Path(sys.argv[1]))

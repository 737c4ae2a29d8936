"""What tests of engines share: collecting outputs, starting engines, HuggingFace as the oracle."""

import queue
from collections.abc import Callable

import torch

from src.engine.loop import EngineLoop
from src.engine.model_loader import LoadedModel
from src.engine.reference import ReferenceEngine
from src.engine.request import (
    EngineUpdate,
    FinishReason,
    Request,
    RequestOutput,
    UpdateCallback,
)
from src.engine.sampling_params import SamplingParams

Engine = EngineLoop | ReferenceEngine

PROMPT = [70, 80, 90, 100, 110]


class Outputs:
    """What an engine says of one request."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[RequestOutput] = queue.SimpleQueue()

    def put(self, output: RequestOutput) -> None:
        self._queue.put(output)

    def next(self) -> RequestOutput:
        return self._queue.get(timeout=60)

    def all(self) -> tuple[list[int], FinishReason]:
        token_ids: list[int] = []
        while True:
            output = self.next()
            token_ids += output.new_token_ids
            if output.finish_reason:
                return token_ids, output.finish_reason


class Harness:
    """A running engine, and its outputs sorted by request.

    Args:
        start: starts an engine that hands its updates to the function it is given.
        on_output: sees each output first, in the engine's thread.
    """

    def __init__(self, start: Callable[[UpdateCallback], Engine]) -> None:
        self._outputs: dict[str, Outputs] = {}
        self.on_output: Callable[[RequestOutput], None] = lambda _: None
        self.engine = start(self._receive)

    def _receive(self, update: EngineUpdate) -> None:
        for output in update.outputs:
            self.on_output(output)
            self._outputs[output.request_id].put(output)

    def add(self, request: Request) -> Outputs:
        outputs = self._outputs[request.request_id] = Outputs()
        self.engine.add_requests([request])
        return outputs

    def run(self, request: Request) -> tuple[list[int], FinishReason]:
        return self.add(request).all()

    def close(self) -> None:
        """After everything there is no request left over."""
        self.engine.shutdown()
        assert self.engine.intake.num_live == 0


def create_request(request_id: str = "a", **params: object) -> Request:
    return Request(request_id, PROMPT, SamplingParams(**({"max_tokens": 20} | params)))


def oracle(loaded: LoadedModel, max_tokens: int = 20, **options: object) -> list[int]:
    """What a caller of HuggingFace's library gets for the same."""
    prompt = torch.tensor([PROMPT])
    options = {"max_new_tokens": max_tokens, "pad_token_id": 0, "eos_token_id": 0} | options
    output = loaded.model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    return output[0, len(PROMPT) :].tolist()

"""What tests of engines share: collecting outputs, starting engines, HuggingFace as the oracle."""

import queue

import torch

from src.engine.model_loader import LoadedModel
from src.engine.request import FinishReason, Request, RequestOutput
from src.engine.sampling_params import SamplingParams

PROMPT = [70, 80, 90, 100, 110]


class Outputs:
    """Collects what an engine says of one request."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[RequestOutput] = queue.SimpleQueue()

    def __call__(self, output: RequestOutput) -> None:
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


def create_request(request_id: str = "a", **params: object) -> Request:
    return Request(request_id, PROMPT, SamplingParams(**({"max_tokens": 20} | params)))


def run(engine: object, request: Request) -> tuple[list[int], FinishReason]:
    outputs = Outputs()
    engine.add_request(request, outputs)
    return outputs.all()


def oracle(loaded: LoadedModel, max_tokens: int = 20, **options: object) -> list[int]:
    """What a caller of HuggingFace's library gets for the same."""
    prompt = torch.tensor([PROMPT])
    options = {"max_new_tokens": max_tokens, "pad_token_id": 0, "eos_token_id": 0} | options
    output = loaded.model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    return output[0, len(PROMPT) :].tolist()

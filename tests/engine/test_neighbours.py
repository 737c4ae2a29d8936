"""An answer does not depend on the other sequences of its steps, in any family of models."""

from collections.abc import Iterable
from dataclasses import dataclass
from unittest import mock

import pytest
import torch

from src.engine import factory
from src.engine.config import EngineConfig
from src.engine.core import EngineCore
from src.engine.factory import create_core
from src.engine.logprobs import PositionLogprobs
from src.engine.model.loader import load_model
from src.engine.model.runner import ModelRunner
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.blocks import BlockPool
from src.engine.scheduling.scheduler import Scheduler
from tests.support.engines import TOLERANCE, Answer, SteppedCore
from tests.support.tiny_models import FAMILIES, LONG_CONTEXT, VOCAB_SIZE, write_model

pytestmark = pytest.mark.usefixtures("one_thread")

BLOCK_SIZE = 16
NUM_BLOCKS = 100

LENGTHS = {"short": 30, "long": 400, "one token": 1, "medium": 90, "window": 16}
"""Prompts, in tokens. The long one passes RoPE's original context, the short one does not."""


@dataclass(frozen=True)
class Family:
    """A model on the engine, and HuggingFace's log-probabilities of each prompt's tokens."""

    runner: ModelRunner
    expected: dict[str, list[float]]

    def answer(self, *names: str, budget: int = 128) -> dict[str, Answer]:
        """Computes the requests together, in steps of at most `budget` tokens."""
        pool = BlockPool(NUM_BLOCKS, BLOCK_SIZE)
        stepped = SteppedCore(EngineCore(self.runner, Scheduler(pool, 8, budget, [])))
        params = SamplingParams(max_tokens=8, temperature=0, logprobs=0, prompt_logprobs=0)
        stepped.add(*(Request(name, create_prompt(name), params) for name in names))
        return stepped.finish()


def create_prompt(name: str) -> list[int]:
    generator = torch.Generator().manual_seed(LENGTHS[name])
    return torch.randint(2, VOCAB_SIZE, (LENGTHS[name],), generator=generator).tolist()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory) -> Family:
    folder = tmp_path_factory.mktemp("family")
    write_model(folder, request.param.split()[0], FAMILIES[request.param])
    config = EngineConfig(str(folder), max_num_seqs=8, kv_cache_gb=0.01)
    loaded = load_model(config)
    assert loaded.max_model_len == LONG_CONTEXT
    expected = {name: prompt_logprobs(loaded.model, create_prompt(name)) for name in LENGTHS}
    with mock.patch.dict(factory.BLOCK_SIZE, cpu=BLOCK_SIZE):
        return Family(create_core(loaded, config)._runner, expected)


@torch.inference_mode()
def prompt_logprobs(model: torch.nn.Module, token_ids: list[int]) -> list[float]:
    logits = model(torch.tensor([token_ids]), use_cache=False).logits[0, :-1]
    following = torch.tensor(token_ids[1:])[:, None]
    return logits.log_softmax(dim=-1).gather(1, following)[:, 0].tolist()


def values(positions: Iterable[PositionLogprobs]) -> list[float]:
    return [position.chosen.logprob for position in positions]


def test_an_answer_beside_others_is_that_of_the_request_alone(family):
    alone = {name: family.answer(name)[name] for name in LENGTHS}
    for name, answer in alone.items():
        assert values(answer.prompt_logprobs) == pytest.approx(family.expected[name], abs=TOLERANCE)
    for names, budget in (
        (["short", "long"], 128),
        (["long", "short"], 512),  # both prompts in one step
        ([*LENGTHS], 23),
    ):
        for name, answer in family.answer(*names, budget=budget).items():
            assert answer.token_ids == alone[name].token_ids
            for found, expected in (
                (answer.logprobs, alone[name].logprobs),
                (answer.prompt_logprobs, alone[name].prompt_logprobs),
            ):
                assert values(found) == pytest.approx(values(expected), abs=TOLERANCE)

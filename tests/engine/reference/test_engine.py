"""ReferenceEngine: HuggingFace's own tokens, sampled ones too, one request after the other."""

from collections.abc import Callable, Iterator

import pytest
import torch

from src.engine.admission import AdmissionController
from src.engine.config import EngineConfig
from src.engine.model.loader import LoadedModel, load_model
from src.engine.reference.engine import ReferenceEngine
from tests.support.engines import Harness, create_request, oracle


@pytest.fixture
def gpt2(tiny_model) -> LoadedModel:
    return load_model(EngineConfig(str(tiny_model("gpt2"))))


@pytest.fixture
def start_engine() -> Iterator[Callable[..., Harness]]:
    """Starts engines; after the test checks that no request is left over."""
    engines: list[Harness] = []

    def start(loaded: LoadedModel) -> Harness:
        engines.append(
            Harness(
                lambda receive: ReferenceEngine(
                    loaded, AdmissionController(max_live=8, on_update=receive)
                )
            )
        )
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 1.0, "top_p": 1.0},
        {"temperature": 0.7, "top_p": 0.9},
        {"temperature": 1.5, "top_p": 1.0, "top_k": 5},
    ],
)
def test_seeded_tokens_are_those_of_a_seeded_generate(gpt2, start_engine, params):
    token_ids, _ = start_engine(gpt2).run(create_request(seed=7, **params))
    torch.manual_seed(7)
    assert token_ids == oracle(gpt2, do_sample=True, **({"top_k": 0} | params))


def test_a_seed_decides_its_own_request_alone(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine = start_engine(gpt2)
    texts = []
    for number, seed in enumerate([7, None, 7, None]):
        request = create_request(str(number), seed=seed, temperature=2.0, top_p=1.0)
        texts.append(engine.run(request)[0])
    assert texts[0] == texts[2]
    assert texts[1] != texts[3]


def test_requests_run_in_the_order_they_came(gpt2, start_engine):
    gpt2.eos_token_ids.clear()
    engine, seen = start_engine(gpt2), []
    engine.on_output = lambda output: seen.append(output.request_id)
    for outputs in [engine.add(create_request(name)) for name in "abcd"]:
        outputs.all()
    assert seen == sorted(seen)
    assert set(seen) == set("abcd")

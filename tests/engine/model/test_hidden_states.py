"""Embeddings of both engines: HuggingFace's hidden states, whatever else a step computes."""

import pytest
import torch

from src.engine.config import EngineConfig
from src.engine.factory import create_core, create_engine
from src.engine.model.hidden_states import find_hidden_size
from src.engine.model.loader import LoadedModel, load_model
from src.engine.request import FinishReason, Request
from src.engine.sampling_params import SamplingParams
from tests.support.engines import PROMPT, Harness, SteppedCore, create_request, oracle
from tests.support.tiny_models import ARCHITECTURES, BATCHED, SHAPE, UNUSUAL, VOCAB_SIZE

LENGTHS = (1, 2, 3, 9, 17, 40, 100, 128)
WITHOUT = {"llama4_text"}  # its code does not separate decoder and head
TOLERANCE = 2e-6

pytestmark = pytest.mark.usefixtures("one_thread")


def prompt_of(length: int) -> list[int]:
    return [(7 * i + length) % (VOCAB_SIZE - 2) + 1 for i in range(length)]


def embed(request_id: str, length: int) -> Request:
    return Request(request_id, prompt_of(length), SamplingParams(), embeds=True)


def expected_embedding(loaded: LoadedModel, token_ids: list[int]) -> list[float]:
    """Returns the normalized mean of HuggingFace's last hidden states."""
    with torch.inference_mode():
        output = loaded.model(input_ids=torch.tensor([token_ids]), output_hidden_states=True)
    mean = output.hidden_states[-1][0].mean(dim=0)
    return (mean / mean.norm()).tolist()


@pytest.mark.parametrize("architecture", [*(ARCHITECTURES | BATCHED | UNUSUAL)])
def test_the_size_of_hidden_states_is_found_if_they_are_accessible(tiny_model, architecture):
    loaded = load_model(EngineConfig(str(tiny_model(architecture))))
    size = None if architecture in WITHOUT else SHAPE["hidden_size"]
    assert loaded.embedding_size == find_hidden_size(loaded.model) == size


@pytest.mark.parametrize("architecture", BATCHED)
def test_embeddings_in_a_mixed_load_are_the_mean_hidden_states_of_the_model(
    tiny_model, architecture
):
    loaded = load_model(EngineConfig(str(tiny_model(architecture))))
    expected = {str(length): expected_embedding(loaded, prompt_of(length)) for length in LENGTHS}
    tokens = oracle(loaded, do_sample=False)
    config = EngineConfig("unused", max_num_seqs=4, max_num_batched_tokens=24)
    stepped = SteppedCore(create_core(loaded, config))
    stepped.add(create_request("first", temperature=0))
    stepped.add(*(embed(str(length), length) for length in LENGTHS))
    stepped.add(create_request("last", temperature=0, prompt_logprobs=0))
    answers = stepped.finish()
    for name in ("first", "last"):
        assert answers[name].token_ids == tokens
        assert answers[name].embedding == []
    for name, embedding in expected.items():
        assert answers[name].token_ids == []
        assert answers[name].reason is FinishReason.EMBEDDED
        assert answers[name].admission.num_cached_tokens == 0
        assert answers[name].embedding == pytest.approx(embedding, abs=TOLERANCE), name
    assert stepped.num_mixed_steps > 3


@pytest.mark.parametrize("architecture", sorted((ARCHITECTURES | UNUSUAL).keys() - WITHOUT))
@pytest.mark.parametrize("engine", ["continuous", "reference"])
def test_every_engine_embeds(tiny_model, engine, architecture):
    loaded = load_model(EngineConfig(str(tiny_model(architecture))))
    expected = expected_embedding(loaded, prompt_of(40))
    config = EngineConfig("unused", engine=engine, max_num_seqs=4)
    harness = Harness(lambda receive: create_engine(loaded, config, receive))
    answer = harness.add(embed("a", 40)).answer()
    harness.close()
    assert answer.reason is FinishReason.EMBEDDED
    assert answer.embedding == pytest.approx(expected, abs=TOLERANCE)
    assert answer.admission.queue_seconds >= 0


def test_a_cached_prompt_is_computed_again_for_its_embedding(tiny_model):
    loaded = load_model(EngineConfig(str(tiny_model())))
    prompt = PROMPT * 4
    stepped = SteppedCore(create_core(loaded, EngineConfig("unused", max_num_seqs=2)))
    for name in ("a", "b"):
        stepped.add(Request(name, prompt, SamplingParams(), embeds=True))
        stepped.finish()
    greedy = SamplingParams(max_tokens=3, temperature=0)
    stepped.add(Request("c", prompt, greedy))
    answers = stepped.finish()
    assert answers["a"].embedding == answers["b"].embedding
    assert answers["c"].admission.num_cached_tokens == 16  # a block
    again = load_model(EngineConfig(str(tiny_model())))
    alone = SteppedCore(create_core(again, EngineConfig("unused", max_num_seqs=2)))
    alone.add(Request("c", prompt, greedy))
    assert answers["c"].token_ids == alone.finish()["c"].token_ids


def test_an_embedding_that_makes_the_model_raise_fails_alone(tiny_model):
    loaded = load_model(EngineConfig(str(tiny_model())))
    expected = expected_embedding(loaded, prompt_of(9))
    poison = 300
    head = loaded.model.lm_head
    head.weight = torch.nn.Parameter(head.weight.detach().clone())  # it shares the embeddings
    stepped = SteppedCore(
        create_core(loaded, EngineConfig("unused", max_num_seqs=4)), may_fail=True
    )
    loaded.model.transformer.wte.weight.data[poison] = float("nan")
    stepped.add(embed("good", 9))
    stepped.add(Request("bad", [poison, 1], SamplingParams(), embeds=True))
    stepped.add(create_request("also good", temperature=0))
    answers = stepped.finish()
    assert answers["bad"].reason is FinishReason.ERROR
    assert answers["bad"].embedding == []
    assert answers["good"].embedding == pytest.approx(expected, abs=TOLERANCE)
    assert answers["also good"].reason is FinishReason.LENGTH


def test_an_embedding_is_aborted_between_two_chunks(tiny_model):
    loaded = load_model(EngineConfig(str(tiny_model())))
    config = EngineConfig("unused", max_num_seqs=4, max_num_batched_tokens=16)
    stepped = SteppedCore(create_core(loaded, config))
    stepped.add(embed("a", 100))
    stepped.step()
    stepped.abort("a")
    assert stepped.answers["a"].reason is FinishReason.ABORT
    assert stepped.answers["a"].embedding == []
    assert not stepped.core.has_work

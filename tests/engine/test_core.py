"""EngineCore on real tiny models: a request's tokens do not depend on the batch."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from src.engine import factory
from src.engine.config import EngineConfig
from src.engine.core import EngineCore
from src.engine.factory import create_core
from src.engine.logprobs import PositionLogprobs
from src.engine.model.loader import load_model
from src.engine.request import FinishReason, Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.blocks import BlockPool
from src.engine.scheduling.kv_cache_manager import KVCacheManager
from src.engine.scheduling.scheduler import Scheduler
from src.errors import ModelLoadError
from tests.support.engines import TOLERANCE, Answer, SteppedCore, assert_same_logprobs
from tests.support.tiny_models import BATCHED, VOCAB_SIZE

TIE = 2 * TOLERANCE
"""Two logits nearer than this may change their order."""

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL_BLOCK_SIZE = 4


def create_small_core(
    folder: Path,
    max_num_seqs: int = 4,
    budget: int = 40,
    eos_token_ids: list[int] | None = None,
    **options: object,
) -> EngineCore:
    """Creates a core that has to chunk prompts, queue requests and share small blocks."""
    config = EngineConfig(
        str(folder),
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=budget,
        kv_cache_gb=0.01,
        **options,
    )
    loaded = load_model(config)
    if eos_token_ids is not None:
        loaded.eos_token_ids[:] = eos_token_ids
    with mock.patch.dict(factory.BLOCK_SIZE, cpu=SMALL_BLOCK_SIZE):
        return create_core(loaded, config)


def create_token_ids(seed: int, num_tokens: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCAB_SIZE, (num_tokens,), generator=generator).tolist()


def run(core: EngineCore, requests: list[Request]) -> dict[str, list[int]]:
    """Steps until all requests have ended; returns their tokens."""
    stepped = SteppedCore(core)
    stepped.add(*requests)
    answers = stepped.finish()
    assert {answer.reason for answer in answers.values()} <= {"stop", "length"}
    return {request_id: answer.token_ids for request_id, answer in answers.items()}


# In a mixed load each request gets the tokens of HuggingFace's model.

FIRST = create_token_ids(0, 50)
BRANCH = FIRST[:30] + create_token_ids(1, 80)
LONG = create_token_ids(2, 110)
PROMPTS = {
    "first": FIRST,
    "short": create_token_ids(3, 3),
    "one token": [5],
    "twin": FIRST,  # follows the first
    "branch": BRANCH,  # likewise, with a prefix of it; aborted while it leads
    "leaf": [*BRANCH[:105], 9],  # follows the branch
    "prompt logprobs": FIRST[:45] + create_token_ids(4, 10),
    "beginning": FIRST[:25],
    "prompt logprobs again": FIRST[:45] + create_token_ids(4, 10),
    "long": LONG,
    "branch again": BRANCH,
    "long again": LONG[:90],
    "prompt logprobs in chunks": create_token_ids(5, 115),
    "middle": create_token_ids(6, 33),
    "next turn": FIRST + create_token_ids(7, 20),
    "last": create_token_ids(8, 18),
}
MAX_TOKENS = 12


@dataclass(frozen=True)
class MixedLoad:
    """Requests that ran together, their answers, and the model with HuggingFace's attention."""

    requests: list[Request]
    answers: dict[str, Answer]
    model: PreTrainedModel

    @torch.inference_mode()
    def expected_logprobs(self, request: Request) -> torch.Tensor:
        """Returns those of each token but the prompt's first, (num_tokens - 1, vocab_size)."""
        token_ids = request.prompt_token_ids + self.answers[request.request_id].token_ids
        logits = self.model(input_ids=torch.tensor([token_ids]), use_cache=False).logits
        return logits[0, :-1].log_softmax(dim=-1)

    def expected_token_ids(self, request: Request) -> list[int]:
        """Returns the tokens of `generate`, up to the first tie of its best two logits."""
        prompt = torch.tensor([request.prompt_token_ids])
        found = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=MAX_TOKENS,
            do_sample=False,
            eos_token_id=0,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
        best = torch.cat(found.logits).topk(2).values
        ties = (best[:, 0] - best[:, 1] < TIE).tolist()
        num_certain = ties.index(True) if True in ties else len(ties)
        return found.sequences[0, prompt.shape[1] :].tolist()[:num_certain]


@pytest.fixture(scope="module", params=BATCHED)
def mixed_load(request, tiny_model) -> MixedLoad:
    """Adds some requests at once and some later; aborts a leader with followers."""
    folder = tiny_model(request.param)
    stepped = SteppedCore(create_small_core(folder, max_num_seqs=6, budget=60))
    requests = [create_greedy_request(name) for name in PROMPTS]
    stepped.add(*requests[:6])
    for one in requests[6:]:
        stepped.step()
        if "branch" in stepped.leaders:
            stepped.abort("branch")
        stepped.add(one)
    answers = stepped.finish()
    assert [name for name in answers if answers[name].reason is FinishReason.ABORT] == ["branch"]
    assert {"twin", "branch", "leaf"} <= stepped.followers
    assert stepped.num_mixed_steps > 5
    return MixedLoad(requests, answers, load_model(EngineConfig(str(folder))).model)


def create_greedy_request(name: str) -> Request:
    num_top = 20 if name.startswith("prompt logprobs") else None
    params = SamplingParams(
        max_tokens=MAX_TOKENS, temperature=0, logprobs=20, prompt_logprobs=num_top
    )
    return Request(name, PROMPTS[name], params)


def test_greedy_tokens_in_a_mixed_load_are_those_of_generate(mixed_load):
    num_certain = 0
    for request in mixed_load.requests:
        answer = mixed_load.answers[request.request_id]
        expected = mixed_load.expected_token_ids(request)
        if answer.reason is FinishReason.ABORT:
            expected = expected[: len(answer.token_ids)]
        assert answer.token_ids[: len(expected)] == expected, request.request_id
        num_certain += len(expected)
    num_tokens = sum(len(answer.token_ids) for answer in mixed_load.answers.values())
    assert num_certain > 0.9 * num_tokens


def test_logprobs_of_tokens_in_a_mixed_load_are_those_of_the_model(mixed_load):
    for request in mixed_load.requests:
        answer = mixed_load.answers[request.request_id]
        expected = mixed_load.expected_logprobs(request)[len(request.prompt_token_ids) - 1 :]
        check_logprobs(answer.logprobs, answer.token_ids, expected)


def test_logprobs_of_prompts_in_a_mixed_load_are_those_of_the_model(mixed_load):
    for request in mixed_load.requests:
        found = mixed_load.answers[request.request_id].prompt_logprobs
        if request.sampling_params.prompt_logprobs is None:
            assert found == []
            continue
        expected = mixed_load.expected_logprobs(request)[: len(request.prompt_token_ids) - 1]
        check_logprobs(found, request.prompt_token_ids[1:], expected)


def check_logprobs(
    found: list[PositionLogprobs], token_ids: list[int], expected: torch.Tensor
) -> None:
    """Compares tokens, their log-probabilities and the best 20 at every position."""
    assert [position.chosen.token_id for position in found] == token_ids
    best = expected.topk(20).values.tolist()
    for position, row, best_values in zip(found, expected.tolist(), best, strict=True):
        for token in (position.chosen, *position.top):
            assert token.logprob == pytest.approx(row[token.token_id], abs=TOLERANCE)
        told = [token.logprob for token in position.top]
        assert told == pytest.approx(best_values, abs=TOLERANCE)


# A request gets the same tokens alone and in a batch.


@pytest.mark.parametrize("params", [{"top_p": 0.9}, {"top_p": 1.0, "temperature": 1.5}])
def test_a_seeded_request_gives_the_same_tokens_alone_and_in_a_full_batch(tiny_model, params):
    requests = create_seeded_requests(9, params)
    together = run(create_small_core(tiny_model("llama")), requests)
    for request in requests:
        alone = run(create_small_core(tiny_model("llama")), [request])
        assert alone[request.request_id] == together[request.request_id]


def test_a_prompt_that_is_cached_gives_the_same_tokens(tiny_model):
    stepped = SteppedCore(create_small_core(tiny_model("qwen2")))
    params = SamplingParams(max_tokens=12, temperature=0)
    for request_id in ("first", "second"):
        stepped.add(Request(request_id, FIRST, params))
        stepped.finish()
    first, second = stepped.answers["first"], stepped.answers["second"]
    assert (first.admission.num_cached_tokens, second.admission.num_cached_tokens) == (0, 48)
    assert first.token_ids == second.token_ids


VARIETY = [
    {},
    {"prompt_logprobs": 3, "logprobs": 0},
    {"min_tokens": 9, "stop_token_ids": tuple(range(1, VOCAB_SIZE, 3))},
    {"stop_token_ids": tuple(range(1, VOCAB_SIZE, 9))},
    {"repetition_penalty": 1.5, "frequency_penalty": 1.0, "presence_penalty": -1.0},
    {"ignore_eos": True},
    {"temperature": 0.0, "logprobs": 3},
    {"top_p": 1.0, "top_k": 5, "min_p": 0.1, "logit_bias": {9: 4.0}},
]


def create_seeded_requests(num_requests: int, *variety: dict[str, object]) -> list[Request]:
    """Creates prompts of many lengths, some equal, some with shared prefixes."""
    requests = []
    for number in range(num_requests):
        shared = create_token_ids(100, 100)
        own = create_token_ids(200 + number, number % 3 * 5)
        prompt = shared[: number * 29 % 100] + own
        params = {"max_tokens": 12, "seed": 3, "temperature": 1.2} | variety[number % len(variety)]
        requests.append(Request(str(number), prompt or [5], SamplingParams(**params)))
    return requests


def test_any_order_of_adds_steps_and_aborts_leaves_each_request_its_own_tokens(tiny_model):
    folder, eos_token_ids = tiny_model("gemma2"), list(range(0, VOCAB_SIZE, 20))
    runner = create_small_core(folder, max_num_seqs=6)._runner
    lonely = create_small_core(folder, max_num_seqs=1, eos_token_ids=eos_token_ids)
    requests = create_seeded_requests(2 * len(VARIETY), *VARIETY)
    followers: set[str] = set()
    reasons: set[FinishReason | None] = set()

    @cache
    def answer_alone(number: int) -> Answer:
        stepped = SteppedCore(lonely)
        stepped.add(requests[number])
        return stepped.finish()[str(number)]

    @settings(max_examples=15, deadline=None, derandomize=True)
    @given(data=st.data())
    def run_in_any_order(data: st.DataObject) -> None:
        pool = BlockPool(data.draw(st.integers(30, 300)), SMALL_BLOCK_SIZE)
        scheduler = Scheduler(pool, 8, 100, eos_token_ids)
        stepped = SteppedCore(EngineCore(runner, scheduler))
        order = data.draw(st.permutations(requests))
        while order:
            burst = data.draw(st.integers(1, 8))
            stepped.add(*order[:burst])
            order = order[burst:]
            for _ in range(data.draw(st.integers(1, 4))):
                if stepped.core.has_work:
                    stepped.step()
                name = str(data.draw(st.integers(0, 4 * len(requests))))  # mostly of no request
                stepped.abort(data.draw(st.sampled_from([name, name, *stepped.leaders])))
        answers = stepped.finish()
        assert len(answers) == len(requests)
        for name, answer in answers.items():
            assert_is_answer(answer, answer_alone(int(name)))
            reasons.add(answer.reason)
        followers.update(stepped.followers)

    run_in_any_order()
    assert len(followers) > 5
    assert reasons == {FinishReason.STOP, FinishReason.LENGTH, FinishReason.ABORT}


def assert_is_answer(found: Answer, expected: Answer) -> None:
    """Compares answers; an aborted one must be a prefix of the expected one."""
    if found.reason is not FinishReason.ABORT:
        assert (found.token_ids, found.reason) == (expected.token_ids, expected.reason)
    assert found.token_ids == expected.token_ids[: len(found.token_ids)]
    assert_same_logprobs(found.logprobs, expected.logprobs[: len(found.logprobs)])
    if found.token_ids:
        assert_same_logprobs(found.prompt_logprobs, expected.prompt_logprobs)


# A KV cache of 16 bits.


@pytest.mark.parametrize("kernels", ["auto", "pytorch"])
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.005)])
def test_a_cache_of_16_bits_changes_logprobs_by_its_rounding_alone(
    tiny_model, kernels, dtype, tolerance
):
    folder = tiny_model("llama")
    params = SamplingParams(max_tokens=8, temperature=0, logprobs=0, prompt_logprobs=0)
    requests = [Request(str(number), create_token_ids(number, 90), params) for number in range(6)]
    cores = [
        create_small_core(folder, kernels=kernels, kv_cache_dtype=kind) for kind in (dtype, "auto")
    ]
    assert cores[0]._runner._cache.keys[0].dtype == getattr(torch, dtype)
    stepped = [SteppedCore(core) for core in cores]
    for one in stepped:
        one.add(*requests)
        one.finish()
    differences = []
    for request in requests:
        rounded, exact = (one.answers[request.request_id] for one in stepped)
        logprobs = (
            [p.chosen.logprob for p in answer.prompt_logprobs] for answer in (rounded, exact)
        )
        differences += [abs(a - b) for a, b in zip(*logprobs, strict=True)]
    assert 0 < max(differences) < tolerance


@pytest.mark.parametrize("kernels", ["auto", "pytorch"])
def test_with_a_cache_of_16_bits_a_seeded_request_gives_the_same_tokens_in_a_batch(
    tiny_model, kernels
):
    options = {"kernels": kernels, "kv_cache_dtype": "bfloat16"}
    requests = create_seeded_requests(6, {"top_p": 0.9})
    together = run(create_small_core(tiny_model("llama"), **options), requests)
    for request in requests:
        alone = run(create_small_core(tiny_model("llama"), **options), [request])
        assert alone[request.request_id] == together[request.request_id]


# Preempted requests get the same tokens as alone.


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("num_blocks", [36, 400])  # the longest request needs 31
def test_preempted_requests_give_the_same_tokens_as_alone(tiny_model, architecture, num_blocks):
    flood = [
        replace(one, tenant="flood") for one in create_seeded_requests(2 * len(VARIETY), *VARIETY)
    ]
    embeds = Request("embeds", LONG, SamplingParams(), embeds=True, tenant="flood")
    core = create_small_core(tiny_model(architecture), max_num_seqs=6)
    core._scheduler._cache = KVCacheManager(BlockPool(num_blocks, SMALL_BLOCK_SIZE))
    stepped = SteppedCore(core)
    stepped.add(*flood[:3], embeds, *flood[3:])
    for number in range(8):
        for _ in range(3):
            stepped.step()
        calm = create_token_ids(300 + number, 5)
        for index in range(3):
            params = SamplingParams(max_tokens=2, temperature=0)
            stepped.add(Request(f"calm {number} {index}", calm, params, tenant="calm"))
    answers = stepped.finish()
    assert stepped.num_preempted > 5
    alone = SteppedCore(create_small_core(tiny_model(architecture), max_num_seqs=1))
    for request in (*flood, embeds):
        alone.add(request)
        expected = alone.finish()[request.request_id]
        assert_is_answer(answers[request.request_id], expected)
        assert answers[request.request_id].embedding == pytest.approx(expected.embedding, abs=1e-5)


def test_a_preempted_request_with_drafts_gives_the_same_tokens(tiny_model):
    request = Request("a", [5, 6, 7, 8] * 8, SamplingParams(max_tokens=60, temperature=0))
    request = replace(request, tenant="flood")
    folder = tiny_model("llama")
    stepped = SteppedCore(create_small_core(folder, max_num_seqs=2))
    endless = SamplingParams(max_tokens=90, temperature=0, ignore_eos=True)
    stepped.add(Request("stays", [9], endless, tenant="flood"), request)
    for number in range(6):
        for _ in range(4):
            stepped.step()
        stepped.add(Request(f"calm {number}", [number + 2], SamplingParams(max_tokens=1)))
    answers = stepped.finish()
    assert stepped.num_preempted > 3
    assert answers["a"].token_ids == run(create_small_core(folder), [request])["a"]


# Requests that fail, beside others that do not.


def create_failing_core(folder: Path, poison: int, **options: object) -> EngineCore:
    """Creates a core with a model that raises when it computes this token."""
    core = create_small_core(folder, **options)
    model = core._runner._model
    real = model.forward

    def fail_on_poison(input_ids: torch.Tensor, **kwargs: object) -> object:
        if (input_ids == poison).any():
            raise RuntimeError("made to fail")
        return real(input_ids, **kwargs)

    model.forward = fail_on_poison
    return core


def test_a_follower_of_a_request_that_fails_loses_nothing(tiny_model):
    poison = 1  # in none of the prompts
    core = create_failing_core(tiny_model("llama"), poison, max_num_seqs=6, budget=60)
    stepped = SteppedCore(core, may_fail=True)
    params = SamplingParams(max_tokens=12, temperature=0)
    leader = Request("leader", [*BRANCH[:95], poison], params)
    followers = [Request(str(end), [*BRANCH[:end], 9], params) for end in (40, 93, 94)]
    first = Request("first", FIRST, params)
    stepped.add(first, leader, *followers)
    answers = stepped.finish()
    assert stepped.followers == {"leader", "40", "93", "94"}
    assert (answers["leader"].token_ids, answers["leader"].reason) == ([], FinishReason.ERROR)
    for request in (first, *followers):
        alone = run(create_small_core(tiny_model("llama")), [request])
        assert answers[request.request_id].token_ids == alone[request.request_id]


def test_blocks_that_held_nan_harm_no_other_request(tiny_model):
    core = create_small_core(tiny_model("gpt2"), max_num_seqs=3)
    weight = core._runner._model.transformer.wte.weight
    whole = weight.detach().clone()
    with torch.no_grad():
        weight[7] = torch.nan
    stepped = SteppedCore(core, may_fail=True)
    bad = Request("bad", [7] * 60, SamplingParams(temperature=0, max_tokens=12))
    stepped.add(*(replace(bad, request_id=str(number)) for number in range(6)))
    answers = stepped.finish()
    assert [answer.reason for answer in answers.values()] == [FinishReason.ERROR] * 6
    with torch.no_grad():
        weight.copy_(whole)
    # Short sequences beside long ones: attention over padded rows reads beyond their ends.
    requests = [bad, *create_seeded_requests(8, {"temperature": 0})]
    assert run(core, requests) == run(
        create_small_core(tiny_model("gpt2"), max_num_seqs=3), requests
    )


def test_a_step_after_all_requests_expired_computes_nothing(tiny_model):
    core = create_small_core(tiny_model("gpt2"), max_queue_seconds=0)
    stepped = SteppedCore(core)
    stepped.add(*create_seeded_requests(3, {}))
    answers = stepped.finish()
    assert [answer.reason for answer in answers.values()] == [FinishReason.EXPIRED] * 3


def test_memory_for_too_few_tokens_is_refused_with_the_figures(tiny_model):
    config = EngineConfig(str(tiny_model("gpt2")), kv_cache_gb=1e-6)
    with pytest.raises(ModelLoadError, match=r"holds 0 tokens of 0.5 KiB; at least 128 are"):
        create_core(load_model(config), config)

"""Attention and greedy tokens on a real GPU: `make gpu-check` runs them, CI cannot."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from src.engine.attention.device_copy import copy_to_device
from src.engine.attention.torch_attention import TorchAttention
from src.engine.attention.varlen_attention import VarlenAttention, is_supported
from src.engine.attention.varlen_trial import passes_trial
from src.engine.config import EngineConfig
from src.engine.factory import create_core
from src.engine.model.loader import load_model
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from tests.support.attention_steps import Heads, create_scene
from tests.support.engines import SteppedCore
from tests.support.tiny_models import VOCAB_SIZE

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

CUDA = torch.device("cuda")
PROMPTS = [[5], [70, 80, 90], list(range(2, 60)), list(range(100, 2, -1))]
MAX_TOKENS = 24
TIE = 0.15
"""Two logits nearer than this may change their order: some steps of bfloat16 at their size."""


def check_greedy_tokens(folder: str, device: str, kernels: str = "auto") -> None:
    """Compares an engine's greedy tokens in bfloat16 with those of HuggingFace's model.

    The model sees the engine's own tokens. Each must have the largest logit but for rounding.
    """
    config = EngineConfig(
        folder, device=device, dtype="bfloat16", kernels=kernels, kv_cache_gb=0.05
    )
    stepped = SteppedCore(create_core(load_model(config), config))
    params = SamplingParams(max_tokens=MAX_TOKENS, temperature=0, ignore_eos=True)
    stepped.add(*(Request(str(number), one, params) for number, one in enumerate(PROMPTS)))
    answers = stepped.finish()
    model = load_model(config).model
    num_same = 0
    for number, prompt in enumerate(PROMPTS):
        token_ids = answers[str(number)].token_ids
        assert len(token_ids) == MAX_TOKENS
        logits = find_logits(model, prompt + token_ids)[len(prompt) - 1 : -1]
        found = logits.gather(1, torch.tensor(token_ids, device=logits.device)[:, None])[:, 0]
        best = logits.max(dim=1).values
        assert (best - found).max() <= TIE, f"prompt {number}"
        num_same += int((best == found).sum())
    assert num_same > 0.9 * len(PROMPTS) * MAX_TOKENS


@torch.inference_mode()
def find_logits(model: PreTrainedModel, token_ids: list[int]) -> torch.Tensor:
    """Returns the logits of each position in float32: (num_tokens, vocab_size)."""
    assert max(token_ids) < VOCAB_SIZE
    input_ids = torch.tensor([token_ids], device=model.device)
    return model(input_ids=input_ids, use_cache=False).logits[0].float()


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "mistral", "gemma2", "gpt2"])
def test_greedy_tokens_are_those_of_the_model(tiny_model, architecture):
    check_greedy_tokens(str(tiny_model(architecture)), "cuda")


def test_greedy_tokens_are_those_of_the_model_without_flash_attention(tiny_model):
    check_greedy_tokens(str(tiny_model("llama")), "cuda", kernels="pytorch")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 1, 100])
@pytest.mark.parametrize("heads", [Heads(32, 8, 128), Heads(12, 12, 64), Heads(8, 1, 256)], ids=str)
def test_one_call_gives_the_results_of_pytorchs_attention(heads, window, dtype):
    if not is_supported(CUDA, dtype):
        pytest.skip("needs FlashAttention 2: a GPU of compute capability 8.0")
    for seed in range(8):
        scene = create_scene(seed, heads, window, 256, "cuda", dtype)
        output, *caches = scene.run(VarlenAttention(), with_nan=False)
        expected, *expected_caches = scene.run(TorchAttention(), with_nan=False)
        torch.testing.assert_close(output, expected, rtol=0.02, atol=0.02)
        for ours, other in zip(caches, expected_caches, strict=True):
            assert torch.equal(ours, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_trial_of_the_start_is_passed(dtype):
    if not is_supported(CUDA, dtype):
        pytest.skip("needs FlashAttention 2: a GPU of compute capability 8.0")
    assert passes_trial(CUDA, dtype)


def test_a_row_does_not_depend_on_the_other_sequences():
    """One part of the keys for each sequence (num_splits=1) makes attention batch-invariant."""
    if not is_supported(CUDA, torch.bfloat16):
        pytest.skip("needs FlashAttention 2: a GPU of compute capability 8.0")
    scene = create_scene(2, Heads(32, 8, 128), None, 256, "cuda", torch.bfloat16)
    together = scene.run(VarlenAttention(), with_nan=False)[0]
    starts = scene.step.find_lengths().query_starts.tolist()
    for number, (start, end) in enumerate(pairwise(starts)):
        alone = scene.only(number).run(VarlenAttention(), with_nan=False)[0]
        assert torch.equal(alone, together[start:end])


def test_several_arrays_arrive_by_one_transfer():
    arrays = [np.arange(5, dtype=np.int64), np.arange(6, dtype=np.int32).reshape(2, 3)]
    for _ in range(100):  # the pinned memory is used again and again
        for tensor, array in zip(copy_to_device(arrays, CUDA), arrays, strict=True):
            assert torch.equal(tensor.cpu(), torch.from_numpy(array))

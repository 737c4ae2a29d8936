"""Arguments of FlashAttention's one call a layer, by a stand-in with its contract and by shapes."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from src.engine.attention import packed_step, varlen_attention, varlen_trial
from src.engine.attention.layer import AttentionLayer, AttentionOptions
from src.engine.attention.packed_step import Step
from src.engine.attention.torch_attention import TorchAttention
from src.engine.attention.varlen_attention import VarlenAttention, is_supported
from src.engine.attention.varlen_trial import passes_trial
from src.engine.backend import FLASH_BACKEND
from src.engine.config import EngineConfig
from src.engine.factory import BLOCK_SIZE, create_core
from src.engine.kernels.arguments import Projections
from src.engine.model.compatibility import PROBE_BLOCK_SIZE
from src.engine.model.loader import load_model
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from tests.support.attention_steps import (
    SCALING,
    Heads,
    attend_by_contract,
    create_scene,
    create_segments,
)
from tests.support.engines import PROMPT, SteppedCore, oracle

HEADS = [Heads(4, 4, 16), Heads(6, 2, 8), Heads(8, 1, 32)]
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def stand_in(monkeypatch):
    """Replaces the kernel; counts its calls."""
    calls = itertools.count()

    def attend(*arguments, **options):
        next(calls)
        return attend_by_contract(*arguments, **options)

    monkeypatch.setattr(varlen_attention, "varlen_attn_out", attend)
    return calls


@pytest.mark.parametrize("window", [None, 1, 3, 10, 1000])
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_one_call_gives_the_results_of_pytorchs_attention(stand_in, heads, window):
    for seed in range(20):
        scene = create_scene(seed, heads, window)
        expected = scene.run(TorchAttention(), with_nan=False)
        for ours, other in zip(scene.run(VarlenAttention()), expected, strict=True):
            torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-5)
    assert next(stand_in) == 20


def test_random_steps_have_decodes_chunks_and_drafts():
    steps = [create_segments(np.random.default_rng(seed), 4)[0] for seed in range(20)]
    sizes = [one.num_tokens for segments in steps for one in segments]
    assert min(sizes) == 1
    assert max(sizes) > 8
    kinds = {(one.num_tokens > 1, one.start > 0) for segments in steps for one in segments}
    assert len(kinds) == 4
    assert any(len({one.num_tokens > 1 for one in segments}) == 2 for segments in steps)


def test_lengths_are_computed_once_for_all_layers(stand_in):
    scene = create_scene(0, HEADS[0])
    assert scene.step.lengths is None  # a CPU does not need them
    scene.run(VarlenAttention())
    lengths = scene.step.lengths
    scene.run(VarlenAttention())
    assert scene.step.lengths is lengths is not None


def unplain(scene, **changes):
    return replace(scene, options=replace(scene.options, **changes))


@pytest.mark.parametrize("kind", ["softcap", "sinks", "odd head", "wide head", "stride", "offset"])
def test_other_layers_get_pytorchs_attention(stand_in, kind):
    heads = {"odd head": Heads(4, 2, 12), "wide head": Heads(2, 1, 264)}.get(kind, Heads(4, 2, 16))
    scene = create_scene(3, heads)
    query = scene.tokens.query
    if kind == "softcap":
        scene = unplain(scene, softcap=2.0)
    elif kind == "sinks":
        scene = unplain(scene, sinks=torch.randn(4))
    elif kind in {"stride", "offset"}:  # the kernel loads eight numbers at once
        wide, first = (torch.zeros(*query.shape[:2], 20), 0)
        if kind == "offset":
            wide, first = (torch.zeros(*query.shape[:2], 24), 2)
        view = wide[..., first : first + 16].copy_(query)
        scene = replace(scene, tokens=replace(scene.tokens, query=view))
    expected = scene.run(TorchAttention(), with_nan=False)
    for ours, other in zip(scene.run(VarlenAttention(), with_nan=False), expected, strict=True):
        assert torch.equal(ours, other)
    assert next(stand_in) == 0


def test_layers_with_other_sizes_of_keys_than_of_values_get_pytorchs_attention():
    layer = AttentionLayer(
        torch.zeros(2, 4, 1, 24), torch.zeros(2, 4, 1, 16), AttentionOptions(1, None, None, None)
    )
    tokens = Projections(torch.zeros(1, 1, 24), torch.zeros(1, 1, 24), torch.zeros(1, 1, 16))
    assert not varlen_attention.can_attend(layer, tokens)


# Shapes and types of the real call, on tensors without data.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("heads", [Heads(32, 8, 128), Heads(12, 12, 64), Heads(8, 1, 256)], ids=str)
def test_the_real_call_accepts_a_mixed_step(monkeypatch, heads, window, dtype):
    def create_on_device(arrays, device):
        types = [torch.from_numpy(array).dtype for array in arrays]
        return [
            torch.empty(array.shape, dtype=dtype, device=device)
            for array, dtype in zip(arrays, types, strict=True)
        ]

    monkeypatch.setattr(packed_step, "copy_to_device", create_on_device)
    segments, num_blocks = create_segments(np.random.default_rng(1), 256)
    assert {one.num_tokens > 1 for one in segments} == {True, False}
    with FakeTensorMode(), torch.inference_mode():
        step = Step.create(segments, 256, CUDA)
        num_tokens = sum(one.num_tokens for one in segments)
        sizes = (heads.num_heads, heads.num_kv_heads, heads.num_kv_heads)
        tokens = Projections(
            *(torch.empty(num_tokens, size, heads.dim, dtype=dtype, device=CUDA) for size in sizes)
        )
        cache = [
            torch.empty(num_blocks, 256, heads.num_kv_heads, heads.dim, dtype=dtype, device=CUDA)
            for _ in range(2)
        ]
        output = torch.empty_like(tokens.query)
        layer = AttentionLayer(*cache, AttentionOptions(SCALING, window, None, None))
        VarlenAttention()(step, layer, tokens, output)
    assert step.lengths.num_keys.shape == (len(segments),)
    assert step.lengths.query_starts.device.type == "cuda"


def test_blocks_on_cuda_are_of_a_size_that_the_kernel_takes():
    for size in (BLOCK_SIZE["cuda"], PROBE_BLOCK_SIZE):
        assert size % varlen_attention.BLOCK_SIZE_MULTIPLE == 0


# Whether it is used.


@pytest.mark.parametrize(
    ("device", "dtype", "capability", "hip", "expected"),
    [
        (CUDA, torch.bfloat16, (8, 0), None, True),
        (CUDA, torch.float16, (12, 0), None, True),
        (CUDA, torch.float32, (9, 0), None, False),
        (CUDA, torch.float16, (7, 5), None, False),
        (CUDA, torch.bfloat16, (9, 0), "7.0", False),
        (CPU, torch.bfloat16, None, None, False),
    ],
)
def test_the_device_and_the_number_format_decide(
    monkeypatch, device, dtype, capability, hip, expected
):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert is_supported(device, dtype) is expected


def test_the_trial_accepts_the_contract(stand_in, caplog):
    assert passes_trial(CPU, torch.float32)
    assert next(stand_in) == len(varlen_trial.STEPS) * len(varlen_trial.WINDOWS)
    assert passes_trial(CPU, torch.bfloat16)
    assert not caplog.records


@pytest.mark.parametrize(
    ("attend", "reason"),
    [
        (lambda out, *_, **__: out.zero_(), "it differs by"),
        (lambda out, *_, **__: out, "it differs by nan"),
    ],
)
def test_the_trial_refuses_wrong_results(monkeypatch, caplog, attend, reason):
    monkeypatch.setattr(varlen_attention, "varlen_attn_out", attend)
    assert not passes_trial(CPU, torch.float32)
    assert reason in caplog.text


def test_the_trial_refuses_a_kernel_that_raises(caplog):
    assert not passes_trial(CPU, torch.float32)  # the real one, which needs CUDA
    assert "FlashAttention over blocks is not used: it raises NotImplementedError" in caplog.text


# A whole engine on it.


@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2"])
def test_an_engine_on_one_call_a_layer_gives_the_tokens_of_generate(
    tiny_model, stand_in, monkeypatch, architecture
):
    monkeypatch.setattr("src.engine.factory._choose_backend", lambda *_: FLASH_BACKEND)
    config = EngineConfig(str(tiny_model(architecture)), kv_cache_gb=0.01)
    core = create_core(load_model(config), config)
    params = SamplingParams(max_tokens=20, temperature=0)
    prompts = [PROMPT, PROMPT[:1], PROMPT * 10]
    stepped = SteppedCore(core)
    stepped.add(*(Request(str(number), prompt, params) for number, prompt in enumerate(prompts)))
    assert stepped.finish()["0"].token_ids == oracle(load_model(config))
    has_calls = architecture != "gemma2"  # softcaps in all layers
    assert (next(stand_in) > 0) == has_calls

"""Our part of the comparison with other engines: formats, arithmetic, tables.

The engines themselves are measured by `make bench-peers`, which CI does not run.
"""

import re
import subprocess

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import rotate_half

from benchmarks.bench_model import LOGITS_STD, SHAPES, create_model, train_tokenizer
from benchmarks.load import PROTOCOLS
from benchmarks.peers.agreement import count_agreed
from benchmarks.peers.gguf_layout import TENSORS, interleave_halves
from benchmarks.peers.peer import run_in_batches
from benchmarks.peers.records import Agreement, Data, Failure, Machine, Speed, Weights
from benchmarks.peers.report import format_report
from benchmarks.peers.roofline import bound, count_weights
from benchmarks.peers.summary import BEST_PEER, BOUND, GREEDY, Goal, Summary
from benchmarks.peers.systems import PEERS
from benchmarks.workload import Job, Request, check
from tests.support.servers import ROOT

MACHINE = Machine("a processor", 2, gb_per_second=10, gflop_per_second=100, int8_gop_per_second=400)
WEIGHTS = Weights(layers=75_000_000, head=25_000_000)
TINY = {
    "gpt2": GPT2Config(n_layer=2, n_embd=32, n_head=4, vocab_size=96, n_positions=16),
    "llama": LlamaConfig(
        num_hidden_layers=2, hidden_size=32, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, vocab_size=96, tie_word_embeddings=True,
    ),
}  # fmt: skip


def create_tiny(kind):
    return {"gpt2": GPT2LMHeadModel, "llama": LlamaForCausalLM}[kind](TINY[kind])


def create_data(speeds, **others):
    """Creates data of the model `m`; each speed is (system, sampling, batch) and its rounds, in
    float32.
    """
    records = [
        Speed("m", "float32", *key, number, value)
        for key, values in speeds.items()
        for number, value in enumerate(values)
    ]
    return Data({"m": WEIGHTS}, [MACHINE], records, **others)


def test_one_sequence_is_bound_by_reading_the_weights():
    """400 MB at 10 GB/s take 40 ms a step; the prompt's 32 tokens take longer to compute."""
    first = 2 * (32 * 75e6 + 25e6) / 100e9
    assert first > 0.04
    expected = 64 / (first + 63 * 0.04)
    assert bound(MACHINE, WEIGHTS, "float32", 1, 32, 64) == pytest.approx(expected)


def test_many_sequences_are_bound_by_arithmetic():
    expected = 32 * 64 / (32 * 2 * (32 * 75e6 + 25e6) / 100e9 + 63 * 32 * 2 * 100e6 / 100e9)
    assert bound(MACHINE, WEIGHTS, "float32", 32, 32, 64) == pytest.approx(expected)
    assert bound(MACHINE, WEIGHTS, "8-bit", 32, 32, 64) == pytest.approx(4 * expected)


def test_eight_bits_are_read_in_a_quarter_of_the_time():
    steps = {p: bound(MACHINE, WEIGHTS, p, 1, 0, 1000) for p in ("float32", "8-bit")}
    assert steps["8-bit"] / steps["float32"] == pytest.approx(4)


@pytest.mark.parametrize("kind", TINY)
def test_counts_the_weights_that_a_token_passes(tmp_path, kind):
    model = create_tiny(kind)
    model.save_pretrained(tmp_path)
    body = model.base_model.h if kind == "gpt2" else model.base_model.layers
    layers = sum(tensor.numel() for tensor in body.parameters() if tensor.dim() == 2)
    assert count_weights(tmp_path) == Weights(layers, head=96 * 32)


@pytest.mark.parametrize("kind", TINY)
def test_every_weight_has_its_place_in_llama_cpps_file(kind):
    model = create_tiny(kind)
    weights = {name: tensor.detach().numpy() for name, tensor in model.named_parameters()}
    placed = dict(TENSORS[kind](TINY[kind].to_dict(), weights))
    assert sum(tensor.size for tensor in placed.values()) == sum(
        p.numel() for p in model.parameters()
    )
    assert all(tensor.flags.c_contiguous for tensor in placed.values())
    up = model.base_model.h[1].mlp.c_fc.weight.T if kind == "gpt2" else None
    if up is not None:
        assert np.array_equal(placed["blk.1.ffn_up.weight"], up.detach().numpy())


def test_rotating_neighbours_of_interleaved_rows_is_rotating_halves():
    """llama.cpp rotates adjacent pairs, HuggingFace pairs half a head apart."""
    num_heads, size, width = 2, 8, 5
    weight = np.random.default_rng(0).normal(size=(num_heads * size, width))
    hidden, angles = np.ones(width), np.arange(size // 2) * 0.3
    heads = torch.tensor(weight @ hidden).reshape(num_heads, size)
    both = torch.tensor(np.concatenate([angles, angles]))
    expected = heads * both.cos() + rotate_half(heads) * both.sin()
    pairs = (interleave_halves(weight, num_heads) @ hidden).reshape(num_heads, size // 2, 2)
    even, odd = pairs[..., 0], pairs[..., 1]
    turned = [
        even * np.cos(angles) - odd * np.sin(angles),
        odd * np.cos(angles) + even * np.sin(angles),
    ]
    assert np.allclose(np.concatenate(turned, axis=1), expected.numpy())


def test_counts_the_tokens_before_two_texts_differ():
    assert count_agreed([[1, 2, 3], [1, 9, 3], [9, 2, 3]], [[1, 2, 3]] * 3) == [3, 1, 0]


def test_a_worker_runs_a_job_in_batches_of_its_concurrency():
    batches = []

    def generate(batch):
        batches.append([request.prompt for request in batch])
        return [[7] * request.max_tokens for request in batch]

    job = Job([Request(prompt, max_tokens=5) for prompt in "abc"], concurrency=2)
    check(job, run_in_batches(job, generate))
    assert batches == [["a", "b"], ["c"]]


def test_a_stream_of_llama_cpp_counts_an_event_with_text_as_a_token():
    read = PROTOCOLS["llama-cpp"].read
    assert read({"choices": [{"text": " word"}]}) == (" word", 1)
    assert read({"choices": [{"text": "", "finish_reason": "length"}]}) == ("", 0)


def test_written_measurements_are_read_back(tmp_path):
    data = create_data({("ours", "greedy", 1): [3, 4]})
    data.agreements.append(Agreement("m", "8-bit", "openvino", 32, [32, 3]))
    data.failures.append(Failure("m", "8-bit", "ctranslate2", 'says "no"'))
    data.save(tmp_path / "results" / "data.json")
    read = Data.load(tmp_path / "results" / "data.json")
    assert read == data
    assert read.next_round == 2


def test_a_goal_compares_round_by_round_with_the_fastest_peer():
    speeds = {
        ("ours", "greedy", 8): [20, 40, 30],
        ("ctranslate2", "greedy", 8): [10, 10, 10],
        ("openvino", "greedy", 8): [20, 20, 10],
        ("openvino", "greedy", 1): [1000],
    }
    name, ratio = Summary(create_data(speeds), "m").judge(
        Goal("float32", "greedy", 8, BEST_PEER, 1)
    )
    assert name == "openvino"
    assert (ratio.minimum, ratio.median, ratio.maximum) == (1, 2, 3)


def test_goals_compare_with_the_bound_and_with_our_greedy_texts():
    data = create_data({("ours", "greedy", 1): [10], ("ours", "top-p", 1): [9]})
    summary = Summary(data, "m")
    _, share = summary.judge(Goal("float32", "greedy", 1, BOUND, 0.8))
    assert share.median == pytest.approx(10 / bound(MACHINE, WEIGHTS, "float32", 1, 32, 64))
    _, cost = summary.judge(Goal("float32", "top-p", 1, GREEDY, 0.9))
    assert cost.median == pytest.approx(0.9)


def test_eight_bits_over_http_compare_with_the_float32_of_transformers():
    data = create_data({("transformers-serve", "greedy", 16): [10]})
    data.speeds.append(Speed("m", "8-bit", "ours-http", "greedy", 16, 0, 40))
    goal = Goal("8-bit", "greedy", 16, "transformers-serve", 3, "ours-http")
    assert Summary(data, "m").judge(goal)[1].median == 4


def test_the_report_names_failures_and_missed_goals():
    data = create_data(
        {("ours", "greedy", 8): [10, 12], ("openvino", "greedy", 8): [20, 20]},
        failures=[Failure("m", "float32", "ctranslate2", "is not installed")],
    )
    report = format_report(data)
    assert "| ctranslate2 | failed | failed |" in report
    assert "| m | float32 | ctranslate2 | is not installed |" in report
    assert "| llama-cpp | not measured | not measured |" in report
    share = 11 / bound(MACHINE, WEIGHTS, "float32", 8, 32, 64)
    assert f"| ours | 11 (10 to 12) {share:.0%} | not measured |" in report
    missed = (
        "| ours, float32, greedy, 8 at once | openvino | 1.0 | 0.55 (0.50 to 0.60) | **missed** |"
    )
    assert missed in report


def test_make_installs_every_environment_at_pinned_versions():
    done = subprocess.run(
        ["make", "--dry-run", "bench-peers"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "python -m benchmarks.peers" in done.stdout
    environments = {peer.environment for peer in PEERS.values()}
    environments |= {peer.converter_environment for peer in PEERS.values()} | {"plot"}
    for name in environments:
        assert f".bench/peers/{name}/.installed" in done.stdout
        lines = (ROOT / "benchmarks" / "peers" / f"{name}.txt").read_text().splitlines()
        assert lines
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)


@pytest.mark.parametrize("kind", TINY)
def test_measured_models_are_peaked_and_never_end(kind):
    """The logits have the intended spread, and the end token's logit is 0 after any text."""
    tokenizer = train_tokenizer(700)
    shape = type(TINY[kind]).from_dict(TINY[kind].to_dict() | {"vocab_size": 700})
    model = create_model(tokenizer, shape).eval()
    with torch.no_grad():
        logits = model(torch.arange(1, 15).unsqueeze(0)).logits[0]
    speakable = logits[:, logits.any(dim=0)]
    assert speakable.std().item() == pytest.approx(LOGITS_STD, rel=0.15)
    assert torch.all(logits[:, 0] == 0)
    assert SHAPES[kind].tie_word_embeddings

"""Our own kernels: attention against PyTorch's, how they are built, and who uses them."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from src.engine.config import EngineConfig
from src.engine.cpu_layers.linear import FastLinear
from src.engine.cpu_layers.native_linear import NativeInt8Linear, NativeLinear
from src.engine.cpu_layers.replace import create_linear
from src.engine.factory import create_core, create_engine
from src.engine.kernels import build
from src.engine.kernels.bindings import CpuKernels
from src.engine.kernels.prefetch import CHOICES, tune
from src.engine.model.loader import load_model
from src.engine.request import Request
from src.engine.sampling_params import SamplingParams
from src.errors import ModelLoadError
from src.inference import InferenceEngine
from tests.support.engines import SteppedCore
from tests.support.native import LIBRARIES

needs_kernels = pytest.mark.skipif(not LIBRARIES, reason="no C++ compiler has built the kernels")

CAPACITY = 200
LENGTHS = [1, 2, 63, 64, 65, 128, 130, 200]
"""Tokens that a sequence has; scores are held for 64 at a time."""


def attend(library, num_heads, num_kv_heads, key_dim, value_dim, window=0, rows=None, fill=0.0):
    """What the kernel gives for sequences of LENGTHS, and what PyTorch does, for some of them."""
    torch.manual_seed(0)
    num_rows = len(LENGTHS)
    keys = torch.randn(num_rows + 2, CAPACITY, num_kv_heads, key_dim)
    values = torch.randn(num_rows + 2, CAPACITY, num_kv_heads, value_dim)
    # As a model makes them: parts of one product, with heads that lie apart.
    widths = [num_heads * key_dim, num_kv_heads * key_dim, num_kv_heads * value_dim]
    query, key, value = torch.randn(num_rows, sum(widths) + 3)[:, 3:].split(widths, dim=1)
    query = query.unflatten(1, (num_heads, key_dim))
    key, value = (given.unflatten(1, (num_kv_heads, -1)) for given in (key, value))
    slots = torch.randperm(num_rows + 2)[:num_rows]
    positions = torch.tensor(LENGTHS) - 1
    for slot, length in zip(slots, LENGTHS, strict=True):
        keys[slot, length:] = values[slot, length:] = (
            fill  # what is beyond the end is not looked at
        )
    expected = []
    for row, length in enumerate(LENGTHS):
        span = slice(max(0, length - window) if window else 0, length)
        seen_keys, seen_values = keys[slots[row]].clone(), values[slots[row]].clone()
        seen_keys[length - 1], seen_values[length - 1] = key[row], value[row]
        expected.append(
            scaled_dot_product_attention(
                query[row][:, None],
                seen_keys[span].transpose(0, 1),
                seen_values[span].transpose(0, 1),
                scale=0.2,
                enable_gqa=True,
            )[:, 0]
        )
    rows = list(range(num_rows)) if rows is None else rows
    output = torch.full((len(rows), num_heads, value_dim), torch.nan)
    library.decode_attention(
        *(query[rows], key[rows], value[rows], keys, values, slots[rows], positions[rows]),
        *(output, 0.2, window),
    )
    assert torch.equal(keys[slots[rows], positions[rows]], key[rows])
    assert torch.equal(values[slots[rows], positions[rows]], value[rows])
    return output, torch.stack(expected)[rows]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.variant)
@pytest.mark.parametrize("window", [0, 1, 16, 100])
@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "key_dim", "value_dim"),
    [
        (12, 12, 64, 64), (9, 3, 64, 64), (8, 1, 256, 256),
        (4, 2, 16, 48), (64, 2, 80, 80), (96, 96, 16, 16),
    ],
)  # fmt: skip
def test_attention_is_pytorchs(library, num_heads, num_kv_heads, key_dim, value_dim, window):
    found, expected = attend(
        library, num_heads, num_kv_heads, key_dim, value_dim, window, fill=torch.nan
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.variant)
def test_attention_of_a_sequence_does_not_depend_on_the_others(library):
    together, _ = attend(library, 9, 3, 64, 64)
    for row in range(len(LENGTHS)):
        alone, _ = attend(library, 9, 3, 64, 64, rows=[row])
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.variant)
def test_attention_to_what_is_no_number_is_none(library):
    query = torch.full((1, 2, 16), torch.nan)
    key = value = torch.ones(1, 2, 16)
    keys, values, output = torch.zeros(1, 8, 2, 16), torch.zeros(1, 8, 2, 16), torch.zeros(1, 2, 16)
    index = torch.zeros(1, dtype=torch.int64)
    library.decode_attention(query, key, value, keys, values, index, index, output, 1.0, 0)
    assert output.isnan().all()


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.variant)
def test_knows_which_heads_it_can_attend_with(library):
    def can(num_heads, num_kv_heads, key_dim, value_dim):
        given = (num_heads, key_dim), (num_kv_heads, key_dim), (num_kv_heads, value_dim)
        return library.can_attend(*(torch.empty(1, *shape) for shape in given))

    assert can(64, 2, 64, 128)
    assert not can(66, 2, 64, 64)
    assert not can(4, 4, 8, 16)
    assert not can(4, 4, 16, 24)


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.variant)
def test_threads_that_compute_at_the_same_time_do_not_meet(library, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)  # more than there are cores
    layer = create_linear(torch.randn(700, 64), torch.randn(700), "none", library)

    def compute(seed: int) -> bool:
        rows = torch.randn(3, 64, generator=torch.Generator().manual_seed(seed))
        expected = rows @ layer.weight.T + layer.bias
        return all(torch.allclose(layer(rows), expected, atol=1e-4) for _ in range(1000))

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(compute, range(3)))


@needs_kernels
def test_how_far_ahead_weights_are_fetched_is_measured_and_changes_no_result(caplog):
    caplog.set_level("DEBUG")
    library = CpuKernels(LIBRARIES[0].variant)
    tune(library)
    assert library.ahead in CHOICES
    assert f"weights are fetched {library.ahead} floats ahead" in caplog.text
    weight, rows, results = torch.randn(200, 48), torch.randn(9, 48), []
    for library.ahead in CHOICES:
        results.append(create_linear(weight, None, "none", library)(rows))
    assert torch.equal(*results)


@needs_kernels
def test_layers_are_our_own_where_they_can_be():
    best, weight = LIBRARIES[0], torch.randn(8, 32)
    assert type(create_linear(weight, None, "none", best)) is NativeLinear
    assert type(create_linear(weight[:, :31], None, "none", best)) is NativeLinear
    for library in LIBRARIES:
        assert type(create_linear(weight, None, "int8", library)) is NativeInt8Linear
    for kind in ("int8", "fp16"):
        assert type(create_linear(weight[:, :24], None, kind, best)) not in {
            NativeLinear, NativeInt8Linear,
        }  # fmt: skip


@needs_kernels
@pytest.mark.parametrize("kernels", ["auto", "native", "pytorch"])
def test_the_setting_says_whose_kernels_run(tiny_model, kernels, caplog):
    caplog.set_level("INFO")
    config = EngineConfig(str(tiny_model("llama")), kernels=kernels, kv_cache_gb=0.01)
    loaded = load_model(config)
    create_core(loaded, config)
    layers = {type(layer) for layer in loaded.model.modules() if isinstance(layer, FastLinear)}
    assert (layers == {NativeLinear}) == (kernels != "pytorch")
    assert (f"KERNELS={kernels}: our own" in caplog.text) == (kernels != "pytorch")


def test_a_model_that_our_kernels_are_not_for_has_pytorchs(tiny_model, caplog):
    caplog.set_level("INFO")
    config = EngineConfig(str(tiny_model("llama")), dtype="bfloat16", kv_cache_gb=0.01)
    create_core(load_model(config), config)
    assert "KERNELS=auto: PyTorch's, as of our own they are for float32 on a CPU" in caplog.text
    config = EngineConfig(str(tiny_model("llama")), dtype="bfloat16", kernels="native")
    with pytest.raises(ModelLoadError, match=r"they are for float32 on a CPU\. Use DEVICE=cpu"):
        create_core(load_model(config), config)


@needs_kernels
def test_the_fingerprint_tells_whose_kernels_run():
    def fingerprint(kernels):
        config = EngineConfig("storyteller", kernels=kernels)
        return InferenceEngine(config, timeout_seconds=1).fingerprint

    assert fingerprint("auto") == fingerprint("native") != fingerprint("pytorch")


def test_the_reference_engine_refuses_kernels_that_it_would_not_use(tiny_model):
    config = EngineConfig(str(tiny_model("gpt2")), engine="reference", kernels="native")
    with pytest.raises(ModelLoadError, match=r"^KERNELS=native: the reference engine runs"):
        create_engine(load_model(config), config, lambda update: None)


def test_a_server_without_kernels_says_so(tiny_model, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr("src.engine.kernels.bindings.find_library", lambda: None)
    config = EngineConfig(str(tiny_model("llama")), kv_cache_gb=0.01)
    create_core(load_model(config), config)
    assert "KERNELS=auto: PyTorch's, as of our own none were built" in caplog.text
    config = EngineConfig(str(tiny_model("llama")), kernels="native")
    with pytest.raises(ModelLoadError, match="KERNELS=native: none were built"):
        create_core(load_model(config), config)


@needs_kernels
@pytest.mark.parametrize("architecture", ["mistral", "qwen3", "gemma3_text"])
def test_a_request_gives_the_same_tokens_alone_and_beside_others(tiny_model, architecture):
    """Even rounded to 8 bits, as nothing of a row depends on the rows beside it."""

    def run(others: int) -> list[int]:
        config = EngineConfig(
            str(tiny_model(architecture)),
            quantization="int8",
            kv_cache_gb=0.01,
            num_speculative_tokens=0,
        )
        stepped = SteppedCore(create_core(load_model(config), config))
        params = SamplingParams(max_tokens=40, temperature=1, seed=1, ignore_eos=True)
        stepped.add(Request("one", [5, 6, 7], params))
        stepped.add(*(Request(str(number), [8 + number], params) for number in range(others)))
        return stepped.finish()["one"].token_ids

    assert run(0) == run(5)


def run_build(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, folder / "build.py"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def source(tmp_path):
    folder = Path(build.__file__).parent
    shutil.copy(folder / "build.py", tmp_path)
    shutil.copytree(folder / "csrc", tmp_path / "csrc")
    return tmp_path


@needs_kernels
def test_each_source_has_libraries_of_its_own(source):
    assert run_build(source).returncode == 0
    first = set(source.glob("*.so"))
    assert len(first) == len(build.VARIANTS)
    times = {path: path.stat().st_mtime_ns for path in first}
    assert run_build(source).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in first} == times  # nothing to do
    with (source / "csrc" / "pool.h").open("a") as file:
        file.write("// other\n")
    assert run_build(source).returncode == 0
    assert len(set(source.glob("*.so"))) == len(build.VARIANTS)
    assert first.isdisjoint(source.glob("*.so"))


def test_no_compiler_is_no_failure(source):
    done = run_build(source, CXX="no-such-compiler")
    assert done.returncode == 0
    assert "there is no C++ compiler" in done.stdout
    assert not list(source.glob("*.so"))


@needs_kernels
def test_a_compiler_that_does_not_know_a_processor_builds_for_the_others(source, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\ncase "$*" in *amx*) exit 1;; esac\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    done = run_build(source, CXX=str(compiler))
    assert done.returncode == 0
    assert "No kernels of our own for amx: the compiler does not know it." in done.stdout
    assert len(set(source.glob("*.so"))) == len(build.VARIANTS) - 1


@needs_kernels
def test_what_cannot_be_compiled_is_one(source):
    files = {path.name for path in source.iterdir()}
    (source / "csrc" / "kernels.cpp").write_text("#error this")
    done = run_build(source)
    assert done.returncode == 1
    assert "cannot be compiled" in done.stderr
    assert {path.name for path in source.iterdir()} <= files | {"__pycache__"}

"""Memory while a 16-bit checkpoint is loaded: the final weights, and little beside them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.support.servers import ROOT
from tests.support.tiny_models import GROUPED_HEADS, create_tokenizer

MIB = 2**20
LARGE = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 10}

SLACK = 60
"""MiB of activations, scratch memory and what the C library has not returned yet."""

MEASURE = """
import sys, time
from pathlib import Path
from threading import Thread
from src.engine.config import EngineConfig
from src.engine.factory import create_core
from src.engine.model.loader import load_model

def private_memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) * 1024

def load(folder, quantization):
    config = EngineConfig(folder, device="cpu", quantization=quantization, kv_cache_gb=0.01)
    loaded = load_model(config)
    return create_core(loaded, config)

def sample():
    while True:
        samples.append(private_memory())
        time.sleep(0.002)

load(sys.argv[1], sys.argv[3])  # what the libraries allocate once
samples = [private_memory()]
Thread(target=sample, daemon=True).start()
core = load(sys.argv[2], sys.argv[3])
print(max(samples) - samples[0], private_memory() - samples[0])
"""


@pytest.fixture(scope="module")
def large_model(tmp_path_factory) -> Path:
    """Writes a model with 40 million weights in bfloat16."""
    folder = tmp_path_factory.mktemp("large")
    config = AutoConfig.for_model("llama", **GROUPED_HEADS | LARGE)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    create_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(("quantization", "num_bytes"), [("none", 4), ("int8", 1)])
def test_no_second_copy_of_the_weights_is_made(large_model, tiny_model, quantization, num_bytes):
    command = [sys.executable, "-c", MEASURE, str(tiny_model("llama")), str(large_model)]
    result = subprocess.run(
        [*command, quantization], cwd=ROOT, capture_output=True, text=True, check=True
    )
    peak, final = (int(number) / MIB for number in result.stdout.split())
    weights = (large_model / "model.safetensors").stat().st_size / 2 * num_bytes / MIB
    layer = 4 * weights / num_bytes / LARGE["num_hidden_layers"]  # in float32
    assert final < weights + SLACK
    assert peak < weights + layer + SLACK

"""`make gpu-check`: says that there is no GPU; its measurements work, here on a CPU."""

import re

import torch
from transformers import LlamaConfig

from benchmarks import gpu


def test_without_a_gpu_one_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(r"No GPU: [^\n]+\n", printed.err)


def test_measures_both_kinds_of_attention(monkeypatch):
    for name, value in {"NUM_SEQUENCES": (1, 3), "PROMPT_LENGTH": 9, "LONG_PROMPT": 60}.items():
        monkeypatch.setattr(gpu, name, value)
    monkeypatch.setattr(gpu, "KV_CACHE_GB", 0.01)
    shape = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=300,
        max_position_embeddings=128,
    )
    rows = gpu.measure(gpu.create_loaded(shape, "cpu")).splitlines()
    assert rows[0] == "|  | KERNELS=auto | KERNELS=pytorch |"
    names = ["tokens/s, 1 at once", "tokens/s, 3 at once", "ms to the first token of 60"]
    for row, name in zip(rows[2:], names, strict=True):
        _, label, *figures, _ = (cell.strip() for cell in row.split("|"))
        assert label == name
        assert all(float(figure) > 0 for figure in figures)
        assert len(figures) == 2

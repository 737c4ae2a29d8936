"""lm-evaluation-harness finds here what the model's own logits say: `make lm-eval` runs this.

It brings a torch of its own. Without LM_EVAL, the folder of its commands, there is nothing to test.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.clients.test_documented_clients import CLIENTS
from tests.support.servers import ROOT, Server

LM_EVAL = os.environ.get("LM_EVAL", "")
pytestmark = pytest.mark.skipif(not LM_EVAL, reason="make lm-eval sets LM_EVAL")

STORYTELLER = ROOT / "src" / "bundled" / "storyteller"
COMMAND, PRINTED = re.search(
    r"### lm-evaluation-harness\n.*?```bash\n(.*?)```\n\n```text\n(.*?)```", CLIENTS, re.DOTALL
).groups()


@pytest.fixture(scope="module")
def evaluation(server: Server, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Output of the documented command, and the folder with its samples."""
    folder = tmp_path_factory.mktemp("evaluation")
    command = COMMAND.strip().replace("http://localhost:8000", server.url)
    done = subprocess.run(
        ["bash", "-c", f"{command} --log_samples --output_path {folder}"],
        cwd=ROOT,
        env=os.environ
        | {
            "PATH": f"{LM_EVAL}:{os.environ['PATH']}",
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, folder


def samples(folder: Path, task: str) -> list[dict[str, Any]]:
    (path,) = folder.glob(f"*/samples_{task}_2*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_documentation_shows_what_it_finds(evaluation: tuple[str, Path]):
    assert PRINTED.strip() in evaluation[0]


def test_its_log_likelihoods_are_those_of_the_models_own_logits(evaluation: tuple[str, Path]):
    model = AutoModelForCausalLM.from_pretrained(STORYTELLER, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(STORYTELLER)
    greedy = []
    for sample in samples(evaluation[1], "capitals"):
        asked = sample["arguments"].values()
        for texts, ((value, is_greedy),) in zip(asked, sample["resps"], strict=True):
            expected, is_likeliest = score(model, tokenizer, texts["arg_0"], texts["arg_1"])
            assert float(value) == pytest.approx(expected, abs=1e-3)
            assert is_greedy == str(is_likeliest)
            greedy.append(is_likeliest)
    assert len(greedy) == 36
    assert 0 < sum(greedy) < 36


@torch.inference_mode()
def score(model: Any, tokenizer: Any, context: str, continuation: str) -> tuple[float, bool]:
    """The continuation's log-probability, and whether it is the likeliest at every token."""
    start = len(tokenizer(context)["input_ids"])
    token_ids = torch.tensor([tokenizer(context + continuation)["input_ids"]])
    logprobs = model(token_ids).logits[0, start - 1 : -1].float().log_softmax(-1)
    chosen = token_ids[0, start:, None]
    is_greedy = bool((logprobs.argmax(-1) == chosen[:, 0]).all())
    return float(logprobs.gather(-1, chosen).sum()), is_greedy


def test_its_texts_are_what_the_model_writes(evaluation: tuple[str, Path]):
    written = {
        sample["doc"]["country"]: sample["resps"][0][0]
        for sample in samples(evaluation[1], "capitals_written")
    }
    assert written["France"] == " Paris"
    assert len(written) == 6

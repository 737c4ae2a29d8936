"""Files of an adapter that are not supported, damaged, or for another model."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from src.engine.lora.checkpoint import CONFIG_FILE, WEIGHTS_FILE, read_config, read_weights
from src.errors import AdapterError
from tests.engine.lora.test_mixed_batches import create
from tests.support.adapters import write_adapter

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning:"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning"),
]


def change(**entries: object) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        path = folder / CONFIG_FILE
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return write


FAULTS: dict[str, Callable[[Path], object]] = {
    "DoRA": change(use_dora=True),
    "modules_to_save": change(modules_to_save=["lm_head"]),
    "bias": change(bias="all"),
    "peft_type": change(peft_type="IA3"),
    "MAX_LORA_RANK": change(r=65),
    "rank_pattern.q_proj": change(rank_pattern={"q_proj": 0}),
    "regular expression": change(alpha_pattern={"(a+)+b": 1}),
    "shape": change(r=4),
    "lora_alpha": change(lora_alpha="much"),
    "not valid JSON": lambda folder: (folder / CONFIG_FILE).write_text("{"),
    f"no {CONFIG_FILE}": lambda folder: (folder / CONFIG_FILE).unlink(),
    f"no {WEIGHTS_FILE}": lambda folder: (folder / WEIGHTS_FILE).unlink(),
    "damaged": lambda folder: (folder / WEIGHTS_FILE).write_bytes(b"\0" * 99),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_refused_by_its_name(tiny_model, tmp_path, name):
    model = tiny_model("llama")
    _, state = create(model)
    FAULTS[name](write_adapter(model, tmp_path))
    with pytest.raises(AdapterError, match=name):
        read_weights(tmp_path, read_config(tmp_path, 64), state.shapes, state.like)


def test_an_adapter_of_another_model_is_refused(tiny_model, tmp_path):
    _, state = create(tiny_model("llama"))
    write_adapter(tiny_model("gpt2"), tmp_path)
    with pytest.raises(AdapterError, match="another model"):
        read_weights(tmp_path, read_config(tmp_path, 64), state.shapes, state.like)

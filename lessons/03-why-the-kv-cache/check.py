"""Check of exercise 3."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

FOLDER = "src/bundled/storyteller"


class CountingModel:
    """A model that records how many tokens each call computes."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.sizes: list[int] = []

    def __call__(self, input_ids: torch.Tensor, **options: Any) -> Any:
        self.sizes.append(input_ids.shape[1])
        return self.model(input_ids, **options)


def check(answer: dict[str, Any]) -> None:
    """Compares with a prefill in one step."""
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32)
    token_ids = torch.randint(5, 4000, (50,), generator=torch.Generator().manual_seed(0)).tolist()
    with torch.inference_mode():
        expected = model(torch.tensor([token_ids])).logits[0, -1]
    for chunk_size in (50, 16, 1, 64):
        counting, cache = CountingModel(model), DynamicCache()
        with torch.inference_mode():
            logits = answer["prefill"](counting, token_ids, chunk_size, cache)
        case = f"50 tokens in chunks of {chunk_size}"
        assert max(counting.sizes) <= chunk_size, f"{case}: a call had {max(counting.sizes)}."
        assert sum(counting.sizes) == 50, f"{case}: {sum(counting.sizes)} tokens were computed."
        assert cache.get_seq_length() == 50, f"{case}: the cache holds {cache.get_seq_length()}."
        assert (logits - expected).abs().max() < 1e-2, (
            f"{case}: the logits differ from those of the whole prompt."
        )

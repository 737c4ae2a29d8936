"""The only file that runs the model on the device: one packed forward a step."""

import itertools

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from src.engine.attention import PackedAttention, Segment, Step
from src.engine.kv_cache import KVCache, LayerShape
from src.engine.model_loader import LoadedModel
from src.engine.sampler import SamplingRow, sample
from src.engine.scheduler import ScheduledSequence
from src.engine.slots import Lease, Slot

_numbers = itertools.count()


class ModelRunner:
    """Runs a model over the KV cache.

    Args:
        loaded: its attention is replaced by ours.
        num_slots: of the KV cache.
    """

    def __init__(self, loaded: LoadedModel, layers: dict[int, LayerShape], num_slots: int) -> None:
        self._model = loaded.model
        self._device = loaded.model.device
        self._cache = KVCache(
            layers, num_slots, loaded.max_model_len, loaded.model.dtype, self._device
        )
        self._attention = PackedAttention(self._cache)
        name = f"engine-{next(_numbers)}"
        ALL_ATTENTION_FUNCTIONS.register(name, self._attention)
        loaded.model.set_attn_implementation(name)

    @torch.inference_mode()
    def copy_prefixes(self, leases: list[Lease]) -> None:
        """Fills new slots with prefixes that others hold."""
        for lease in leases:
            self._cache.copy_prefix(lease)

    def clear(self, slot: Slot) -> None:
        """Forgets a slot's keys and values, which a failed sequence may have left unusable."""
        self._cache.clear(slot)

    @torch.inference_mode()
    def execute(self, scheduled: list[ScheduledSequence]) -> list[int]:
        """Computes what is scheduled; returns the tokens of the sequences that sample, in order.

        Raises:
            FloatingPointError: the model gave logits that are no numbers.
        """
        logits = self.forward(scheduled)
        rows = [_sampling_row(one) for one in scheduled if one.samples]
        if not rows:
            return []
        if logits.amax(dim=-1).isnan().any():
            raise FloatingPointError("the model's logits are not numbers")
        return sample(logits, rows)

    @torch.inference_mode()
    def forward(self, scheduled: list[ScheduledSequence]) -> torch.Tensor:
        """One forward over all tokens; returns the logits of each that samples, in float32."""
        token_ids: list[int] = []
        segments: list[Segment] = []
        sampled: list[int] = []
        for one in scheduled:
            sequence = one.sequence
            start = sequence.num_computed_tokens
            end = start + one.num_tokens
            token_ids += sequence.token_ids[start:end]
            assert sequence.slot is not None
            segments.append(Segment(sequence.slot.index, start, end))
            if one.samples:
                sampled.append(len(token_ids) - 1)
        self._attention.step = step = self._step(segments)
        # A model without a row to sample still fills the cache; one row of logits costs little.
        keep = torch.tensor(sampled or [0], device=self._device)
        logits: torch.Tensor = self._model(
            input_ids=torch.tensor([token_ids], device=self._device),
            position_ids=step.positions[None],
            use_cache=False,
            logits_to_keep=keep,
        ).logits[0]
        return logits[: len(sampled)].float()

    def _step(self, segments: list[Segment]) -> Step:
        slots: list[int] = []
        positions: list[int] = []
        for segment in segments:
            slots += [segment.slot] * segment.num_tokens
            positions += range(segment.start, segment.end)
        return Step(
            decodes=[segment for segment in segments if segment.num_tokens == 1],
            prefills=[segment for segment in segments if segment.num_tokens > 1],
            slots=torch.tensor(slots, device=self._device),
            positions=torch.tensor(positions, device=self._device),
        )


def _sampling_row(one: ScheduledSequence) -> SamplingRow:
    sequence = one.sequence
    return SamplingRow(sequence.request.sampling_params, sequence.seed, len(sequence.token_ids))

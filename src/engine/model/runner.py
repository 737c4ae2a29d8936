"""The only file that runs the model on the device: one packed forward a step."""

from itertools import count, islice, takewhile

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from src.engine.kernels.bindings import CpuKernels
from src.engine.logprobs import PositionLogprobs, SampledToken
from src.engine.model.attention import PackedAttention, Segment, Step
from src.engine.model.hidden_states import catch_hidden_states
from src.engine.model.kv_cache import KVCache, LayerShape
from src.engine.model.loader import LoadedModel
from src.engine.sampling.logprobs import find_logprobs
from src.engine.sampling.sampler import SamplingRow, sample
from src.engine.sampling.top_k_top_p import find_largest
from src.engine.scheduling.kv_slots import Lease
from src.engine.scheduling.step import ScheduledSequence, SequenceResult

_numbers = count()


class ModelRunner:
    """Runs a model over the KV cache.

    Args:
        loaded: its attention is replaced by ours.
        layers: what each attention layer keeps of a token.
        num_slots: of the KV cache.
        library: our own kernels, if attention and sampling are to use them.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        layers: dict[int, LayerShape],
        num_slots: int,
        library: CpuKernels | None = None,
    ) -> None:
        self._model = loaded.model
        self._library = library
        self._device = loaded.model.device
        self._cache = KVCache(
            layers, num_slots, loaded.max_model_len, loaded.model.dtype, self._device
        )
        self.attention = PackedAttention(self._cache, library)
        name = f"engine-{next(_numbers)}"
        ALL_ATTENTION_FUNCTIONS.register(name, self.attention)
        loaded.model.set_attn_implementation(name)

    def close(self) -> None:
        """Gives the cache's memory back; transformers would keep it with the attention."""
        self._cache.keys.clear()
        self._cache.values.clear()

    @torch.inference_mode()
    def prepare(self, lease: Lease) -> None:
        """Clears what a failed sequence left in a slot; copies the prefix that another holds."""
        if lease.slot.is_dirty:
            self._cache.clear(lease.slot)
        if lease.copy_from is not None:
            self._cache.copy_prefix(lease)

    @torch.inference_mode()
    def execute(self, scheduled: list[ScheduledSequence]) -> list[SequenceResult]:
        """Computes what is scheduled; returns one result for each.

        Raises:
            FloatingPointError: the model gave logits or hidden states that are no numbers.
            DeadEndError: a sequence's grammar allows no token.
        """
        rows = _keep_rows(scheduled)
        embeds = any(one.sequence.request.embeds for one in scheduled)
        with catch_hidden_states(self._model, wanted=embeds) as caught:
            logits = self.forward(scheduled, [row for kept in rows for row in kept])
        if find_largest(logits, self._library).isnan().any():
            raise FloatingPointError("the model's logits are not numbers")
        prompts = _prompt_logprobs(scheduled, rows, logits)
        sums = _hidden_sums(scheduled, caught)
        tokens = iter(_sample(scheduled, rows, logits, self._library))  # uses the logits up
        return [
            SequenceResult(next(tokens) if one.samples else [], found, hidden_sum)
            for one, found, hidden_sum in zip(scheduled, prompts, sums, strict=True)
        ]

    @torch.inference_mode()
    def forward(self, scheduled: list[ScheduledSequence], rows: list[int]) -> torch.Tensor:
        """One forward over all tokens; returns the logits of these rows of the pack, in float32."""
        token_ids: list[int] = []
        segments: list[Segment] = []
        for one in scheduled:
            sequence = one.sequence
            start = sequence.num_computed_tokens
            end = start + one.num_tokens
            token_ids += sequence.token_ids[start:end]
            token_ids += one.draft
            assert sequence.slot is not None
            segments.append(Segment(sequence.slot.index, start, end + len(one.draft)))
        self.attention.step = step = self._step(segments)
        # A step without a row to sample still fills the cache; one row of logits costs little.
        keep = torch.tensor(rows or [0], device=self._device)
        logits: torch.Tensor = self._model(
            input_ids=torch.tensor([token_ids], device=self._device),
            position_ids=step.positions[None],
            use_cache=False,
            logits_to_keep=keep,
        ).logits[0]
        return logits[: len(rows)].float()

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


def _keep_rows(scheduled: list[ScheduledSequence]) -> list[range]:
    """For each sequence the rows of the pack whose logits are needed."""
    rows: list[range] = []
    end = 0
    for one in scheduled:
        start, end = end, end + one.size
        if one.next_prompt_token_ids:
            rows.append(range(start, end))
        else:
            rows.append(range(end - one.num_sampled, end))
    return rows


def _sample(
    scheduled: list[ScheduledSequence],
    rows: list[range],
    logits: torch.Tensor,
    library: CpuKernels | None,
) -> list[list[SampledToken]]:
    """Samples from the last rows of each sequence that has all of its tokens.

    Of a draft what was drawn is kept, and the token that was drawn after it. A sequence whose
    token mask is late has no token.
    """
    last: list[int] = []
    sampled: list[SamplingRow] = []
    end = 0
    for one, kept in zip(scheduled, rows, strict=True):
        end += len(kept)
        last += range(end - one.num_sampled, end)
        sampled += [_sampling_row(one, number) for number in range(one.num_sampled)]
    if not sampled:
        return []
    chosen = logits if len(last) == len(logits) else logits[last]
    tokens = iter(sample(chosen, sampled, library))
    drawn = [(one.draft, list(islice(tokens, one.num_sampled))) for one in scheduled if one.samples]
    ready = [(draft, [token for token in own if token is not None]) for draft, own in drawn]
    return [own[: _count_right(draft, own) + 1] for draft, own in ready]


def _sampling_row(one: ScheduledSequence, num_drafted: int) -> SamplingRow:
    """How to choose the token after so many of the draft's."""
    sequence = one.sequence
    return SamplingRow(
        sequence.request.sampling_params,
        sequence.seed,
        sequence.token_ids,
        sequence.num_prompt_tokens,
        sequence.banned_token_ids(num_drafted),
        sequence.matcher,
        one.draft[:num_drafted],
    )


def _count_right(draft: tuple[int, ...], drawn: list[SampledToken]) -> int:
    """How many of a draft's first tokens were drawn."""
    pairs = zip(draft, drawn, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1].token_id, pairs))


def _prompt_logprobs(
    scheduled: list[ScheduledSequence], rows: list[range], logits: torch.Tensor
) -> list[list[PositionLogprobs]]:
    """What each sequence's kept rows say of the prompt's tokens after them."""
    found: list[list[PositionLogprobs]] = []
    start = 0
    for one, kept in zip(scheduled, rows, strict=True):
        wanted = one.next_prompt_token_ids
        num_top = one.sequence.request.sampling_params.prompt_logprobs
        if wanted and num_top is not None:
            own = logits[start : start + len(wanted)]
            found.append(find_logprobs(own, wanted, [num_top] * len(wanted)))
        else:
            found.append([])
        start += len(kept)
    return found


def _hidden_sums(
    scheduled: list[ScheduledSequence], caught: list[torch.Tensor]
) -> list[list[float]]:
    """For each sequence whose prompt is embedded the sum of its tokens' hidden states."""
    found: list[list[float]] = []
    end = 0
    for one in scheduled:
        start, end = end, end + one.size
        if one.sequence.request.embeds:
            (hidden,) = caught  # (1, num_tokens, size)
            total = hidden[0, start:end].sum(dim=0, dtype=torch.float32)
            if not total.isfinite().all():
                raise FloatingPointError("the model's hidden states are not numbers")
            found.append(total.tolist())
        else:
            found.append([])
    return found

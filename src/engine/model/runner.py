"""Execution of the model on the device: one forward pass over the packed tokens of a step."""

from collections.abc import Callable
from itertools import count, islice, takewhile

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from src.engine.attention.kv_cache import CacheLayout, KVCache, LayerShape
from src.engine.attention.packed_attention import Attention, PackedAttention
from src.engine.attention.packed_step import Segment, Step
from src.engine.config import Pooling
from src.engine.logprobs import PositionLogprobs, SampledToken
from src.engine.model.hidden_states import catch_hidden_states
from src.engine.model.loader import LoadedModel
from src.engine.sampling.logprobs import find_logprobs
from src.engine.sampling.sampler import Sampler, SamplingRow
from src.engine.scheduling.blocks import Block
from src.engine.scheduling.step import ScheduledSequence, SequenceResult

_runner_numbers = count()


class ModelRunner:
    """Runs a model over the KV cache.

    Args:
        loaded: its attention is replaced.
        layers: shapes of the KV cache, by the model's layer index.
        layout: of the KV cache.
        attend: attention of a layer.
        sampler: selects tokens.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        layers: dict[int, LayerShape],
        layout: CacheLayout,
        attend: Attention,
        sampler: Sampler,
    ) -> None:
        self._model = loaded.model
        self._pooling = loaded.embedding.pooling
        self._sampler = sampler
        self.before_forward: Callable[..., None] = lambda *_: None  # sequences and segments
        self._device = loaded.model.device
        self._cache = KVCache(layers, layout, self._device)
        self.attention = PackedAttention(self._cache, attend)
        name = f"engine-{next(_runner_numbers)}"
        ALL_ATTENTION_FUNCTIONS.register(name, self.attention)
        loaded.model.set_attn_implementation(name)

    def close(self) -> None:
        """Frees the cache, which transformers would keep alive with the registered attention."""
        self._cache.keys.clear()
        self._cache.values.clear()

    @torch.inference_mode()
    def clear(self, blocks: list[Block]) -> None:
        """Clears blocks of a failed sequence before another one uses them."""
        self._cache.clear(blocks)

    @torch.inference_mode()
    def execute(self, scheduled: list[ScheduledSequence]) -> list[SequenceResult]:
        """Computes the scheduled tokens; returns one result for each sequence.

        Raises:
            FloatingPointError: logits or hidden states are NaN.
            DeadEndError: a sequence's grammar allows no token.
        """
        rows = _logits_rows(scheduled)
        embeds = any(item.sequence.request.embeds for item in scheduled)
        with catch_hidden_states(self._model, wanted=embeds) as hidden_states:
            logits = self.forward(scheduled, [row for item_rows in rows for row in item_rows])
        if self._sampler.has_nan(logits):
            raise FloatingPointError("the model's logits are NaN")
        prompt_logprobs = _prompt_logprobs(scheduled, rows, logits)
        hidden_sums = _hidden_sums(scheduled, hidden_states, self._pooling)
        tokens = iter(self._sample(scheduled, rows, logits))  # changes the logits
        return [
            SequenceResult(next(tokens) if item.samples else [], logprobs, hidden_sum)
            for item, logprobs, hidden_sum in zip(
                scheduled, prompt_logprobs, hidden_sums, strict=True
            )
        ]

    @torch.inference_mode()
    def forward(self, scheduled: list[ScheduledSequence], rows: list[int]) -> torch.Tensor:
        """Runs one forward pass; returns the logits of `rows` of the pack, in float32."""
        token_ids: list[int] = []
        segments: list[Segment] = []
        for item in scheduled:
            sequence = item.sequence
            start = sequence.num_computed_tokens
            end = start + item.num_tokens
            token_ids += sequence.token_ids[start:end]
            token_ids += item.draft
            segments.append(Segment(sequence.block_table, start, end + len(item.draft)))
        self.attention.step = step = Step.create(
            segments, self._cache.layout.block_size, self._device
        )
        self.before_forward(scheduled, segments)
        # A step without rows still fills the cache. The model needs one row at least.
        logits_to_keep = torch.tensor(rows or [0], device=self._device)
        logits: torch.Tensor = self._model(
            input_ids=torch.tensor([token_ids], device=self._device),
            position_ids=step.positions[None],
            use_cache=False,
            logits_to_keep=logits_to_keep,
        ).logits[0]
        return logits[: len(rows)].float()

    def _sample(
        self, scheduled: list[ScheduledSequence], rows: list[range], logits: torch.Tensor
    ) -> list[list[SampledToken]]:
        """Samples from the last rows of each sequence that has computed all of its tokens.

        The draft tokens that were sampled are kept, and the token sampled after them. A sequence
        with a late token mask has no token.
        """
        sampled_rows: list[int] = []
        sampling_rows: list[SamplingRow] = []
        end = 0
        for item, item_rows in zip(scheduled, rows, strict=True):
            end += len(item_rows)
            sampled_rows += range(end - item.num_sampled, end)
            sampling_rows += [_sampling_row(item, number) for number in range(item.num_sampled)]
        if not sampling_rows:
            return []
        if len(sampled_rows) < len(logits):
            logits = logits[sampled_rows]
        tokens = iter(self._sampler.sample(logits, sampling_rows))
        return [
            _keep_accepted(item.draft, list(islice(tokens, item.num_sampled)))
            for item in scheduled
            if item.samples
        ]


def _logits_rows(scheduled: list[ScheduledSequence]) -> list[range]:
    """Returns for each sequence the rows of the pack that need logits."""
    rows: list[range] = []
    end = 0
    for item in scheduled:
        start, end = end, end + item.size
        if item.next_prompt_token_ids:
            rows.append(range(start, end))
        else:
            rows.append(range(end - item.num_sampled, end))
    return rows


def _sampling_row(item: ScheduledSequence, num_draft_tokens: int) -> SamplingRow:
    """Describes the row of the token after the first `num_draft_tokens` of the draft."""
    sequence, thought = item.sequence, item.sequence.thought
    return SamplingRow(
        params=sequence.request.sampling_params,
        seed=sequence.seed,
        token_ids=sequence.token_ids,
        num_prompt_tokens=sequence.num_prompt_tokens,
        banned_token_ids=sequence.banned_token_ids(num_draft_tokens),
        matcher=sequence.next_matcher,
        draft=item.draft[:num_draft_tokens],
        forced_token_id=thought.forced_token_id if thought else None,
        offered_token_id=thought.offered_token_id if thought else None,
    )


def _keep_accepted(
    draft: tuple[int, ...], sampled: list[SampledToken | None]
) -> list[SampledToken]:
    """Returns the sampled tokens that agree with the draft, and the one after them."""
    tokens = [token for token in sampled if token is not None]
    pairs = zip(draft, tokens, strict=False)
    num_accepted = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1].token_id, pairs))
    return tokens[: num_accepted + 1]


def _prompt_logprobs(
    scheduled: list[ScheduledSequence], rows: list[range], logits: torch.Tensor
) -> list[list[PositionLogprobs]]:
    """Returns for each sequence the log-probabilities of the prompt's tokens after its rows."""
    logprobs: list[list[PositionLogprobs]] = []
    start = 0
    for item, item_rows in zip(scheduled, rows, strict=True):
        token_ids = item.next_prompt_token_ids
        num_top = item.sequence.request.sampling_params.prompt_logprobs
        if token_ids and num_top is not None:
            item_logits = logits[start : start + len(token_ids)]
            logprobs.append(find_logprobs(item_logits, token_ids, [num_top] * len(token_ids)))
        else:
            logprobs.append([])
        start += len(item_rows)
    return logprobs


def _hidden_sums(
    scheduled: list[ScheduledSequence], hidden_states: list[torch.Tensor], pooling: Pooling
) -> list[list[float]]:
    """Returns for each sequence that is embedded the sum of its pooled tokens' hidden states."""
    sums: list[list[float]] = []
    end = 0
    for item in scheduled:
        start, end = end, end + item.size
        if item.sequence.request.embeds:
            (hidden,) = hidden_states  # (1, num_tokens, size)
            states = hidden[0, start:end]
            if pooling == "last":
                states = states[-1:] if item.is_last else states[:0]
            elif pooling == "cls":
                states = states[:1] if not item.sequence.num_computed_tokens else states[:0]
            total = states.sum(dim=0, dtype=torch.float32)
            if not total.isfinite().all():
                raise FloatingPointError("the model's hidden states are NaN or infinite")
            sums.append(total.tolist())
        else:
            sums.append([])
    return sums

"""Sampling parameters as configs, logits processors and criteria of HuggingFace's `generate`."""

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    StoppingCriteria,
)

from src.engine.sampling.logits_processors import ban, keep_allowed, keep_only
from src.engine.sampling.logprobs import reports_processed
from src.engine.sampling_params import SamplingParams
from src.engine.structured_output.matcher import Matcher, find_allowed, send, wait_for_answers
from src.engine.thought import ThoughtTracker


def generation_config(params: SamplingParams, end_token_ids: list[int]) -> GenerationConfig:
    """Returns the request's parameters; the model's own defaults have no effect."""
    sampling = {}
    if not params.is_greedy:
        sampling = {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "min_p": params.min_p or None,
        }
    return GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=params.max_tokens,
        do_sample=not params.is_greedy,
        eos_token_id=end_token_ids or None,
        pad_token_id=0,  # unused: the batch is one sequence
        **sampling,
    )


class LogitsRecorder(LogitsProcessor):
    """Keeps the logits of the newest token: the model's own, or those after all processors."""

    logits: torch.Tensor | None = None

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.logits = scores.clone()
        return scores


def logits_processors(
    params: SamplingParams,
    prompt: torch.Tensor,
    end_token_ids: list[int],
    recorder: LogitsRecorder,
    matcher: Matcher | None = None,
    thought: ThoughtTracker | None = None,
) -> LogitsProcessorList:
    """Returns the processors before temperature and filters, in the sampler's order."""
    processors = LogitsProcessorList()
    if params.logprobs is not None and not reports_processed(params):
        processors.append(recorder)
    if params.logit_bias:
        bias: list[list[list[int] | float]] = [
            [[token_id], float(value)] for token_id, value in params.logit_bias.items()
        ]
        processors.append(SequenceBiasLogitsProcessor(bias))
    if params.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(float(params.repetition_penalty)))
    if params.presence_penalty or params.frequency_penalty:
        processors.append(_CountPenalties(params, prompt.shape[1]))
    if matcher is not None:
        min_length = prompt.shape[1] + params.min_tokens
        processors.append(_KeepAllowed(matcher, min_length, end_token_ids, thought))
    elif params.min_tokens and end_token_ids:
        processors.append(
            MinNewTokensLengthLogitsProcessor(
                prompt.shape[1], params.min_tokens, end_token_ids, device=str(prompt.device)
            )
        )
    if thought is not None:
        processors.append(_ForceTokens(thought))
    if reports_processed(params):
        processors.append(recorder)
    return processors


class _ForceTokens(LogitsProcessor):
    """Makes the tokens that end a thought, or open it, the only possible ones."""

    def __init__(self, thought: ThoughtTracker) -> None:
        self._thought = thought

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self._thought.forced_token_id is not None:
            keep_only(scores[0], self._thought.forced_token_id)
        return scores


class _KeepAllowed(LogitsProcessor):
    """Masks the tokens that a grammar does not allow.

    Args:
        matcher: position in the grammar.
        min_length: number of tokens, with the prompt, before which end tokens are masked, unless
            nothing else can follow.
        end_token_ids: tokens that end the sequence; masked inside of the thought.
        thought: the thought before the grammar; None without one.
    """

    def __init__(
        self,
        matcher: Matcher,
        min_length: int,
        end_token_ids: list[int],
        thought: ThoughtTracker | None,
    ) -> None:
        self._matcher = matcher
        self._min_length = min_length
        self._end_token_ids = end_token_ids
        self._thought = thought

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if self._thought is not None and self._thought.is_open:
            ban(scores[0], self._end_token_ids)
            return scores
        is_early = input_ids.shape[1] < self._min_length
        bits, _ = find_allowed([self._matcher], [is_early], timeout=None)
        self._matcher.check()
        offered = self._thought.offered_token_id if self._thought is not None else None
        logits = scores[0].clone()
        keep_allowed(scores, [0], bits)
        if offered is not None:
            scores[0, offered] = logits[offered]
        return scores


class GrammarCriteria(StoppingCriteria):
    """Advances a grammar's matcher; ends the sequence if nothing can follow.

    Args:
        matcher: receives each new token.
        end_token_ids: tokens that end the sequence.
        thought: the thought before the grammar; its tokens are left out.
    """

    def __init__(
        self, matcher: Matcher, end_token_ids: list[int], thought: ThoughtTracker | None
    ) -> None:
        self._matcher = matcher
        self._end_token_ids = end_token_ids
        self._thought = thought

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        token_id = int(input_ids[0, -1])
        if token_id in self._end_token_ids:
            self._matcher.end()
        elif self._thought is None or not self._thought.takes(token_id):
            send([(self._matcher, [token_id])])
            wait_for_answers([self._matcher], timeout=None)
            self._matcher.check()
        is_complete = self._matcher.has_tokens and self._matcher.is_complete
        return torch.full((1,), is_complete, device=input_ids.device)


class ThoughtCriteria(StoppingCriteria):
    """Follows a thought; ends nothing. Comes after `GrammarCriteria`."""

    def __init__(self, thought: ThoughtTracker) -> None:
        self._thought = thought

    def __call__(
        self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object
    ) -> torch.Tensor:
        self._thought.add(int(input_ids[0, -1]))
        return torch.full((1,), fill_value=False, device=input_ids.device)


class _CountPenalties(LogitsProcessor):
    """Presence and frequency penalties as in OpenAI's API; transformers has none."""

    def __init__(self, params: SamplingParams, num_prompt_tokens: int) -> None:
        self._params = params
        self._num_prompt_tokens = num_prompt_tokens

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        token_ids, counts = input_ids[0, self._num_prompt_tokens :].unique(  # type: ignore[no-untyped-call]
            return_counts=True
        )
        penalty = self._params.frequency_penalty * counts + self._params.presence_penalty
        scores[0, token_ids] -= penalty
        return scores

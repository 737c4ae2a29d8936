"""`TextStream`: one sequence's request, and the text of its outputs."""

import uuid
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from src.core.outputs import TextDelta
from src.engine.request import FinishReason, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.text.detokenizer import IncrementalDetokenizer

if TYPE_CHECKING:
    from src.engine.model.loader import LoadedModel
    from src.engine.structured_output.matcher import Grammar


class TextStream:
    """Turns the outputs of one sequence into text deltas, and ends it at a stop text.

    Args:
        index: number among the call's sequences, from 0.
        seed_offset: number among its prompt's sequences, added to the seed.
        loaded: the model.
        prompt_token_ids: the prompt.
        params: sampling parameters.
        grammar: compiled grammar of the answer; None leaves it free.
        skipped: special tokens that are not part of the text.
    """

    def __init__(
        self,
        index: int,
        seed_offset: int,
        loaded: "LoadedModel",
        prompt_token_ids: list[int],
        params: SamplingParams,
        grammar: "Grammar | None" = None,
        skipped: frozenset[int] = frozenset(),
    ) -> None:
        if params.seed is not None:
            params = replace(params, seed=_wrap_to_64_bits(params.seed + seed_offset))
        self.request = Request(uuid.uuid4().hex, prompt_token_ids, params, grammar=grammar)
        self._index = index
        self._end_token_ids = params.end_token_ids(loaded.eos_token_ids)
        self._num_tokens = 0
        self._deltas: deque[TextDelta] = deque()  # of outputs that the caller has not read yet
        spelled = grammar.special_token_ids if grammar else frozenset()
        self._detokenizer = IncrementalDetokenizer(
            loaded.tokenizer, prompt_token_ids, params.stop, spelled, skipped
        )

    def trim(self, output: RequestOutput) -> RequestOutput:
        """Returns the output without the tokens after a stop text, which ends the sequence.

        Queues the output's text as the next delta for `take`.
        """
        text, num_tokens, reason = "", 0, output.finish_reason
        for token_id in output.new_token_ids:
            num_tokens += 1
            if token_id not in self._end_token_ids:
                text += self._detokenizer.push(token_id, may_stop=self._may_stop(num_tokens))
            if self._detokenizer.stopped:
                break
        self._num_tokens += num_tokens
        if reason is not None:
            text += self._detokenizer.finish()
        if self._detokenizer.stopped:
            output = replace(
                output,
                new_token_ids=output.new_token_ids[:num_tokens],
                finish_reason=FinishReason.STOP,
                logprobs=output.logprobs[:num_tokens],
            )
        self._deltas.append(self._delta(output, text))
        return output

    def take(self) -> TextDelta:
        """Returns the delta of the oldest trimmed output, once."""
        return self._deltas.popleft()

    def _delta(self, output: RequestOutput, text: str) -> TextDelta:
        return TextDelta(
            index=self._index,
            text=text,
            num_tokens=len(output.new_token_ids),
            finish_reason=output.finish_reason,
            logprobs=output.logprobs,
            prompt_logprobs=output.prompt_logprobs,
            num_cached_tokens=output.admission.num_cached_tokens if output.admission else 0,
            stop_text=self._detokenizer.stop_text,
        )

    def _may_stop(self, num_new: int) -> bool:
        return self._num_tokens + num_new >= self.request.sampling_params.min_tokens


def _wrap_to_64_bits(number: int) -> int:
    """Wraps an integer into the signed 64-bit range, as two's complement overflow does."""
    return (number + 2**63) % 2**64 - 2**63

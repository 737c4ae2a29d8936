"""`TextStream`: one sequence's request, and the text of its outputs."""

import uuid
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from src.core.answer_parts import AnswerPart, AnswerParts, followed_thought
from src.core.outputs import TextDelta
from src.core.timings import CallTimings
from src.engine.request import FinishReason, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.text.detokenizer import IncrementalDetokenizer
from src.text.reasoning import SplitText
from src.text.stop_texts import StopTexts
from src.text.token_bytes import TokenBytes

if TYPE_CHECKING:
    from src.engine.model.loader import LoadedModel
    from src.engine.structured_output.matcher import Grammar


class TextStream:
    """Turns the outputs of one sequence into text deltas, and ends it at a stop text.

    Args:
        index: number among the call's sequences, from 0.
        seed_offset: number among its prompt's sequences, added to the seed.
        loaded: the model.
        token_bytes: the bytes of the model's tokens.
        prompt_token_ids: the prompt.
        params: sampling parameters.
        timings: of the call.
        grammar: compiled grammar of the answer; None leaves it free.
    """

    def __init__(
        self,
        index: int,
        seed_offset: int,
        loaded: "LoadedModel",
        token_bytes: TokenBytes,
        prompt_token_ids: list[int],
        params: SamplingParams,
        timings: CallTimings,
        grammar: "Grammar | None" = None,
    ) -> None:
        if params.seed is not None:
            params = replace(params, seed=_wrap_to_64_bits(params.seed + seed_offset))
        thought = followed_thought(params, token_bytes, has_grammar=grammar is not None)
        self.request = Request(
            uuid.uuid4().hex, prompt_token_ids, params, grammar=grammar, thought=thought
        )
        self._index = index
        self._is_first = seed_offset == 0
        self._timings = timings
        self._end_token_ids = params.end_token_ids(loaded.eos_token_ids)
        self._num_tokens = 0
        self._deltas: deque[TextDelta] = deque()  # of outputs that the caller has not read yet
        spelled = grammar.special_token_ids if grammar else frozenset()
        if params.thought is not None:
            spelled |= params.thought.special_token_ids
        skipped = token_bytes.special_token_ids - spelled
        self._detokenizer = IncrementalDetokenizer(
            loaded.tokenizer, prompt_token_ids, spelled, skipped
        )
        self._parts = AnswerParts(params.thought, has_grammar=grammar is not None)
        self._stop_texts = StopTexts(params.stop)

    def trim(self, output: RequestOutput) -> RequestOutput:
        """Returns the output without the tokens after a stop text, which ends the sequence.

        Queues the output's text as the next delta for `take`.
        """
        part, text, num_tokens = AnswerPart(), "", 0
        for token_id in output.new_token_ids:
            logprobs = output.logprobs[num_tokens : num_tokens + 1]
            num_tokens += 1
            self._num_tokens += 1
            is_end = token_id in self._end_token_ids
            if not is_end:
                text += self._add(part, self._parts.split(self._detokenizer.push(token_id)))
            self._parts.count(part, logprobs, is_end=is_end)
            if self._stop_texts.stopped:
                break
        if output.finish_reason is not None:
            text += self._finish(part)
        if self._stop_texts.stopped:
            output = replace(
                output,
                new_token_ids=output.new_token_ids[:num_tokens],
                finish_reason=FinishReason.STOP,
                logprobs=output.logprobs[:num_tokens],
            )
        self._deltas.append(self._delta(output, part, text))
        self._timings.add(self.request, output, num_tokens, is_first=self._is_first)
        return output

    def take(self) -> TextDelta:
        """Returns the delta of the oldest trimmed output, once."""
        return self._deltas.popleft()

    def _add(self, part: AnswerPart, split: SplitText) -> str:
        """Adds split text; returns the content that is no stop text nor the beginning of one."""
        part.reasoning += split.reasoning
        may_stop = self._num_tokens >= self.request.sampling_params.min_tokens
        return self._stop_texts.push(split.content, may_stop=may_stop)

    def _finish(self, part: AnswerPart) -> str:
        """Returns the content held back at the end of the sequence."""
        if self._stop_texts.stopped:
            return ""
        text = self._add(part, self._parts.split(self._detokenizer.finish()))
        text += self._add(part, self._parts.finish(part))
        return text + self._stop_texts.finish()

    def _delta(self, output: RequestOutput, part: AnswerPart, text: str) -> TextDelta:
        return TextDelta(
            index=self._index,
            text=text,
            num_tokens=len(output.new_token_ids),
            finish_reason=output.finish_reason,
            logprobs=part.logprobs,
            prompt_logprobs=output.prompt_logprobs,
            num_cached_tokens=output.admission.num_cached_tokens if output.admission else 0,
            stop_text=self._stop_texts.stop_text,
            reasoning=part.reasoning,
            num_reasoning_tokens=part.num_reasoning_tokens,
        )


def _wrap_to_64_bits(number: int) -> int:
    """Wraps an integer into the signed 64-bit range, as two's complement overflow does."""
    return (number + 2**63) % 2**64 - 2**63

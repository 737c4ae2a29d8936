"""Probabilities of labels as the next token: the core of rerank, score and decisions.

A label is one token, such as `yes`. The bias of a label is so large that only labels are possible;
the log-probabilities of that one step are then the softmax over their logits. Prompts that begin
alike share this part in the prefix cache.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from src.api.chat.thinking import ThinkingOptions, resolve
from src.core.request_context import RequestContext
from src.engine.sampling_params import MAX_BIAS, MAX_LOGPROBS, SamplingParams
from src.errors import FieldPath, InvalidRequestError
from src.inference import InferenceEngine
from src.text.chat_template import ChatMessage

MAX_LABELS = MAX_LOGPROBS
AT_ONCE = 32
"""Prompts of one call in the queue at a time; the rest of the queue stays free for others."""


@dataclass(frozen=True, slots=True)
class LabelPrompt:
    """A prompt and the labels that may follow.

    Args:
        token_ids: the prompt.
        labels: token ids, all different.
    """

    token_ids: list[int]
    labels: tuple[int, ...]


@dataclass(slots=True)
class LabelUsage:
    """Tokens of all prompts; one more token is sampled for each."""

    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0


class LabelReader:
    """Reads probabilities of labels from the served model, for one request.

    Args:
        engine: of the served model.
        context: of the call.
    """

    def __init__(self, engine: InferenceEngine, context: RequestContext) -> None:
        self._engine = engine
        self._context = context
        self._has_system_role = True
        self.usage = LabelUsage()

    @property
    def has_chat_template(self) -> bool:
        return self._engine.codec.chat_template is not None

    async def find_labels(self, texts: Sequence[str], field: FieldPath) -> tuple[int, ...]:
        """Returns the first token of each text, as it stands at the beginning of an answer.

        Raises:
            InvalidRequestError: the tokenizer begins two of them with the same token.
        """
        space = "" if self.has_chat_template else " "
        tokens = [
            await self._engine.encode(space + text, add_special_tokens=False) for text in texts
        ]
        labels = tuple(ids[0] for ids in tokens if ids)
        if len(set(labels)) != len(texts):
            raise InvalidRequestError(
                "This model's tokenizer cannot tell the answers apart by their first tokens:"
                f" {', '.join(texts)}.",
                field,
            )
        return labels

    async def encode(self, instructions: str, text: str, field: FieldPath) -> list[int]:
        """Returns the prompt up to the answer: by the chat template, with thinking off, or plain.

        Args:
            instructions: system message; before the text where the template knows no such role.
            text: user message.
            field: of the text, for errors.

        Raises:
            InvalidRequestError: the prompt is too long.
        """
        context = self._context.at(field)
        if not self.has_chat_template:
            plain = f"{instructions}\n\n{text}\n\nAnswer:"
            token_ids = await self._engine.tokenize(plain, SamplingParams(max_tokens=1), context)
        else:
            token_ids = await self._encode_chat(instructions, text, context)
            self._engine.check_length(len(token_ids), 1, field)
        return token_ids

    async def _encode_chat(
        self, instructions: str, text: str, context: RequestContext
    ) -> list[int]:
        support = self._engine.thinking_support
        off = ThinkingOptions(is_enabled=False)
        variables = resolve(off, support).variables
        if self._has_system_role:
            messages = [ChatMessage("system", instructions), ChatMessage("user", text)]
            try:
                return await self._engine.tokenize_chat(messages, context, variables=variables)
            except InvalidRequestError:
                self._has_system_role = False  # if it is not the reason, the next one raises too
        merged = [ChatMessage("user", f"{instructions}\n\n{text}")]
        return await self._engine.tokenize_chat(merged, context, variables=variables)

    async def probabilities(self, prompts: Sequence[LabelPrompt]) -> list[list[float]]:
        """Returns the probabilities of each prompt's labels, which add up to 1.

        Raises:
            ServiceError: as `InferenceEngine.stream_batch`.
        """
        by_labels: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            by_labels[prompt.labels].append(index)
        found: dict[int, list[float]] = {}
        at_once = min(AT_ONCE, self._engine.max_live)
        for labels, indices in by_labels.items():
            for start in range(0, len(indices), at_once):
                part = indices[start : start + at_once]
                token_ids = [prompts[index].token_ids for index in part]
                found |= dict(zip(part, await self._read(token_ids, labels), strict=True))
        return [found[index] for index in range(len(prompts))]

    async def _read(self, prompts: list[list[int]], labels: tuple[int, ...]) -> list[list[float]]:
        params = SamplingParams(
            max_tokens=1,
            temperature=0,
            top_p=1,
            logit_bias=dict.fromkeys(labels, MAX_BIAS),
            logprobs=len(labels),
            logprobs_mode="processed_logprobs",
            ignore_eos=True,
        )
        generations = await self._engine.collect(prompts, params, 1, self._context)
        probabilities = []
        for generation in generations:
            self.usage.num_prompt_tokens += len(generation.prompt_token_ids)
            self.usage.num_cached_tokens += generation.num_cached_tokens
            (position,) = generation.completions[0].logprobs
            logprobs = {one.token_id: one.logprob for one in (*position.top, position.chosen)}
            probabilities.append(_softmax(logprobs, labels))
        return probabilities


def _softmax(logprobs: Mapping[int, float], labels: tuple[int, ...]) -> list[float]:
    """Returns probabilities over the labels alone; a label without a value has none."""
    weights = [math.exp(logprobs[label]) if label in logprobs else 0.0 for label in labels]
    return [weight / sum(weights) for weight in weights]

"""How one request wants its tokens chosen."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from src.engine.structured_output.source import GrammarSource

GREEDY_BELOW = 1e-5
"""Temperatures under this are greedy: dividing by them would overflow."""

MAX_LOGPROBS = 20
"""So many alternatives at most are told for each position."""

# Field, smallest and largest value; None stays None.
_CLOSED_RANGES = (
    ("temperature", 0, 2),
    ("min_p", 0, 1),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("logprobs", 0, MAX_LOGPROBS),
    ("prompt_logprobs", 0, MAX_LOGPROBS),
)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one request wants its tokens chosen.

    Bias, penalties and bans change the logits, then the temperature divides them, then top-k, top-p
    and min-p drop tokens, each from what the one before it leaves.

    Args:
        max_tokens: new tokens at most, >= 1.
        min_tokens: before so many new tokens neither an end token nor a stop text ends it, at most
            max_tokens.
        temperature: divides the logits; 0 is greedy decoding, up to 2.
        top_p: nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751): the smallest set of most
            likely tokens whose probabilities add up to at least this, in (0, 1].
        top_k: only the k most likely tokens; 0 is all of them.
        min_p: drops tokens less likely than this times the most likely one (Nguyen et al. 2024,
            arXiv:2407.01082), in [0, 1]; 0 drops none.
        repetition_penalty: divides the positive and multiplies the negative logits of tokens in the
            prompt or the output (CTRL, Keskar et al. 2019, arXiv:1909.05858), in (0, 10]; 1 is off.
        presence_penalty: taken from the logit of each token in the output, in [-2, 2]; OpenAI's.
        frequency_penalty: likewise, as many times as the token is there.
        logit_bias: token id to what is added to its logit, in [-100, 100].
        seed: makes sampling repeatable; None draws a new one.
        stop: texts that end the generation; they are not part of the output.
        stop_token_ids: tokens that end the generation, as the model's end tokens do.
        ignore_eos: the model's end tokens do not end the generation.
        logprobs: tell the log-probability of each new token and of so many most likely ones, up to
            20; 0 is the token's own alone, None tells nothing.
        prompt_logprobs: the same of the prompt's tokens.
        grammar: what the answer must look like. Tokens that do not fit are impossible, whatever the
            bias; those that end it are, until the answer is whole; where nothing can follow it
            ends, before min_tokens too. It goes neither with stop nor with ignore_eos.

    Raises:
        ValueError: a value is out of its range.
    """

    max_tokens: int = 100
    min_tokens: int = 0
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict, hash=False)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: GrammarSource | None = None

    def __post_init__(self) -> None:
        # Each comparison is written so that a value that is no number fails it.
        for name, low, high in _CLOSED_RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} must be in [{low}, {high}], not {value}")
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, not {self.max_tokens}")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise ValueError(
                f"min_tokens must be in [0, {self.max_tokens}] (max_tokens), not {self.min_tokens}"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be 0 (off) or more, not {self.top_k}")
        if not 0 < self.repetition_penalty <= 10:
            raise ValueError(
                f"repetition_penalty must be in (0, 10], not {self.repetition_penalty}"
            )
        if "" in self.stop:
            raise ValueError("stop must not hold an empty text")
        if self.grammar is not None and (self.stop or self.ignore_eos):
            raise ValueError("a grammar says where an answer ends: stop and ignore_eos cannot")
        self._check_token_ids()

    def _check_token_ids(self) -> None:
        for token_id, bias in self.logit_bias.items():
            if token_id < 0:
                raise ValueError(f"logit_bias must hold token ids of at least 0, not {token_id}")
            if not -100 <= bias <= 100:
                raise ValueError(
                    f"logit_bias must be in [-100, 100], not {bias} for token {token_id}"
                )
        for token_id in self.stop_token_ids:
            if token_id < 0:
                raise ValueError(f"stop_token_ids must be at least 0, not {token_id}")

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    def end_token_ids(self, eos_token_ids: Iterable[int]) -> frozenset[int]:
        """The tokens that end such a request, where the model's own are `eos_token_ids`."""
        model_ends = () if self.ignore_eos else eos_token_ids
        return frozenset(self.stop_token_ids).union(model_ends)

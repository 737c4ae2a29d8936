"""`SamplingParams`: a request's choices for sampling, and their bounds.

Other modules take the bounds from here: the settings' defaults and the fields of every API.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from src.engine.logprobs import LogprobsMode
from src.engine.structured_output.source import GrammarSource
from src.engine.thought import ThoughtParams

MAX_TEMPERATURE = 2
MAX_PENALTY = 2
MAX_REPETITION_PENALTY = 10
MAX_BIAS = 100
MAX_LOGPROBS = 20
"""Upper bounds of the parameters; penalties and biases may be as far below 0."""

GREEDY_BELOW = 1e-5
"""Lower temperatures are greedy: dividing logits by them would overflow."""

# Field, smallest and largest value; None stays None.
_CLOSED_RANGES = (
    ("temperature", 0, MAX_TEMPERATURE),
    ("min_p", 0, 1),
    ("presence_penalty", -MAX_PENALTY, MAX_PENALTY),
    ("frequency_penalty", -MAX_PENALTY, MAX_PENALTY),
    ("logprobs", 0, MAX_LOGPROBS),
    ("prompt_logprobs", 0, MAX_LOGPROBS),
)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling parameters of one request.

    They apply in this order: bias, penalties and bans change the logits; the temperature divides
    them; top-k, top-p and min-p drop tokens, each from what the one before it leaves.

    Args:
        max_tokens: maximum number of new tokens, >= 1.
        min_tokens: number of new tokens before which no end token and no stop text ends the
            sequence, at most max_tokens.
        temperature: divides the logits; 0 is greedy decoding, up to 2.
        top_p: nucleus sampling (Holtzman et al. 2019, arXiv:1904.09751), in (0, 1]: keeps the
            smallest set of most likely tokens with probabilities that add up to at least this.
        top_k: keeps the k most likely tokens; 0 keeps all.
        min_p: drops tokens less likely than this times the most likely one (Nguyen et al. 2024,
            arXiv:2407.01082), in [0, 1]; 0 drops none.
        repetition_penalty: divides the positive and multiplies the negative logits of tokens in the
            prompt or the output (CTRL, Keskar et al. 2019, arXiv:1909.05858), in (0, 10]; 1 is off.
        presence_penalty: subtracted from the logit of each token in the output, in [-2, 2]; as in
            OpenAI's API.
        frequency_penalty: likewise, times the number of the token's occurrences.
        logit_bias: token ids to numbers that are added to their logits, in [-100, 100].
        seed: makes sampling repeatable; None draws a new one.
        stop: texts that end the generation; they are not part of the output.
        stop_token_ids: tokens that end the generation, as the model's end tokens do.
        ignore_eos: the model's end tokens do not end the generation.
        logprobs: number of most likely tokens, up to 20, to report for each new token beside its
            own log-probability; None reports nothing.
        logprobs_mode: values that `logprobs` reports.
        prompt_logprobs: `raw_logprobs` of the prompt's tokens, likewise.
        grammar: shape of the answer. Tokens that do not fit are impossible, whatever their bias;
            end tokens are until the answer is complete. Where nothing can follow the sequence ends,
            before min_tokens too. Goes neither with stop nor with ignore_eos.
        thought: the thought that may precede the answer; None if all text is the answer. Stop
            texts, log-probabilities and the grammar are of the answer alone.

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
    logprobs_mode: LogprobsMode = "raw_logprobs"
    prompt_logprobs: int | None = None
    grammar: GrammarSource | None = None
    thought: ThoughtParams | None = None

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_token_ids()
        if "" in self.stop:
            raise ValueError("stop must not contain an empty text")
        if self.grammar is not None and (self.stop or self.ignore_eos):
            raise ValueError(
                "a grammar decides where an answer ends: stop and ignore_eos cannot be used with it"
            )

    def _check_ranges(self) -> None:
        # Each comparison is written so that NaN fails it.
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
        if not 0 < self.repetition_penalty <= MAX_REPETITION_PENALTY:
            raise ValueError(
                f"repetition_penalty must be in (0, {MAX_REPETITION_PENALTY}],"
                f" not {self.repetition_penalty}"
            )

    def _check_token_ids(self) -> None:
        for token_id, bias in self.logit_bias.items():
            if token_id < 0:
                raise ValueError(f"logit_bias must hold token ids of at least 0, not {token_id}")
            if not -MAX_BIAS <= bias <= MAX_BIAS:
                raise ValueError(
                    f"logit_bias must be in [-{MAX_BIAS}, {MAX_BIAS}], not {bias} for token"
                    f" {token_id}"
                )
        for token_id in self.stop_token_ids:
            if token_id < 0:
                raise ValueError(f"stop_token_ids must be at least 0, not {token_id}")

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    def end_token_ids(self, eos_token_ids: Iterable[int]) -> frozenset[int]:
        """Returns the tokens that end this request's sequences.

        Args:
            eos_token_ids: the model's end tokens.
        """
        model_ends = () if self.ignore_eos else eos_token_ids
        return frozenset(self.stop_token_ids).union(model_ends)

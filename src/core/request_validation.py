"""What a model can be asked for: refusals that name the field, the limit and the remedy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from src.engine.sampling_params import SamplingParams
from src.errors import ContextLengthError, FieldPath, InvalidRequestError

if TYPE_CHECKING:
    from src.engine.model.loader import LoadedModel


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may ask for, whatever the model could do.

    Args:
        max_prompt_bytes: of a text, or of a conversation's; None is what may fit the context.
        max_stop_texts: so many.
        max_stop_length: characters of each.
        max_sequences: of all prompts; None is as many as the engine holds.
        max_logprobs: of all sequences, those of alternatives and of prompts included.
    """

    max_prompt_bytes: int | None = None
    max_stop_texts: int = 16
    max_stop_length: int = 128
    max_sequences: int | None = None
    max_logprobs: int = 2**20

    def check_prompt(self, prompt: str, field: FieldPath) -> None:
        """Refuses a text that is too large.

        Raises:
            InvalidRequestError: it has too many bytes.
        """
        if self.max_prompt_bytes is None:
            return
        num_bytes = len(prompt.encode("utf-8", "replace"))
        if num_bytes > self.max_prompt_bytes:
            raise InvalidRequestError(
                f"The prompt has {num_bytes} bytes, and this server takes {self.max_prompt_bytes}:"
                " shorten it.",
                field,
            )

    def check_stop(self, stop: Sequence[str]) -> None:
        """Refuses stop texts that are too many or too long.

        Raises:
            InvalidRequestError: they are.
        """
        if len(stop) > self.max_stop_texts:
            raise InvalidRequestError(
                f"There are {len(stop)} stop texts, and this server takes {self.max_stop_texts}:"
                " send fewer.",
                ("stop",),
            )
        longest = max(map(len, stop), default=0)
        if longest > self.max_stop_length:
            raise InvalidRequestError(
                f"A stop text has {longest} characters, and this server takes"
                f" {self.max_stop_length}: shorten it.",
                ("stop",),
            )

    def max_new_tokens(self, room: int, num_logprobs: int | None, n: int) -> int:
        """Returns how many new tokens a request may have that names no number; at least 1.

        Args:
            room: what the prompt leaves of the context.
            num_logprobs: alternatives of each token; None wants no log-probabilities.
            n: sequences.
        """
        if num_logprobs is not None:
            room = min(room, self.max_logprobs // (n * (1 + num_logprobs)))
        return max(1, room)

    def check_logprobs(self, prompts: Sequence[list[int]], params: SamplingParams, n: int) -> None:
        """Refuses more log-probabilities than an answer may hold.

        Args:
            prompts: token ids.
            params: of all sequences.
            n: sequences of each prompt.

        Raises:
            InvalidRequestError: their number may get too large.
        """
        num_prompt_tokens = n * sum(map(len, prompts))
        num_new_tokens = n * len(prompts) * params.max_tokens
        asked = {
            "prompt_logprobs": _num_logprobs(num_prompt_tokens, params.prompt_logprobs),
            "logprobs": _num_logprobs(num_new_tokens, params.logprobs),
        }
        total = sum(asked.values())
        if total > self.max_logprobs:
            raise InvalidRequestError(
                f"The request asks for up to {total} log-probabilities, its sequences times their"
                f" tokens times 1 + the alternatives, and this server allows {self.max_logprobs}"
                " (MAX_REQUEST_LOGPROBS): ask for fewer alternatives, tokens or sequences.",
                (max(asked, key=asked.__getitem__),),
            )


def _num_logprobs(num_tokens: int, num_alternatives: int | None) -> int:
    return 0 if num_alternatives is None else num_tokens * (1 + num_alternatives)


def check_size(prompt: str, loaded: "LoadedModel", field: FieldPath) -> None:
    """Refuses at once what is too long for any tokenization to fit.

    Raises:
        ContextLengthError: the prompt has too many bytes.
    """
    num_bytes = len(prompt.encode("utf-8", "replace"))
    most = loaded.max_prompt_bytes
    if most is not None and num_bytes > most:
        raise ContextLengthError(
            f"{_maximum(loaded.max_model_len)}. The prompt has {num_bytes} bytes, and no text of"
            f" more than {most} fits: shorten it.",
            field,
        )


def check_length(
    num_prompt_tokens: int, max_tokens: int, max_model_len: int, field: FieldPath
) -> None:
    """Refuses a prompt that does not fit the context together with its new tokens.

    Raises:
        InvalidRequestError: the prompt is empty.
        ContextLengthError: it is too long.
    """
    if num_prompt_tokens == 0:
        raise InvalidRequestError("The prompt is empty; it needs at least one token.", field)
    if num_prompt_tokens + max_tokens <= max_model_len:
        return
    remedies = []
    if max_tokens >= max_model_len:
        field = ("max_tokens",)
    else:
        remedies.append(f"shorten the prompt to at most {max_model_len - max_tokens} tokens")
    if num_prompt_tokens < max_model_len:
        remedies.append(f"ask for at most {max_model_len - num_prompt_tokens} new tokens")
    new_tokens = f" and {max_tokens} new tokens" if max_tokens else ""
    raise ContextLengthError(
        f"{_maximum(max_model_len)}. The prompt's {num_prompt_tokens} tokens{new_tokens} are more: "
        f"{' or '.join(remedies) or 'shorten the prompt and ask for fewer new tokens'}.",
        field,
    )


def _maximum(max_model_len: int) -> str:
    """In OpenAI's words, by which clients know this error."""
    return f"This model's maximum context length is {max_model_len} tokens"


def check_params(params: SamplingParams, vocab_size: int) -> None:
    """Refuses token ids that the model does not have.

    Raises:
        InvalidRequestError: an id is out of the vocabulary.
    """
    for field in ("logit_bias", "stop_token_ids"):
        for token_id in getattr(params, field):
            if token_id >= vocab_size:
                raise InvalidRequestError(
                    f"There is no token {token_id}: the model's ids are 0 to {vocab_size - 1}.",
                    (field,),
                )


def check_token_ids(token_ids: list[int], vocab_size: int, field: FieldPath) -> None:
    """Refuses a prompt of token ids that the model does not have.

    Raises:
        InvalidRequestError: an id is out of the vocabulary.
    """
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        raise InvalidRequestError(
            f"The prompt holds token ids that the model does not have: its are 0 to"
            f" {vocab_size - 1}.",
            field,
        )

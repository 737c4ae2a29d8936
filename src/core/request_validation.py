"""Validates requests against the server's limits and the model's.

Each message names the limit and the remedy, and each error the field of the request's body.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from src.engine.sampling_params import SamplingParams
from src.errors import ContextLengthError, FieldPath, InvalidRequestError
from src.text.tokenization import Prompt


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The server's limits on one request, from its settings.

    Args:
        max_prompt_bytes: UTF-8 bytes of a text, or of all texts of a conversation; None leaves the
            limit to the model's context.
        max_stop_texts: number of stop texts.
        max_stop_length: characters of a stop text.
        max_sequences: sequences of all prompts; None leaves the limit to the engine's queue.
        max_logprobs: log-probabilities of all sequences, alternatives and prompts included.
    """

    max_prompt_bytes: int | None = None
    max_stop_texts: int = 16
    max_stop_length: int = 128
    max_sequences: int | None = None
    max_logprobs: int = 2**20


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """The limits of the loaded model and of its engine.

    Args:
        max_model_len: tokens of prompt and answer together that model and KV cache have room for.
        context: tokens for which the model has room.
        max_prompt_bytes: UTF-8 bytes above which no tokenization fits the context; None if unknown.
        vocab_size: token ids are below this.
        max_live: sequences that the engine runs and queues.
    """

    max_model_len: int
    context: int
    max_prompt_bytes: int | None
    vocab_size: int
    max_live: int


@dataclass(frozen=True, slots=True)
class RequestValidator:
    """Checks the parts of a request in the order in which they become known.

    `check_params` and `check_prompt` come before tokenization, `check_length` after it,
    `check_generation` before the engine gets the sequences.

    Args:
        limits: the server's.
        model: the model's.
    """

    limits: RequestLimits
    model: ModelLimits

    def check_prompt(self, prompt: Prompt, field: FieldPath) -> None:
        """Checks the size of a text, or the range of token ids.

        Raises:
            ContextLengthError: no tokenization of the text fits the context.
            InvalidRequestError: the text exceeds MAX_PROMPT_BYTES, or a token id is unknown.
        """
        if not isinstance(prompt, str):
            self.check_token_ids(prompt, field)
            return
        num_bytes = len(prompt.encode("utf-8", "replace"))
        allowed, fitting = self.limits.max_prompt_bytes, self.model.max_prompt_bytes
        if allowed is not None and num_bytes > allowed:
            raise InvalidRequestError(
                f"The prompt has {num_bytes} bytes, and this server takes {allowed}"
                " (MAX_PROMPT_BYTES): shorten it.",
                field,
            )
        if fitting is not None and num_bytes > fitting:
            raise ContextLengthError(
                f"{self._context_length()}. The prompt has {num_bytes} bytes, and no text of more"
                f" than {fitting} fits: shorten it.",
                field,
            )

    def check_token_ids(self, token_ids: list[int], field: FieldPath) -> None:
        """Checks the token ids of a prompt.

        Raises:
            InvalidRequestError: an id is outside of the vocabulary.
        """
        vocab_size = self.model.vocab_size
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
            raise InvalidRequestError(
                f"The prompt holds token ids outside of the model's vocabulary: valid ids are 0 to"
                f" {vocab_size - 1}.",
                field,
            )

    def check_params(self, params: SamplingParams) -> None:
        """Checks token ids and stop texts in the sampling parameters.

        Raises:
            InvalidRequestError: an id is outside of the vocabulary, or the stop texts are too many
                or too long.
        """
        for field in ("logit_bias", "stop_token_ids"):
            for token_id in getattr(params, field):
                if token_id >= self.model.vocab_size:
                    raise InvalidRequestError(
                        f"There is no token {token_id}: the model's ids are 0 to"
                        f" {self.model.vocab_size - 1}.",
                        (field,),
                    )
        self._check_stop(params.stop)

    def check_length(self, num_prompt_tokens: int, max_tokens: int, field: FieldPath) -> None:
        """Checks that prompt and new tokens fit the context together.

        Raises:
            InvalidRequestError: the prompt is empty.
            ContextLengthError: they do not fit.
        """
        max_model_len = self.model.max_model_len
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
        remedy = " or ".join(remedies) or "shorten the prompt and ask for fewer new tokens"
        new_tokens = f" and {max_tokens} new tokens" if max_tokens else ""
        raise ContextLengthError(
            f"{self._context_length()}. The prompt's {num_prompt_tokens} tokens{new_tokens} are"
            f" more: {remedy}.",
            field,
        )

    def check_generation(
        self, prompts: Sequence[list[int]], params: SamplingParams, n: int
    ) -> None:
        """Checks log-probabilities and number of sequences.

        Args:
            prompts: token ids of each prompt.
            params: sampling parameters of all sequences.
            n: sequences of each prompt.

        Raises:
            InvalidRequestError: one of them exceeds its limit.
        """
        self._check_logprobs(prompts, params, n)
        self.check_num_sequences(n * len(prompts), ("n",) if n > 1 else ("prompt",))

    def check_num_sequences(self, count: int, field: FieldPath) -> None:
        """Checks the number of sequences of a request.

        Raises:
            InvalidRequestError: they exceed MAX_REQUEST_SEQUENCES, or the engine never holds them.
        """
        allowed, held = self.limits.max_sequences, self.model.max_live
        if allowed is not None and count > allowed:
            raise InvalidRequestError(
                f"{count} sequences are more than a request may have, {allowed}"
                " (MAX_REQUEST_SEQUENCES): ask for fewer.",
                field,
            )
        if count > held:
            raise InvalidRequestError(
                f"{count} sequences are more than this server runs and queues, {held}"
                " (MAX_BATCH_SIZE and MAX_QUEUE_SIZE): ask for fewer.",
                field,
            )

    def max_new_tokens(self, num_prompt_tokens: int, num_logprobs: int | None, n: int) -> int:
        """Returns the default of `max_tokens`: all that context and log-probabilities allow.

        Args:
            num_prompt_tokens: length of the prompt.
            num_logprobs: alternatives of each token; None is no log-probabilities.
            n: sequences.

        Returns:
            At least 1; `check_length` refuses a prompt that fills the context.
        """
        count = self.model.max_model_len - num_prompt_tokens
        if num_logprobs is not None:
            count = min(count, self.limits.max_logprobs // (n * (1 + num_logprobs)))
        return max(1, count)

    def _check_stop(self, stop: Sequence[str]) -> None:
        max_texts, max_length = self.limits.max_stop_texts, self.limits.max_stop_length
        if len(stop) > max_texts:
            raise InvalidRequestError(
                f"There are {len(stop)} stop texts, and this server takes {max_texts}"
                " (MAX_STOP_TEXTS): send fewer.",
                ("stop",),
            )
        longest = max(map(len, stop), default=0)
        if longest > max_length:
            raise InvalidRequestError(
                f"A stop text has {longest} characters, and this server takes {max_length}"
                " (MAX_STOP_LENGTH): shorten it.",
                ("stop",),
            )

    def _check_logprobs(self, prompts: Sequence[list[int]], params: SamplingParams, n: int) -> None:
        num_prompt_tokens = n * sum(map(len, prompts))
        num_new_tokens = n * len(prompts) * params.max_tokens
        counts = {
            "prompt_logprobs": _num_logprobs(num_prompt_tokens, params.prompt_logprobs),
            "logprobs": _num_logprobs(num_new_tokens, params.logprobs),
        }
        total = sum(counts.values())
        if total > self.limits.max_logprobs:
            raise InvalidRequestError(
                f"The request asks for up to {total} log-probabilities, its sequences times their"
                " tokens times 1 + the alternatives, and this server allows"
                f" {self.limits.max_logprobs} (MAX_REQUEST_LOGPROBS): ask for fewer alternatives,"
                " tokens or sequences.",
                (max(counts, key=counts.__getitem__),),
            )

    def _context_length(self) -> str:
        """Opens messages in OpenAI's words, by which clients recognise this error."""
        limit, context = self.model.max_model_len, self.model.context
        reason = "" if limit == context else f" (the model's {context} do not fit KV_CACHE_GB)"
        return f"This model's maximum context length is {limit} tokens{reason}"


def _num_logprobs(num_tokens: int, num_alternatives: int | None) -> int:
    return 0 if num_alternatives is None else num_tokens * (1 + num_alternatives)

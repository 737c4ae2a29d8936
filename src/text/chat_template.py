"""`ChatTemplate`: renders conversations by the model's chat template and encodes them.

Special tokens come from the template alone: a message that spells one stays text, so it cannot
forge a turn (prompt injection by special tokens).
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

from src.errors import InvalidRequestError
from src.text.call_adaptations import ADAPTATIONS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")

Scalar = str | int | float | bool | None
"""Value of a template's variable that a request may set."""

RESERVED = frozenset(
    {
        *("messages", "tools", "documents", "add_generation_prompt", "continue_final_message"),
        *("chat_template", "return_assistant_tokens_mask", "raise_exception", "strftime_now"),
    }
)
"""Variables that transformers sets, which no request may set."""

GENERATION_TAG = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
"""Marks of the assistant's text in some templates; an extension of transformers, not of Jinja."""

PLACEHOLDERS = range(0xF0000, 0xFFFFE)
"""Placeholders for spelled special tokens: characters of a private use area of Unicode."""


class PromptEnd(Enum):
    """End of a rendered conversation."""

    ANSWER_HEAD = auto()  # the beginning of the assistant's next turn
    LAST_TURN = auto()
    LAST_TEXT = auto()  # the last turn is open: the answer continues its text


@dataclass(frozen=True, slots=True)
class MessageToolCall:
    """A tool call in an earlier turn; some templates want its arguments as a JSON text."""

    call_id: str
    name: str
    arguments: dict[str, Any] | str


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation.

    Args:
        role: `system`, `user`, `assistant`, `tool` or a name that the template knows.
        content: text of the turn.
        tool_calls: the assistant's calls.
        tool_call_id: the call of which a tool's turn is the result.
        name: of the tool.
        reasoning: the thought before an assistant's content.
    """

    role: str
    content: str
    tool_calls: tuple[MessageToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None

    def to_template(self) -> dict[str, Any]:
        """Returns the turn in OpenAI's format, which templates read; absent fields are left out.

        transformers adds the other names that templates have for the thought.
        """
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning is not None:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "type": "function",
                    "id": call.call_id,
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        for key in ("tool_call_id", "name"):
            if (value := getattr(self, key)) is not None:
                message[key] = value
        return message


Json = dict[str, Any]
"""A message or a tool in OpenAI's format, which templates read."""


class ChatTemplate:
    """Renders and encodes conversations.

    Mostly the rendered text is tokenized as a whole, so the token ids are those of HuggingFace's
    `apply_chat_template`. If a message spells a special token, a placeholder character stands for
    it while the template is rendered. The rendered text is then split at its special tokens, which
    can only be the template's, and the pieces between are tokenized as plain text.

    Args:
        source: the template, in Jinja.
        variables: the template's variables, such as `bos_token`.
        tokenizer: reads the spelling of a special token as text.
    """

    def __init__(self, source: str, variables: Mapping[str, Any], tokenizer: "Tokenizer") -> None:
        self.source = source
        self._variables = dict(variables)
        self._adapt_calls = ADAPTATIONS[0]  # the last adaptation that the template accepted
        self._plain = tokenizer
        self._aware = _with_same_parts(tokenizer)
        self._aware.encode_special_tokens = False
        added = tokenizer.get_added_tokens_decoder()
        special = [token for token in added.values() if token.special]
        self._ids = {token.content: token_id for token_id, token in added.items()}
        self._special = {token.content: self._ids[token.content] for token in special}
        self._spelled = _alternatives(re.escape(token.content) for token in special)
        # As in the tokenizer, a token with `lstrip` or `rstrip` consumes the whitespace beside it.
        self._separators = _alternatives(
            r"\s*" * token.lstrip + re.escape(token.content) + r"\s*" * token.rstrip
            for token in special
        )

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names of the variables that the template reads and that a request may set."""
        return self._names - RESERVED - self._variables.keys()

    @property
    def reads_tools(self) -> bool:
        """True if the template has a place for tools."""
        return "tools" in self._names

    @cached_property
    def _names(self) -> frozenset[str]:
        """Names of all variables that the template reads."""
        from jinja2 import Environment, TemplateError, meta  # noqa: PLC0415 - as in `_render`

        environment = Environment(extensions=["jinja2.ext.loopcontrols"])  # noqa: S701 # nosec B701 - parses only
        try:
            names = meta.find_undeclared_variables(
                environment.parse(GENERATION_TAG.sub("", self.source))
            )
        except TemplateError:
            return frozenset()
        return frozenset(names - environment.globals.keys())

    def encode_text(self, text: str) -> list[int]:
        """Returns the token ids of a text of the template, in which special tokens are special."""
        return self._tokenize(self._aware, [text])[0]

    def special_token_id(self, text: str) -> int | None:
        """Returns the id of the special token with this text, if there is one."""
        return self._special.get(text)

    def encode(
        self,
        messages: list[ChatMessage],
        tools: Sequence[Json] | None = None,
        *,
        end: PromptEnd = PromptEnd.ANSWER_HEAD,
        variables: Mapping[str, Scalar] = MappingProxyType({}),
    ) -> list[int]:
        """Returns the token ids of the conversation.

        Args:
            messages: the conversation.
            tools: tools in OpenAI's format; None is no tools.
            end: end of the prompt.
            variables: values of some of `self.variables`.

        Raises:
            InvalidRequestError: the template refuses these messages.
        """
        return self._retry_with_adapted_calls(
            messages,
            lambda turns: self._encode(turns, tools, variables, end),
        )

    def _encode(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Json] | None,
        variables: Mapping[str, Scalar],
        end: PromptEnd,
    ) -> list[int]:
        turns: list[Json] = [message.to_template() for message in messages]
        placeholders = self._choose_placeholders([turns, list(tools or ()), dict(variables)])
        if not placeholders:
            text = self._render(turns, tools, variables, end)
            return self.encode_text(text)

        def hide(text: str) -> str:
            return self._spelled.sub(lambda match: placeholders[match[0]], text)

        hidden = _map_texts(hide, turns), _map_texts(hide, list(tools)) if tools else None
        values = _map_texts(hide, dict(variables))
        spelled = {ord(character): token for token, character in placeholders.items()}
        text = self._render(*hidden, values, end)
        return self._encode_pieces(text, spelled)

    def render(self, messages: list[ChatMessage], tools: Sequence[Json] | None = None) -> str:
        """Returns the rendered conversation; the template runs in transformers' Jinja sandbox.

        Raises:
            InvalidRequestError: the template refuses these messages.
        """

        def render(turns: Sequence[ChatMessage]) -> str:
            documents = [turn.to_template() for turn in turns]
            return self._render(documents, tools, {}, PromptEnd.ANSWER_HEAD)

        return self._retry_with_adapted_calls(messages, render)

    def _retry_with_adapted_calls(
        self, messages: Sequence[ChatMessage], render: Callable[[Sequence[ChatMessage]], T]
    ) -> T:
        """Renders a conversation, and again with adapted calls if the template refuses it.

        Raises:
            InvalidRequestError: the template refuses these messages in any form.
        """
        if not any(turn.tool_calls or turn.tool_call_id is not None for turn in messages):
            return render(messages)
        try:
            return render(self._adapt_calls(messages))
        except InvalidRequestError:
            for adapt in ADAPTATIONS:
                with suppress(InvalidRequestError):  # the first error is raised
                    rendered = render(adapt(messages))
                    self._adapt_calls = adapt
                    return rendered
            raise

    def _render(
        self,
        messages: list[Json],
        tools: Sequence[Json] | None,
        variables: Mapping[str, Scalar],
        end: PromptEnd,
    ) -> str:
        # Importing transformers takes seconds; modules that need ChatMessage alone skip it.
        from transformers.utils.chat_template_utils import render_jinja_template  # noqa: PLC0415

        try:
            # The function is annotated to return a text, but returns a pair of lists.
            rendered: Any = render_jinja_template(
                conversations=[messages],
                tools=list(tools) if tools else None,
                chat_template=self.source,
                add_generation_prompt=end is PromptEnd.ANSWER_HEAD,
                continue_final_message=end is PromptEnd.LAST_TEXT,
                **{**variables, **self._variables},
            )
        except MemoryError:
            raise  # not the template's fault
        except Exception as error:  # a template is code and can raise any error
            raise InvalidRequestError(
                f"The model's chat template cannot write these messages{_reason(error)}",
                ("messages",),
            ) from error
        return str(rendered[0][0])

    def _choose_placeholders(self, document: list[Any]) -> dict[str, str]:
        """Returns a character that no text has for each special token that a text spells."""
        texts = list(_texts_in(document))
        spelled = {token for text in texts for token in self._spelled.findall(text)}
        if not spelled:
            return {}
        used = set().union(*texts)
        free = (character for code in PLACEHOLDERS if (character := chr(code)) not in used)
        return dict(zip(sorted(spelled), free, strict=False))

    def _encode_pieces(self, text: str, spelled: Mapping[int, str]) -> list[int]:
        """Encodes a rendered text with placeholders, which `spelled` maps to special tokens."""
        pieces, tokens, start = [], [], 0
        for match in self._separators.finditer(text):
            pieces.append(text[start : match.start()].translate(spelled))
            tokens.append(match[0] if match[0] in self._ids else match[0].strip())
            start = match.end()
        pieces.append(text[start:].translate(spelled))
        first, *others = self._tokenize(self._plain, pieces)
        token_ids = list(first)
        for token, after in zip(tokens, others, strict=True):
            token_ids += [self._ids[token], *after]
        return token_ids

    @staticmethod
    def _tokenize(tokenizer: "Tokenizer", texts: list[str]) -> list[list[int]]:
        # `encode_batch` releases the GIL, `encode` does not.
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def _reason(error: Exception) -> str:
    """Returns the reason of a template's error without its text, which may quote messages."""
    from jinja2 import TemplateError  # noqa: PLC0415 - as in `_render`

    if type(error) is TemplateError:  # raised on purpose, for the caller to read
        return f": {error.message}"
    return "." if isinstance(error, TemplateError) else f": it raises {type(error).__name__}."


def _texts_in(value: Any) -> Iterator[str]:
    """Yields all texts in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _texts_in(list(pair))
    elif isinstance(value, list):
        for item in value:
            yield from _texts_in(item)


def _map_texts(change: Callable[[str], str], value: Any) -> Any:
    """Returns a copy of a JSON value with all texts changed, keys included."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _map_texts(change, item) for key, item in value.items()}
    return [_map_texts(change, item) for item in value] if isinstance(value, list) else value


def _with_same_parts(tokenizer: "Tokenizer") -> "Tokenizer":
    """Creates a tokenizer that shares the parts of another one, with settings of its own.

    A copy would parse the vocabulary again, for a tenth of a second and more with the GIL held.
    """
    other = type(tokenizer)(tokenizer.model)
    for name in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        part = getattr(tokenizer, name)
        if part is not None:
            setattr(other, name, part)
    added = tokenizer.get_added_tokens_decoder()
    other.add_tokens([added[token_id] for token_id in sorted(added)])
    return other


def _alternatives(patterns: Iterable[str]) -> re.Pattern[str]:
    """Returns a pattern that matches any of them, longer ones first; nothing without any."""
    return re.compile("|".join(sorted(patterns, key=len, reverse=True)) or r"(?!)")

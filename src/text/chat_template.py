"""A conversation to token ids, by the model's own chat template.

What a message says is text and stays text: where it spells a special token, no such token comes of
it. Special tokens are the template's alone.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from src.errors import InvalidRequestError
from src.text.call_ids import with_short_ids

if TYPE_CHECKING:
    from tokenizers import Tokenizer

T = TypeVar("T")

STAND_INS = range(0xF0000, 0xFFFFE)
"""Characters of Unicode's private use, one of which may stand for a special token for a while."""


@dataclass(frozen=True, slots=True)
class MessageToolCall:
    """A call of a tool in an earlier turn."""

    call_id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation.

    Args:
        role: who speaks.
        content: what is said.
        tool_calls: what the assistant calls.
        tool_call_id: of a tool, which call this is the result of.
        name: of a tool.
    """

    role: str
    content: str
    tool_calls: tuple[MessageToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None

    def described(self) -> dict[str, Any]:
        """As templates read it; what is not there they do not see."""
        told: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.tool_calls:
            told["tool_calls"] = [
                {
                    "type": "function",
                    "id": call.call_id,
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        for key in ("tool_call_id", "name"):
            if (value := getattr(self, key)) is not None:
                told[key] = value
        return told


Description = dict[str, Any]
"""A message or a tool as templates read it: JSON."""


class ChatTemplate:
    """Writes conversations as a model was taught to read them.

    Nearly always the rendered text is tokenized as a whole, so the token ids are those of
    HuggingFace's `apply_chat_template`. Where a message spells a special token, one character
    stands for it while the template is rendered. The result is then split at the special tokens in
    it, which can only be the template's, and the pieces between are tokenized as plain text.

    Args:
        source: the template, in Jinja's language.
        variables: what it may use by name, such as `bos_token`.
        tokenizer: takes special tokens in a text as plain text.
    """

    def __init__(self, source: str, variables: Mapping[str, Any], tokenizer: "Tokenizer") -> None:
        self.source = source
        self._variables = dict(variables)
        self._wants_short_ids = False  # until it has refused longer ones
        self._plain = tokenizer
        self._aware = type(tokenizer).from_str(tokenizer.to_str())
        self._aware.encode_special_tokens = False
        added = tokenizer.get_added_tokens_decoder()
        special = [token for token in added.values() if token.special]
        self._ids = {token.content: token_id for token_id, token in added.items()}
        self._special = {one.content: self._ids[one.content] for one in special}
        self._spelled = _any_of(re.escape(one.content) for one in special)
        # As the tokenizer does, a token that asks for it takes the spaces beside it along.
        self._taken = _any_of(
            r"\s*" * one.lstrip + re.escape(one.content) + r"\s*" * one.rstrip for one in special
        )

    def special_token_id(self, text: str) -> int | None:
        """Of the special token that is written so, if there is one."""
        return self._special.get(text)

    def encode(
        self,
        messages: list[ChatMessage],
        tools: Sequence[Description] | None = None,
        *,
        begins_answer: bool = True,
    ) -> list[int]:
        """Returns the token ids of the conversation.

        Args:
            messages: the conversation.
            tools: what the model may call, as OpenAI describes tools; None says nothing of any.
            begins_answer: the answer's turn has begun.

        Raises:
            InvalidRequestError: the template refuses these messages.
        """
        return self._with_ids(
            messages, lambda taken: self._encode(taken, tools, begins_answer=begins_answer)
        )

    def _encode(
        self,
        messages: Sequence[ChatMessage],
        tools: Sequence[Description] | None,
        *,
        begins_answer: bool,
    ) -> list[int]:
        told: list[Description] = [message.described() for message in messages]
        stand_ins = self._choose_stand_ins([told, list(tools or ())])
        if not stand_ins:
            text = self._render(told, tools, begins_answer=begins_answer)
            return self._ids_of(self._aware, [text])[0]

        def hide(text: str) -> str:
            return self._spelled.sub(lambda found: stand_ins[found[0]], text)

        hidden = _map_texts(hide, told), _map_texts(hide, list(tools)) if tools else None
        spelled = {ord(character): token for token, character in stand_ins.items()}
        text = self._render(*hidden, begins_answer=begins_answer)
        return self._encode_pieces(text, spelled)

    def render(
        self, messages: list[ChatMessage], tools: Sequence[Description] | None = None
    ) -> str:
        """Returns the conversation as the template writes it, in transformers' sandbox.

        Raises:
            InvalidRequestError: the template refuses these messages.
        """

        def write(taken: Sequence[ChatMessage]) -> str:
            described = [message.described() for message in taken]
            return self._render(described, tools, begins_answer=True)

        return self._with_ids(messages, write)

    def _with_ids(
        self, messages: Sequence[ChatMessage], write: Callable[[Sequence[ChatMessage]], T]
    ) -> T:
        """Writes a conversation; ids of calls that the template refuses are written short.

        Raises:
            InvalidRequestError: the template refuses these messages, with short ids too.
        """
        if not any(one.tool_calls or one.tool_call_id is not None for one in messages):
            return write(messages)
        if self._wants_short_ids:
            return write(with_short_ids(messages))
        try:
            return write(messages)
        except InvalidRequestError:
            try:
                written = write(with_short_ids(messages))
            except InvalidRequestError:
                pass  # the ids are not the reason
            else:
                self._wants_short_ids = True
                return written
            raise

    def _render(
        self,
        messages: list[Description],
        tools: Sequence[Description] | None,
        *,
        begins_answer: bool,
    ) -> str:
        # The import takes seconds, which modules that need no more than ChatMessage are spared.
        from transformers.utils.chat_template_utils import render_jinja_template  # noqa: PLC0415

        try:
            # Its type is said to be a text; it is a pair.
            rendered: Any = render_jinja_template(
                conversations=[messages],
                tools=list(tools) if tools else None,
                chat_template=self.source,
                add_generation_prompt=begins_answer,
                **self._variables,
            )
        except MemoryError:
            raise  # the machine's fault
        except Exception as error:  # a template is code, and raises whatever its operations raise
            raise InvalidRequestError(
                f"The model's chat template cannot write these messages{_reason(error)}",
                ("messages",),
            ) from error
        return str(rendered[0][0])

    def _choose_stand_ins(self, told: list[Any]) -> dict[str, str]:
        """For each special token that any text spells a character that is in none."""
        texts = list(_texts_in(told))
        spelled = {token for text in texts for token in self._spelled.findall(text)}
        if not spelled:
            return {}
        taken = set().union(*texts)
        free = (character for code in STAND_INS if (character := chr(code)) not in taken)
        return dict(zip(sorted(spelled), free, strict=False))

    def _encode_pieces(self, text: str, spelled: Mapping[int, str]) -> list[int]:
        pieces, tokens, start = [], [], 0
        for found in self._taken.finditer(text):
            pieces.append(text[start : found.start()].translate(spelled))
            tokens.append(found[0] if found[0] in self._ids else found[0].strip())
            start = found.end()
        pieces.append(text[start:].translate(spelled))
        first, *others = self._ids_of(self._plain, pieces)
        token_ids = list(first)
        for token, after in zip(tokens, others, strict=True):
            token_ids += [self._ids[token], *after]
        return token_ids

    @staticmethod
    def _ids_of(tokenizer: "Tokenizer", texts: list[str]) -> list[list[int]]:
        # encode_batch lets go of the interpreter lock, encode does not.
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


def _reason(error: Exception) -> str:
    """Why a template failed, without text that the caller's messages may be part of."""
    from jinja2 import TemplateError  # noqa: PLC0415 - as in `_render`

    if type(error) is TemplateError:  # raised on purpose, for the caller to read
        return f": {error.message}"
    return "." if isinstance(error, TemplateError) else f": it raises {type(error).__name__}."


def _texts_in(value: Any) -> Iterator[str]:
    """All texts in what is JSON, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from _texts_in(list(pair))
    elif isinstance(value, list):
        for one in value:
            yield from _texts_in(one)


def _map_texts(change: Callable[[str], str], value: Any) -> Any:
    """The same JSON with all of its texts changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {change(key): _map_texts(change, one) for key, one in value.items()}
    return [_map_texts(change, one) for one in value] if isinstance(value, list) else value


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """What matches any of them, longer ones first; nothing if there are none."""
    return re.compile("|".join(sorted(patterns, key=len, reverse=True)) or r"(?!)")

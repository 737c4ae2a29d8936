"""A conversation to token ids, by the model's own chat template.

What a message says is text and stays text: where it spells a special token, no such token comes of
it. Special tokens are the template's alone.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from src.errors import InvalidRequestError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

STAND_INS = range(0xF0000, 0xFFFFE)
"""Characters of Unicode's private use, one of which may stand for a special token for a while."""


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation: who speaks, and what."""

    role: str
    content: str


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
        self._source = source
        self._variables = dict(variables)
        self._plain = tokenizer
        self._aware = type(tokenizer).from_str(tokenizer.to_str())
        self._aware.encode_special_tokens = False
        added = tokenizer.get_added_tokens_decoder()
        special = [token for token in added.values() if token.special]
        self._ids = {token.content: token_id for token_id, token in added.items()}
        self._spelled = _any_of(re.escape(one.content) for one in special)
        # As the tokenizer does, a token that asks for it takes the spaces beside it along.
        self._taken = _any_of(
            r"\s*" * one.lstrip + re.escape(one.content) + r"\s*" * one.rstrip for one in special
        )

    def encode(self, messages: list[ChatMessage]) -> list[int]:
        """Returns the token ids of the conversation; the answer's turn has begun.

        Raises:
            InvalidRequestError: the template refuses these messages.
        """
        stand_ins = self._choose_stand_ins(messages)
        if not stand_ins:
            return self._ids_of(self._aware, [self.render(messages)])[0]

        def stand_in(found: re.Match[str]) -> str:
            return stand_ins[found[0]]

        hidden = [
            replace(message, content=self._spelled.sub(stand_in, message.content))
            for message in messages
        ]
        spelled = {ord(character): token for token, character in stand_ins.items()}
        return self._encode_pieces(self.render(hidden), spelled)

    def render(self, messages: list[ChatMessage]) -> str:
        """Returns the conversation as the template writes it, in transformers' sandbox.

        Raises:
            InvalidRequestError: the template refuses these messages.
        """
        # Both take seconds to import, and who only names a ChatMessage shall not wait for them.
        from jinja2 import TemplateError  # noqa: PLC0415
        from transformers.utils.chat_template_utils import render_jinja_template  # noqa: PLC0415

        try:
            # Its type is said to be a text; it is a pair.
            rendered: Any = render_jinja_template(
                conversations=[[asdict(message) for message in messages]],
                chat_template=self._source,
                add_generation_prompt=True,
                **self._variables,
            )
        except TemplateError as error:
            # Its own class is what a template raises on purpose, for the caller to read.
            reason = f": {error.message}" if type(error) is TemplateError else ""
            raise InvalidRequestError(
                f"The model's chat template cannot write these messages{reason or '.'}",
                ("messages",),
            ) from error
        return str(rendered[0][0])

    def _choose_stand_ins(self, messages: list[ChatMessage]) -> dict[str, str]:
        """For each special token that a message spells a character that is in no message."""
        spelled = {
            token for message in messages for token in self._spelled.findall(message.content)
        }
        if not spelled:
            return {}
        taken = set().union(*(message.content for message in messages))
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


def _any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """What matches any of them, longer ones first; nothing if there are none."""
    return re.compile("|".join(sorted(patterns, key=len, reverse=True)) or r"(?!)")

"""`TextCodec`: converts texts and conversations to token ids, and token ids to text.

The tokenizer's batch calls run in worker threads and release the GIL: a megabyte takes a second,
in which the event loop must go on.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from src.errors import FieldPath, InvalidRequestError
from src.text.chat_template import ChatMessage, ChatTemplate, PromptEnd, Scalar
from src.text.token_bytes import TokenBytes

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOO_DEEP = "The description of the tools is nested too deeply."

Prompt = str | list[int]
"""A text, in which the spelling of a special token stays text; or token ids."""


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation to encode.

    Args:
        messages: its turns.
        tools: tools for the template, in OpenAI's format.
        end: end of the prompt.
        variables: values of variables that the template reads.
    """

    messages: list[ChatMessage]
    tools: list[dict[str, Any]] = field(default_factory=list)
    end: PromptEnd = PromptEnd.ANSWER_HEAD
    variables: Mapping[str, Scalar] = field(default_factory=dict)

    def text(self) -> str:
        """Returns all text of the conversation, to measure it: turns, tools and variables.

        Raises:
            InvalidRequestError: calls or tools are nested too deeply.
        """
        contents = [message.content for message in self.messages]
        thoughts = [message.reasoning for message in self.messages if message.reasoning]
        values = [value for value in self.variables.values() if isinstance(value, str)]
        arguments = [call.arguments for message in self.messages for call in message.tool_calls]
        try:
            documents = [
                json.dumps(value, ensure_ascii=False) for value in (*arguments, *self.tools)
            ]
        except RecursionError:
            raise InvalidRequestError(TOO_DEEP, ("tools",)) from None
        return "".join([*contents, *thoughts, *values, *documents])


@dataclass(frozen=True, slots=True)
class TextCodec:
    """A model's tokenizer with its chat template.

    Args:
        tokenizer: the Rust library's; it reads the spelling of a special token as text.
        token_bytes: looks up the bytes of tokens.
        chat_template: None if the model has none.
        class_name: HuggingFace's name of the tokenizer's class.
        special_tokens: texts of the special tokens, by names such as `eos_token`.
    """

    tokenizer: "Tokenizer"
    token_bytes: TokenBytes
    chat_template: ChatTemplate | None = None
    class_name: str = ""
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    async def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Returns the token ids of a text, with or without the special tokens that enclose it."""
        # `encode_batch` releases the GIL, `encode` does not.
        encodings = await asyncio.to_thread(
            self.tokenizer.encode_batch, [text], add_special_tokens=add_special_tokens
        )
        token_ids: list[int] = encodings[0].ids
        return token_ids

    async def encode_chat(
        self, chat: Chat, field: FieldPath, check_text: Callable[[str], None]
    ) -> list[int]:
        """Returns the token ids of a conversation; all the work is done in a thread.

        Args:
            chat: the conversation.
            field: path of the conversation in the request's body.
            check_text: gets all text of the conversation before it is rendered; may raise.

        Raises:
            InvalidRequestError: the model has no chat template, the template refuses the messages,
                or the tools are nested too deeply.
        """
        template = self.require_chat_template(field)

        def render_and_encode() -> list[int]:
            check_text(chat.text())
            try:
                return template.encode(
                    chat.messages,
                    chat.tools,
                    end=chat.end,
                    variables=chat.variables,
                )
            except InvalidRequestError as error:  # the template does not know the field's name
                raise InvalidRequestError(str(error), field) from error
            except RecursionError:
                raise InvalidRequestError(TOO_DEEP, field) from None

        return await asyncio.to_thread(render_and_encode)

    async def decode(self, token_ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Returns the text of token ids; special tokens are left out, or written by their texts."""
        (text,) = await asyncio.to_thread(
            self.tokenizer.decode_batch, [token_ids], skip_special_tokens=skip_special_tokens
        )
        return str(text)

    def decode_token(self, token_id: int) -> str:
        """Decodes a single token; a partial character becomes U+FFFD."""
        return str(self.tokenizer.decode([token_id], skip_special_tokens=False))

    def special_token_id(self, text: str) -> int | None:
        """Returns the id of the special token with exactly this text, if there is one."""
        for token_id, token in self.tokenizer.get_added_tokens_decoder().items():
            if token.special and token.content == text:
                return int(token_id)
        return None

    def require_chat_template(self, field: FieldPath) -> ChatTemplate:
        """Returns the chat template.

        Raises:
            InvalidRequestError: the model has none.
        """
        if self.chat_template is None:
            raise InvalidRequestError(
                "This model has no chat template, so it cannot read messages. Use /v1/completions,"
                " or have the server started with CHAT_TEMPLATE set to a template or its file.",
                field,
            )
        return self.chat_template

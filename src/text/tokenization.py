"""From what a caller sends to token ids, and back: texts, conversations, ids.

The work is done in threads, by calls that let go of the interpreter lock: a megabyte takes a
second.
"""

import asyncio
import json
from typing import TYPE_CHECKING, Any

from src.core.request_validation import RequestLimits, check_size, check_token_ids
from src.errors import FieldPath, InvalidRequestError
from src.text.chat_template import ChatMessage, ChatTemplate

if TYPE_CHECKING:
    from src.engine.model.loader import LoadedModel

TOO_DEEP = "What is said of tools is nested too deep."

Prompt = str | list[int]
"""A plain text, in which what spells a special token stays text; or token ids."""


async def encode(
    loaded: "LoadedModel", prompt: Prompt, field: FieldPath, *, add_special_tokens: bool = True
) -> list[int]:
    """Returns the prompt's token ids.

    Raises:
        InvalidRequestError: the text is too long for any context, or there is no such token.
    """
    if not isinstance(prompt, str):
        check_token_ids(prompt, loaded.vocab_size, field)
        return prompt
    check_size(prompt, loaded, field)
    # encode_batch lets go of the interpreter lock, encode does not.
    encodings = await asyncio.to_thread(
        loaded.tokenizer.encode_batch, [prompt], add_special_tokens=add_special_tokens
    )
    token_ids: list[int] = encodings[0].ids
    return token_ids


async def encode_chat(
    loaded: "LoadedModel",
    messages: list[ChatMessage],
    limits: RequestLimits,
    field: FieldPath = ("messages",),
    tools: list[dict[str, Any]] | None = None,
    *,
    begins_answer: bool = True,
) -> list[int]:
    """Returns the token ids of a conversation; all of it is done in a thread.

    Args:
        loaded: the model.
        messages: the conversation.
        limits: of a prompt.
        field: where it stands in the caller's request, for the error.
        tools: what the model may call, as OpenAI describes tools.
        begins_answer: the answer's turn has begun.

    Raises:
        InvalidRequestError: the model has no chat template, the template refuses the messages, or
            they are too long for any context.
    """
    template = require_chat_template(loaded, field)

    def encode_checked() -> list[int]:
        text = conversation_text(messages, tools)
        limits.check_prompt(text, field)
        check_size(text, loaded, field)
        try:
            return template.encode(messages, tools, begins_answer=begins_answer)
        except InvalidRequestError as error:  # it does not know what the caller calls them
            raise InvalidRequestError(str(error), field) from error
        except RecursionError:
            raise InvalidRequestError(TOO_DEEP, field) from None

    return await asyncio.to_thread(encode_checked)


def conversation_text(messages: list[ChatMessage], tools: list[dict[str, Any]] | None) -> str:
    """All that a caller wrote into a conversation, to know how much it is: texts, calls and tools.

    Raises:
        InvalidRequestError: what is said of tools is nested too deep.
    """
    try:
        calls = [call.arguments for message in messages for call in message.tool_calls]
        told = [json.dumps(one, ensure_ascii=False) for one in (*calls, *(tools or ()))]
    except RecursionError:
        raise InvalidRequestError(TOO_DEEP, ("tools",)) from None
    return "".join([*(message.content for message in messages), *told])


def require_chat_template(loaded: "LoadedModel", field: FieldPath) -> ChatTemplate:
    """Returns how conversations are written for the model.

    Raises:
        InvalidRequestError: nobody has said how.
    """
    if loaded.chat_template is None:
        raise InvalidRequestError(
            "This model has no chat template, so it cannot read messages. Use /v1/completions, or"
            " have the server started with CHAT_TEMPLATE set to a template or its file.",
            field,
        )
    return loaded.chat_template


async def decode(
    loaded: "LoadedModel", token_ids: list[int], field: FieldPath, *, skip_special_tokens: bool
) -> str:
    """Returns the text of token ids; special tokens are left out, or written as they are spelled.

    Raises:
        InvalidRequestError: there is no such token.
    """
    check_token_ids(token_ids, loaded.vocab_size, field)
    (text,) = await asyncio.to_thread(
        loaded.tokenizer.decode_batch, [token_ids], skip_special_tokens=skip_special_tokens
    )
    return str(text)

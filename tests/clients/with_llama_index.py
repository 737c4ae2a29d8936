"""LlamaIndex against the service: conversations, whole, streamed and asynchronous."""

import asyncio
import os

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

SERVER = {"api_base": os.environ["SERVER_URL"] + "/v1", "api_key": "none", "max_retries": 0}
QUESTION = [ChatMessage(role="user", content="What is the capital of Italy?")]
ANSWER = "The capital of Italy is Rome."

model = OpenAILike(
    model="storyteller", is_chat_model=True, temperature=0, context_window=1024, **SERVER
)


async def ask_asynchronously() -> None:
    assert (await model.achat(QUESTION)).message.content == ANSWER
    pieces = [piece async for piece in await model.astream_chat(QUESTION)]
    assert pieces[-1].message.content == "".join(piece.delta for piece in pieces) == ANSWER


answer = model.chat(QUESTION)
assert answer.message.content == ANSWER
assert answer.raw.usage.completion_tokens == 8
assert "".join(piece.delta for piece in model.stream_chat(QUESTION)) == ANSWER
assert model.complete(QUESTION[0].content).text == ANSWER
asyncio.run(ask_asynchronously())

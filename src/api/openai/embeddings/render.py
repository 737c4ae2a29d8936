"""Rendering of embeddings as answers of `/v1/embeddings`."""

import asyncio
import base64
import math
import struct

from src.api.openai.embeddings.schemas import (
    EmbeddingItem,
    EmbeddingList,
    EmbeddingRequest,
    EmbeddingUsage,
)
from src.core.outputs import Embedding


async def render_embeddings(
    body: EmbeddingRequest, embeddings: list[Embedding], model_name: str
) -> bytes:
    """Returns the answer as JSON; lets the event loop run between two embeddings.

    Both formats hold the same 32-bit floats.
    """
    num_tokens = sum(len(embedding.prompt_token_ids) for embedding in embeddings)
    usage = EmbeddingUsage(prompt_tokens=num_tokens, total_tokens=num_tokens)
    empty = EmbeddingList(object="list", data=[], model=model_name, usage=usage)
    items = []
    for index, embedding in enumerate(embeddings):
        items.append(_item(body, index, embedding))
        await asyncio.sleep(0)
    head, tail = empty.model_dump_json().split("[]", 1)
    return f"{head}[{','.join(items)}]{tail}".encode()


def _item(body: EmbeddingRequest, index: int, embedding: Embedding) -> str:
    vector = _cut(embedding.values, body.dimensions)
    layout = f"<{len(vector)}f"
    data = struct.pack(layout, *vector)
    values: list[float] | str = list(struct.unpack(layout, data))
    if body.encoding_format == "base64":
        values = base64.b64encode(data).decode()
    item = EmbeddingItem(object="embedding", index=index, embedding=values)
    return item.model_dump_json()


def _cut(values: list[float], dimensions: int | None) -> list[float]:
    """Returns the first dimensions of a vector, scaled to length 1 again."""
    if dimensions is None or dimensions == len(values):
        return values
    part = values[:dimensions]
    length = math.hypot(*part)
    return [value / length for value in part] if length else part

"""Whole answers as JSON, made in a thread where they are large."""

import asyncio
from collections.abc import Callable

from fastapi import Response
from pydantic import BaseModel

LARGE_ANSWER = 2**16
"""Bytes, about; what has more is made in a thread.

Lists of log-probabilities are generators in the models of answers: pydantic asks for an item when
it writes it. So none of them is in memory as a model, and between two items the thread may give up
the GIL, which one call of C code over the whole list would hold for a second.
"""


async def json_answer(
    make: Callable[[], BaseModel],
    size: int,
    *,
    exclude_unset: bool = False,
    exclude_none: bool = False,
) -> Response:
    """Returns an answer as it goes over the wire.

    Args:
        make: makes it; called in another thread if it is large.
        size: in bytes, about.
        exclude_unset: leave out fields that were not set.
        exclude_none: leave out fields that are None.
    """

    def write() -> bytes:
        text = make().model_dump_json(
            by_alias=True, exclude_unset=exclude_unset, exclude_none=exclude_none
        )
        return text.encode()

    content = write() if size <= LARGE_ANSWER else await asyncio.to_thread(write)
    return Response(content, media_type="application/json")

"""JSON responses; large ones are serialized in a thread."""

import asyncio
from collections.abc import Callable

from fastapi import Response
from pydantic import BaseModel

from src.api.fields.timings import server_timing
from src.core.timings import CallTimings

LARGE_ANSWER = 2**16
"""Approximate size in bytes above which an answer is serialized in a thread.

Wire models hold lists of log-probabilities as generators, so pydantic creates each item when it
serializes it. That saves memory. It also lets the thread release the GIL between items; one call
into C over the whole list would hold the GIL for up to a second.
"""


async def json_answer(
    make: Callable[[], BaseModel],
    size: int,
    *,
    exclude_unset: bool = False,
    exclude_none: bool = False,
    timings: CallTimings | None = None,
) -> Response:
    """Returns an answer as a JSON response.

    Args:
        make: creates the answer; called in a thread if the answer is large.
        size: approximate size in bytes.
        exclude_unset: leave out fields that were not set.
        exclude_none: leave out fields that are None.
        timings: of a generation, for the header Server-Timing.
    """

    def write() -> bytes:
        text = make().model_dump_json(
            by_alias=True, exclude_unset=exclude_unset, exclude_none=exclude_none
        )
        return text.encode()

    content = write() if size <= LARGE_ANSWER else await asyncio.to_thread(write)
    headers = server_timing(timings) if timings is not None else None
    return Response(content, headers=headers, media_type="application/json")

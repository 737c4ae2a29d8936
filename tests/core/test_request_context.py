"""RequestContext: one deadline for all steps of a call."""

import asyncio
import time

import pytest

from src.core.outputs import Operation
from src.core.request_context import RequestContext
from src.errors import GenerationTimeoutError


def test_a_step_is_cancelled_at_the_deadline_of_the_call():
    was_cancelled = False

    async def run() -> None:
        nonlocal was_cancelled
        context = RequestContext(asyncio.get_running_loop().time() + 0.1)
        async with context.time_limit():
            await asyncio.sleep(0.05)
        try:
            async with context.at(("prompts", 1)).time_limit():
                await asyncio.sleep(60)
        except GenerationTimeoutError:
            was_cancelled = True
            raise

    started = time.monotonic()
    with pytest.raises(GenerationTimeoutError, match="TIMEOUT_SECONDS"):
        asyncio.run(run())
    assert was_cancelled
    assert time.monotonic() - started < 30


def test_another_field_keeps_deadline_and_operation():
    context = RequestContext(5.0, ("input",), Operation.CHAT)
    assert context.at(("input", 1)) == RequestContext(5.0, ("input", 1), Operation.CHAT)

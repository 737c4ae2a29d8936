"""OutputDispatcher: routing of outputs to streams, and the outcome of each sequence."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from src.core.output_dispatcher import Outcome, OutputDispatcher, Trim
from src.engine.request import (
    Admission,
    EngineStats,
    EngineUpdate,
    FinishReason,
    Request,
    RequestOutput,
    StepStats,
)
from src.engine.sampling_params import SamplingParams
from src.errors import OverloadedError


class Recorder:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values: self.calls.append((name, *values))

    def of(self, name: str) -> list[tuple[object, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]


class Door:
    """An engine that takes requests, and does nothing with them."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.aborted: list[str] = []
        self.is_full = False

    def add_requests(self, requests: list[Request]) -> None:
        if self.is_full:
            raise OverloadedError("full", 1)
        self.added += [request.request_id for request in requests]

    def abort_request(self, request_id: str) -> None:
        self.aborted.append(request_id)


class House:
    """A delivery between a door and a recorder."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.door = Door()
        self.delivery = OutputDispatcher(self.recorder)

    async def submit(self, *names: str, trim: Trim | None = None) -> asyncio.Queue[RequestOutput]:
        requests = [Request(name, [1, 2, 3], SamplingParams()) for name in names]
        trims = dict.fromkeys(names, trim) if trim else {}
        return await self.delivery.submit(self.door, requests, "chat", trims)

    async def receive(self, *outputs: RequestOutput, step: StepStats | None = None) -> None:
        """Hands an update over as the engine does: in a thread of its own."""
        update = EngineUpdate(list(outputs), EngineStats(1, 2, 3, 0.5), step)
        thread = threading.Thread(target=self.delivery.receive, args=(update,))
        thread.start()
        thread.join()
        await asyncio.sleep(0)  # what it left to the event loop is done now


@pytest.fixture
def house() -> House:
    return House()


FIRST = Admission(queue_seconds=0.25, num_cached_tokens=2)


def output(name: str, reason: FinishReason | None = None, **fields: object) -> RequestOutput:
    return RequestOutput(name, [7], reason, **fields)


def test_outputs_reach_the_queue_of_their_own_call_in_their_order(house):
    async def scenario() -> None:
        first, second = await house.submit("a", "b"), await house.submit("c")
        outputs = [output("c"), output("a"), output("b"), output("a", FinishReason.STOP)]
        await house.receive(*outputs[:2])
        await house.receive(*outputs[2:])
        assert [first.get_nowait() for _ in range(3)] == outputs[1:]
        assert second.get_nowait() == outputs[0]
        assert first.empty()
        assert second.empty()
        assert house.door.added == ["a", "b", "c"]

    asyncio.run(scenario())


def test_what_the_engine_refuses_is_neither_counted_nor_kept(house):
    async def scenario() -> None:
        house.door.is_full = True
        with pytest.raises(OverloadedError):
            await house.submit("a")
        house.delivery.end(house.door, "a", Outcome.CANCELLED)

    asyncio.run(scenario())
    assert house.recorder.calls == []
    assert house.door.aborted == []


def test_an_update_before_any_request_is_dropped(house):
    asyncio.run(house.receive(output("a")))
    assert house.recorder.calls == []


def test_counts_each_token_with_what_is_known_of_it(house):
    async def scenario() -> None:
        await house.submit("a")
        await asyncio.sleep(0.02)
        await house.receive(output("a", admission=FIRST))
        await asyncio.sleep(0.02)
        await house.receive(output("a"))
        await asyncio.sleep(0.04)
        await house.receive(output("a", FinishReason.LENGTH))

    asyncio.run(scenario())
    recorder = house.recorder
    assert recorder.of("sequence_started") == [()]
    assert recorder.of("queue_left") == [("chat", "admitted", 0.25)]
    ((operation, to_first),) = recorder.of("first_token")
    assert operation == "chat"
    assert to_first >= 0.02
    ((operation, for_prompt, *rest),) = recorder.of("prompt_computed")
    assert operation == "chat"
    assert for_prompt == pytest.approx(to_first - 0.25)
    assert rest == [3, 2]
    between = [seconds for (seconds,) in recorder.of("next_token")]
    assert between[0] >= 0.02
    assert between[1] >= 0.04
    ((operation, outcome, seconds, seconds_per_token),) = recorder.of("sequence_ended")
    assert (operation, outcome) == ("chat", "length")
    assert seconds_per_token == pytest.approx(sum(between) / 2)
    assert seconds == pytest.approx(to_first + sum(between))


def test_of_a_single_token_there_is_no_time_between_tokens(house):
    async def scenario() -> None:
        await house.submit("a")
        await house.receive(output("a", FinishReason.STOP, admission=FIRST))

    asyncio.run(scenario())
    ((_, outcome, _, seconds_per_token),) = house.recorder.of("sequence_ended")
    assert (outcome, seconds_per_token) == ("stop", None)


def test_an_embedding_is_counted_with_its_prompt(house):
    async def scenario() -> None:
        request = Request("a", [1, 2], SamplingParams(), embeds=True)
        await house.delivery.submit(house.door, [request], "embeddings")
        await house.receive(
            RequestOutput("a", [], FinishReason.EMBEDDED, admission=FIRST, embedding=[1.0])
        )

    asyncio.run(scenario())
    assert house.recorder.of("queue_left") == [("embeddings", "admitted", 0.25)]
    ((operation, _, *counts),) = house.recorder.of("prompt_computed")
    assert (operation, counts) == ("embeddings", [2, 2])
    ((operation, outcome, _, seconds_per_token),) = house.recorder.of("sequence_ended")
    assert (operation, outcome, seconds_per_token) == ("embeddings", "embedded", None)
    assert house.recorder.of("first_token") == []


@pytest.mark.parametrize(
    "outcome", [Outcome.CANCELLED, Outcome.TIMEOUT, Outcome.EXPIRED, Outcome.DISPLACED]
)
def test_who_leaves_the_queue_without_a_turn_was_in_it_all_the_time(house, outcome):
    async def scenario() -> None:
        await house.submit("a")
        await asyncio.sleep(0.02)
        if outcome in (Outcome.EXPIRED, Outcome.DISPLACED):
            await house.receive(RequestOutput("a", [], FinishReason(outcome)))
        else:
            house.delivery.end(house.door, "a", outcome)
            await house.receive(RequestOutput("a", [], FinishReason.ABORT))

    asyncio.run(scenario())
    ((operation, why, seconds),) = house.recorder.of("queue_left")
    assert (operation, why) == ("chat", outcome)
    assert seconds >= 0.02
    assert house.recorder.of("prompt_computed") == []


def test_who_leaves_before_the_first_token_was_in_the_queue_until_its_turn(house):
    async def scenario() -> None:
        await house.submit("a")
        house.delivery.end(house.door, "a", Outcome.CANCELLED)
        await house.receive(RequestOutput("a", [], FinishReason.ABORT, admission=FIRST))

    asyncio.run(scenario())
    assert house.recorder.of("queue_left") == [("chat", "admitted", 0.25)]
    assert house.recorder.of("prompt_computed") == []


@pytest.mark.parametrize("reason", [FinishReason.ABORT, FinishReason.ERROR])
def test_when_the_engine_ends_nobody_is_taken_for_one_who_waited(house, reason):
    async def scenario() -> None:
        await house.submit("a")
        await house.receive(RequestOutput("a", [], reason))

    asyncio.run(scenario())
    assert house.recorder.of("queue_left") == []


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        (FinishReason.STOP, "stop"),
        (FinishReason.LENGTH, "length"),
        (FinishReason.ABORT, "shutdown"),
        (FinishReason.EXPIRED, "expired"),
        (FinishReason.DISPLACED, "displaced"),
        (FinishReason.ERROR, "error"),
    ],
)
def test_an_end_of_the_engines_counts_as_what_it_was(house, reason, outcome):
    async def scenario() -> None:
        await house.submit("a")
        await house.receive(RequestOutput("a", [], reason))

    asyncio.run(scenario())
    assert [call[1] for call in house.recorder.of("sequence_ended")] == [outcome]


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.TIMEOUT, Outcome.STOP])
def test_who_ends_a_sequence_here_says_why_and_the_first_reason_counts(house, outcome):
    async def scenario() -> None:
        await house.submit("a")
        house.delivery.end(house.door, "a", outcome)
        house.delivery.end(house.door, "a", Outcome.ERROR)
        assert house.recorder.of("sequence_ended") == []  # it is over when the engine says so
        await house.receive(RequestOutput("a", [], FinishReason.ABORT))
        house.delivery.end(house.door, "a", Outcome.ERROR)

    asyncio.run(scenario())
    assert [call[1] for call in house.recorder.of("sequence_ended")] == [outcome]
    assert house.door.aborted == ["a", "a"]


def test_what_comes_after_the_end_is_dropped(house):
    async def scenario() -> None:
        outputs = await house.submit("a")
        await house.receive(output("a", FinishReason.STOP, admission=FIRST), output("a"))
        await house.receive(output("a", FinishReason.ERROR))
        assert outputs.qsize() == 1

    asyncio.run(scenario())
    assert len(house.recorder.of("sequence_ended")) == 1
    assert house.recorder.of("next_token") == []


def test_hands_on_how_the_engine_is_and_what_a_step_did(house):
    async def scenario() -> None:
        await house.submit("a")
        await house.receive(step=StepStats(3, 17, 0.125))
        await house.receive()

    asyncio.run(scenario())
    assert house.recorder.of("engine_changed") == [(1, 2, 3, 0.5)] * 2
    assert house.recorder.of("step_done") == [(3, 17, 0.125)]


def test_serves_the_next_event_loop_when_one_has_ended(house):
    asyncio.run(submit_and_leave(house))
    update = EngineUpdate([output("left behind")], EngineStats())
    house.delivery.receive(update)  # nobody is there to read it, and nothing is raised

    async def scenario() -> None:
        outputs = await house.submit("b")
        await house.receive(output("b"))
        assert outputs.get_nowait().request_id == "b"

    asyncio.run(scenario())


async def submit_and_leave(house: House) -> None:
    await house.submit("left behind")


def test_without_an_observer_nothing_is_counted_and_all_is_delivered():
    house = House()
    house.delivery = OutputDispatcher(None)

    async def scenario() -> None:
        outputs = await house.submit("a")
        await house.receive(
            output("a", FinishReason.STOP, admission=FIRST), step=StepStats(1, 1, 0.1)
        )
        assert outputs.get_nowait().finish_reason is FinishReason.STOP

    asyncio.run(scenario())


def stop_after_2(output: RequestOutput) -> RequestOutput:
    if 2 not in output.new_token_ids:
        return output
    kept = output.new_token_ids[: output.new_token_ids.index(2) + 1]
    return replace(output, new_token_ids=kept, finish_reason=FinishReason.STOP)


def test_tokens_that_a_trim_leaves_out_are_not_counted(house):
    async def use() -> asyncio.Queue:
        outputs = await house.submit("a", trim=stop_after_2)
        await house.receive(RequestOutput("a", [1], admission=FIRST))
        await house.receive(RequestOutput("a", [2, 3]))
        assert house.door.aborted == ["a"]
        await house.receive(RequestOutput("a", [4]))  # a step that ran by then
        await house.receive(RequestOutput("a", [], FinishReason.ABORT))
        return outputs

    outputs = asyncio.run(use())
    received = [outputs.get_nowait() for _ in range(4)]
    assert [one.new_token_ids for one in received] == [[1], [2], [], []]
    assert received[1].finish_reason is FinishReason.STOP
    assert len(house.recorder.of("first_token") + house.recorder.of("next_token")) == 2
    assert house.recorder.of("sequence_ended")[0][1] == Outcome.STOP


def test_a_trim_that_raises_fails_its_own_sequence_alone(house):
    def fail(output: RequestOutput) -> RequestOutput:
        raise ValueError(output)

    async def use() -> list[RequestOutput]:
        broken, sound = await house.submit("a", trim=fail), await house.submit("b")
        await house.receive(RequestOutput("a", [1]), RequestOutput("b", [2]))
        return [broken.get_nowait(), sound.get_nowait()]

    broken, sound = asyncio.run(use())
    assert (broken.new_token_ids, broken.finish_reason) == ([], FinishReason.ERROR)
    assert (sound.new_token_ids, sound.finish_reason) == ([2], None)
    assert house.door.aborted == ["a"]

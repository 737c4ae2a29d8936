"""OutputDispatcher: routing of outputs to calls, and the observed times and outcomes."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest

from src.core.observers import Outcome, SequenceStats
from src.core.output_dispatcher import OutputDispatcher, Trim
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
    """An observer that records its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values: self.calls.append((name, *values))

    def of(self, name: str) -> list[tuple[object, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    @property
    def ended(self) -> list[SequenceStats]:
        return [sequence for (sequence,) in self.of("sequence_ended")]


class StubEngine:
    """An engine that admits requests and computes nothing."""

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


class Bench:
    """A dispatcher between a stub engine and a recorder."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.engine = StubEngine()
        self.dispatcher = OutputDispatcher(self.recorder)

    async def submit(self, *names: str, trim: Trim | None = None) -> asyncio.Queue[RequestOutput]:
        requests = [Request(name, [1, 2, 3], SamplingParams()) for name in names]
        trims = dict.fromkeys(names, trim) if trim else {}
        return await self.dispatcher.submit(self.engine, requests, "chat", trims)

    async def receive(self, *outputs: RequestOutput, step: StepStats | None = None) -> None:
        """Hands an update over as the engine does: in another thread."""
        update = EngineUpdate(list(outputs), EngineStats(1, 2, 3, 0.5), step)
        thread = threading.Thread(target=self.dispatcher.receive, args=(update,))
        thread.start()
        thread.join()
        await asyncio.sleep(0)  # runs what the thread has scheduled in the event loop


@pytest.fixture
def bench() -> Bench:
    return Bench()


FIRST = Admission(queue_seconds=0.25, num_cached_tokens=2)


def output(name: str, reason: FinishReason | None = None, **fields: object) -> RequestOutput:
    return RequestOutput(name, [7], reason, **fields)


def test_outputs_reach_the_queue_of_their_call_in_order(bench):
    async def scenario() -> None:
        first, second = await bench.submit("a", "b"), await bench.submit("c")
        outputs = [output("c"), output("a"), output("b"), output("a", FinishReason.STOP)]
        await bench.receive(*outputs[:2])
        await bench.receive(*outputs[2:])
        assert [first.get_nowait() for _ in range(3)] == outputs[1:]
        assert second.get_nowait() == outputs[0]
        assert first.empty()
        assert second.empty()
        assert bench.engine.added == ["a", "b", "c"]

    asyncio.run(scenario())


def test_refused_requests_are_neither_counted_nor_kept(bench):
    async def scenario() -> None:
        bench.engine.is_full = True
        with pytest.raises(OverloadedError):
            await bench.submit("a")
        bench.dispatcher.end(bench.engine, "a", Outcome.CANCELLED)

    asyncio.run(scenario())
    assert bench.recorder.calls == []
    assert bench.engine.aborted == []


def test_an_update_before_any_request_is_dropped(bench):
    asyncio.run(bench.receive(output("a")))
    assert bench.recorder.calls == []


def test_times_of_queue_prefill_and_tokens_are_observed(bench):
    async def scenario() -> None:
        await bench.submit("a")
        await asyncio.sleep(0.02)
        await bench.receive(output("a", admission=FIRST))
        await asyncio.sleep(0.02)
        await bench.receive(output("a"))
        await asyncio.sleep(0.04)
        await bench.receive(output("a", FinishReason.LENGTH))

    asyncio.run(scenario())
    recorder = bench.recorder
    assert recorder.of("sequence_started") == [()]
    (stats,) = recorder.ended
    assert recorder.of("sequence_admitted") == recorder.of("first_token") == [(stats,)]
    assert (stats.request_id, stats.operation) == ("a", "chat")
    assert (stats.num_prompt_tokens, stats.num_cached_tokens, stats.num_tokens) == (3, 2, 3)
    assert stats.queue_seconds == pytest.approx(0.25)
    assert stats.time_to_first_token >= 0.02
    ((_, prefill_seconds),) = recorder.of("prompt_computed")
    assert prefill_seconds == pytest.approx(stats.time_to_first_token - 0.25)
    gaps = [seconds for count, seconds in recorder.of("next_tokens") if count == 1]
    assert gaps[0] >= 0.02
    assert gaps[1] >= 0.04
    assert stats.outcome == "length"
    assert stats.time_per_output_token == pytest.approx(sum(gaps) / 2)
    assert stats.seconds == pytest.approx(stats.time_to_first_token + sum(gaps))


def test_tokens_of_one_step_share_its_time(bench):
    async def scenario() -> None:
        await bench.submit("a")
        await bench.receive(output("a", admission=FIRST))
        await asyncio.sleep(0.04)
        await bench.receive(RequestOutput("a", [1, 2, 3, 4]))

    asyncio.run(scenario())
    ((count, seconds),) = bench.recorder.of("next_tokens")
    assert count == 4
    assert 0.01 <= seconds < 0.04


def test_a_single_token_has_no_time_per_output_token(bench):
    async def scenario() -> None:
        await bench.submit("a")
        await bench.receive(output("a", FinishReason.STOP, admission=FIRST))

    asyncio.run(scenario())
    (stats,) = bench.recorder.ended
    assert (stats.outcome, stats.time_per_output_token) == ("stop", None)


def test_an_embedding_is_counted_with_its_prompt(bench):
    async def scenario() -> None:
        request = Request("a", [1, 2], SamplingParams(), embeds=True)
        await bench.dispatcher.submit(bench.engine, [request], "embeddings")
        await bench.receive(
            RequestOutput("a", [], FinishReason.EMBEDDED, admission=FIRST, embedding=[1.0])
        )

    asyncio.run(scenario())
    (stats,) = bench.recorder.ended
    assert bench.recorder.of("sequence_admitted") == [(stats,)]
    assert [sequence for sequence, _ in bench.recorder.of("prompt_computed")] == [stats]
    assert (stats.operation, stats.outcome) == ("embeddings", "embedded")
    assert (stats.num_prompt_tokens, stats.num_cached_tokens, stats.num_tokens) == (2, 2, 0)
    assert stats.time_per_output_token is None
    assert bench.recorder.of("first_token") == []


@pytest.mark.parametrize(
    "outcome", [Outcome.CANCELLED, Outcome.TIMEOUT, Outcome.EXPIRED, Outcome.DISPLACED]
)
def test_a_sequence_that_leaves_the_queue_was_in_it_until_its_end(bench, outcome):
    async def scenario() -> None:
        await bench.submit("a")
        await asyncio.sleep(0.02)
        if outcome in (Outcome.EXPIRED, Outcome.DISPLACED):
            await bench.receive(RequestOutput("a", [], FinishReason(outcome)))
        else:
            bench.dispatcher.end(bench.engine, "a", outcome)
            await bench.receive(RequestOutput("a", [], FinishReason.ABORT))

    asyncio.run(scenario())
    (stats,) = bench.recorder.ended
    assert (stats.outcome, stats.admitted_at) == (outcome, None)
    assert stats.queue_seconds == stats.seconds
    assert stats.seconds >= 0.02
    assert bench.recorder.of("sequence_admitted") == bench.recorder.of("prompt_computed") == []


def test_a_sequence_cancelled_after_admission_was_in_the_queue_until_then(bench):
    async def scenario() -> None:
        await bench.submit("a")
        bench.dispatcher.end(bench.engine, "a", Outcome.CANCELLED)
        await bench.receive(RequestOutput("a", [], FinishReason.ABORT, admission=FIRST))

    asyncio.run(scenario())
    (stats,) = bench.recorder.ended
    assert bench.recorder.of("sequence_admitted") == [(stats,)]
    assert stats.queue_seconds == pytest.approx(0.25)
    assert bench.recorder.of("prompt_computed") == []


@pytest.mark.parametrize("reason", [FinishReason.ABORT, FinishReason.ERROR])
def test_the_end_of_the_engine_gives_no_time_in_the_queue(bench, reason):
    async def scenario() -> None:
        await bench.submit("a")
        await bench.receive(RequestOutput("a", [], reason))

    asyncio.run(scenario())
    (stats,) = bench.recorder.ended
    assert stats.queue_seconds is None


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
def test_each_finish_reason_has_its_outcome(bench, reason, outcome):
    async def scenario() -> None:
        await bench.submit("a")
        await bench.receive(RequestOutput("a", [], reason))

    asyncio.run(scenario())
    assert [stats.outcome for stats in bench.recorder.ended] == [outcome]


@pytest.mark.parametrize("outcome", [Outcome.CANCELLED, Outcome.TIMEOUT, Outcome.STOP])
def test_the_first_outcome_of_an_aborted_sequence_counts(bench, outcome):
    async def scenario() -> None:
        await bench.submit("a")
        bench.dispatcher.end(bench.engine, "a", outcome)
        bench.dispatcher.end(bench.engine, "a", Outcome.ERROR)
        assert bench.recorder.ended == []  # the engine's output is the end
        await bench.receive(RequestOutput("a", [], FinishReason.ABORT))
        bench.dispatcher.end(bench.engine, "a", Outcome.ERROR)

    asyncio.run(scenario())
    assert [stats.outcome for stats in bench.recorder.ended] == [outcome]
    assert bench.engine.aborted == ["a", "a"]


def test_outputs_after_the_end_are_dropped(bench):
    async def scenario() -> None:
        outputs = await bench.submit("a")
        await bench.receive(output("a", FinishReason.STOP, admission=FIRST), output("a"))
        await bench.receive(output("a", FinishReason.ERROR))
        assert outputs.qsize() == 1

    asyncio.run(scenario())
    assert len(bench.recorder.ended) == 1
    assert bench.recorder.of("next_tokens") == []


def test_state_of_the_engine_and_steps_are_observed(bench):
    step = StepStats(3, 17, 0.125)

    async def scenario() -> None:
        await bench.submit("a")
        await bench.receive(step=step)
        await bench.receive()

    asyncio.run(scenario())
    stats = EngineStats(1, 2, 3, 0.5)
    assert bench.recorder.of("engine_updated") == [(stats, step), (stats, None)]


def test_the_dispatcher_serves_the_next_event_loop_after_the_end_of_one(bench):
    asyncio.run(submit_and_leave(bench))
    update = EngineUpdate([output("left behind")], EngineStats())
    bench.dispatcher.receive(update)  # no reader is left, and nothing is raised

    async def scenario() -> None:
        outputs = await bench.submit("b")
        await bench.receive(output("b"))
        assert outputs.get_nowait().request_id == "b"

    asyncio.run(scenario())


async def submit_and_leave(bench: Bench) -> None:
    await bench.submit("left behind")


def test_without_an_observer_all_outputs_are_delivered():
    bench = Bench()
    bench.dispatcher = OutputDispatcher(None)

    async def scenario() -> None:
        outputs = await bench.submit("a")
        await bench.receive(
            output("a", FinishReason.STOP, admission=FIRST), step=StepStats(1, 1, 0.1)
        )
        assert outputs.get_nowait().finish_reason is FinishReason.STOP

    asyncio.run(scenario())


def stop_after_2(output: RequestOutput) -> RequestOutput:
    if 2 not in output.new_token_ids:
        return output
    kept = output.new_token_ids[: output.new_token_ids.index(2) + 1]
    return replace(output, new_token_ids=kept, finish_reason=FinishReason.STOP)


def test_tokens_that_a_trim_drops_are_not_counted(bench):
    async def scenario() -> asyncio.Queue:
        outputs = await bench.submit("a", trim=stop_after_2)
        await bench.receive(RequestOutput("a", [1], admission=FIRST))
        await bench.receive(RequestOutput("a", [2, 3]))
        assert bench.engine.aborted == ["a"]
        await bench.receive(RequestOutput("a", [4]))  # of a step in progress
        await bench.receive(RequestOutput("a", [], FinishReason.ABORT))
        return outputs

    outputs = asyncio.run(scenario())
    received = [outputs.get_nowait() for _ in range(4)]
    assert [received_output.new_token_ids for received_output in received] == [[1], [2], [], []]
    assert received[1].finish_reason is FinishReason.STOP
    (stats,) = bench.recorder.ended
    assert (stats.num_tokens, stats.outcome) == (2, Outcome.STOP)
    assert [count for count, _ in bench.recorder.of("next_tokens")] == [1]


def test_a_trim_that_raises_fails_its_own_sequence_alone(bench):
    def fail(output: RequestOutput) -> RequestOutput:
        raise ValueError(output)

    async def scenario() -> list[RequestOutput]:
        broken, sound = await bench.submit("a", trim=fail), await bench.submit("b")
        await bench.receive(RequestOutput("a", [1]), RequestOutput("b", [2]))
        return [broken.get_nowait(), sound.get_nowait()]

    broken, sound = asyncio.run(scenario())
    assert (broken.new_token_ids, broken.finish_reason) == ([], FinishReason.ERROR)
    assert (sound.new_token_ids, sound.finish_reason) == ([2], None)
    assert bench.engine.aborted == ["a"]


def test_a_fault_of_an_observer_keeps_no_output_back(bench, caplog):
    counted: list[str] = []

    class Faulty:
        def sequence_ended(self, sequence: SequenceStats) -> None:
            raise RuntimeError("made to fail")

    class Meter:
        async def reserve(self, *_: int) -> None: ...

        def sequence_ended(self, sequence: SequenceStats) -> None:
            counted.append(sequence.request_id)

    bench.dispatcher = OutputDispatcher(bench.recorder, Faulty(), Meter())

    async def scenario() -> None:
        outputs = await bench.submit("a", "b")
        expected = [output("a", FinishReason.STOP), output("b")]
        await bench.receive(*expected)
        assert [outputs.get_nowait() for _ in range(2)] == expected

    asyncio.run(scenario())
    assert counted == ["a"]
    assert "recording of a sequence failed" in caplog.text

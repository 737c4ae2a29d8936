"""An exception in work for one request fails that request alone, and leaves nothing over."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from src.engine.admission import AdmissionController
from src.engine.core import EngineCore
from src.engine.isolation import attempt
from src.engine.loop import EngineLoop
from src.engine.request import FinishReason, Request
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling import scheduler as scheduler_module
from src.engine.scheduling.blocks import Block, BlockPool
from src.engine.scheduling.sequence import Sequence
from tests.engine.test_core import SMALL_BLOCK_SIZE, create_small_core, create_token_ids, run
from tests.support.engines import Answer, Harness, SteppedCore

pytestmark = pytest.mark.usefixtures("one_thread")

SHARED = create_token_ids(1, 40)
PARAMS = SamplingParams(max_tokens=6, temperature=0)


class PanicException(BaseException):
    """Has the class name of panics in libraries written in Rust."""


FAULTS = [RuntimeError("made to fail"), MemoryError(), PanicException("made to panic")]


class BadGrammar:
    """A grammar that raises when a matcher is created."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def start(self, end_token_ids: frozenset[int]) -> object:
        raise self._error


def create_requests() -> list[Request]:
    """Creates three requests without shared prefixes."""
    return [Request(name, create_token_ids(number, 9), PARAMS) for number, name in enumerate("abc")]


@pytest.fixture
def core(tiny_model) -> EngineCore:
    return create_small_core(tiny_model("llama"), max_num_seqs=4, budget=60)


def break_for(core: EngineCore, owner: object, name: str, culprit: str, error: BaseException):
    """Makes a method raise when it is called for the culprit's sequence."""
    real = getattr(owner, name)

    def raise_for_culprit(*arguments: object) -> object:
        if any(is_of(argument, culprit) for argument in arguments):
            raise error
        return real(*arguments)

    setattr(owner, name, raise_for_culprit)


def is_of(argument: object, culprit: str) -> bool:
    argument = getattr(argument, "sequence", argument)
    return isinstance(argument, Sequence) and argument.request.request_id == culprit


def finish_and_compare(
    stepped: SteppedCore, fresh: EngineCore, requests: list[Request], failed: set[str]
) -> dict[str, Answer]:
    """Checks that other requests get the same tokens as alone, and that nothing is left over."""
    answers = stepped.finish()
    for request in requests:
        answer = answers[request.request_id]
        if request.request_id in failed:
            assert answer.reason is FinishReason.ERROR
        else:
            assert answer.token_ids == run(fresh, [request])[request.request_id]
    scheduler = stepped.core._scheduler
    assert scheduler.num_running == scheduler.num_waiting == 0
    pool = scheduler._cache._pool
    assert pool.num_free == pool.num_blocks
    assert not scheduler._cache._computing
    assert not scheduler._waiting._foreground._queues
    assert not scheduler._waiting._background._queues
    assert not scheduler._failed
    return answers


@pytest.mark.parametrize("error", FAULTS, ids=repr)
@pytest.mark.parametrize("name", ["_add", "_admit", "_part", "_record", "_remove"])
def test_work_that_raises_for_a_request_fails_it_alone(core, tiny_model, name, error):
    break_for(core, core._scheduler, name, "b", error)
    fail_alone(core, tiny_model)


@pytest.mark.parametrize("error", FAULTS, ids=repr)
@pytest.mark.parametrize(("owner", "name"), [(Sequence, "draft"), (scheduler_module, "record")])
def test_work_of_other_modules_that_raises_for_a_request_fails_it_alone(
    core, tiny_model, monkeypatch, owner, name, error
):
    monkeypatch.setattr(owner, name, getattr(owner, name))  # restored afterwards
    break_for(core, owner, name, "b", error)
    fail_alone(core, tiny_model)


def fail_alone(core: EngineCore, tiny_model) -> None:
    """Runs three requests, of which `b` fails, and one more."""
    stepped = SteppedCore(core, may_fail=True)
    requests = create_requests()
    stepped.add(*requests)
    fresh = create_small_core(tiny_model("llama"))
    finish_and_compare(stepped, fresh, requests, {"b"})
    again = replace(requests[0], request_id="again")
    stepped.add(again)
    finish_and_compare(stepped, fresh, [again], set())


@pytest.mark.parametrize("error", FAULTS, ids=repr)
@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_an_abort_that_raises_fails_its_request_alone(core, tiny_model, error, num_steps):
    break_for(core, core._scheduler, "finish", "b", error)
    stepped = SteppedCore(core, may_fail=True)
    requests = create_requests()
    stepped.add(*requests)
    for _ in range(num_steps):
        stepped.step()
    stepped.abort("b")
    assert stepped.answers["b"].reason is FinishReason.ERROR
    finish_and_compare(stepped, create_small_core(tiny_model("llama")), requests, {"b"})


def test_an_end_in_the_queue_that_raises_fails_its_request_alone(core, tiny_model):
    core._scheduler._max_queue_seconds = 60
    break_for(core, core._scheduler, "finish", "b", RuntimeError("made to fail"))
    stepped = SteppedCore(core, may_fail=True)
    requests = create_requests()
    requests[1] = replace(requests[1], arrived_at=requests[1].arrived_at - 61)
    stepped.add(*requests)
    finish_and_compare(stepped, create_small_core(tiny_model("llama")), requests, {"b"})


def test_blocks_that_cannot_be_released_fail_their_request_alone(core, tiny_model):
    scheduler = core._scheduler
    real = scheduler._cache._pool.release

    def release(blocks: list[Block]) -> None:
        if blocks == owned[0]:
            owned[0] = []
            raise RuntimeError("made to fail")
        real(blocks)

    stepped = SteppedCore(core, may_fail=True)
    requests = create_requests()
    stepped.add(*requests)
    stepped.step()
    owned = [one.blocks for one in scheduler._running if one.request.request_id == "b"]
    scheduler._cache._pool.release = release
    finish_and_compare(stepped, create_small_core(tiny_model("llama")), requests, {"b"})


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_a_matcher_that_cannot_be_created_fails_its_request_alone(core, tiny_model, error):
    stepped = SteppedCore(core, may_fail=True)
    requests = create_requests()
    requests[1] = replace(requests[1], grammar=BadGrammar(error))
    stepped.add(*requests)
    assert stepped.answers["b"].reason is FinishReason.ERROR
    finish_and_compare(stepped, create_small_core(tiny_model("llama")), requests, {"b"})


@pytest.mark.parametrize("error", FAULTS, ids=repr)
@pytest.mark.parametrize("name", ["prepare", "allocate", "grow", "register"])
def test_a_cache_that_raises_for_a_request_fails_it_alone(core, tiny_model, name, error):
    break_for(core, core._scheduler._cache, name, "b", error)
    fail_alone(core, tiny_model)


@pytest.mark.parametrize("error", FAULTS, ids=repr)
def test_a_leader_that_fails_leaves_its_followers_their_answers(core, tiny_model, error):
    stepped = SteppedCore(core, may_fail=True)
    requests = [Request(name, [*SHARED, number], PARAMS) for number, name in enumerate("bac", 2)]
    stepped.add(*requests)
    break_for(core, core._scheduler, "_record", "b", error)
    finish_and_compare(stepped, create_small_core(tiny_model("llama")), requests, {"b"})
    assert stepped.followers == {"a", "c"}


def test_blocks_that_cannot_be_cleared_fail_the_request_that_gets_them(core, tiny_model):
    core._scheduler._cache._pool = pool = BlockPool(32, SMALL_BLOCK_SIZE)
    cache = core._runner._cache
    real, num_calls = cache.clear, 0

    def fail_once(blocks: list[Block]) -> None:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 1:
            raise RuntimeError("made to fail")
        real(blocks)

    cache.clear = fail_once
    break_for(core, core._scheduler, "_record", "b", RuntimeError("made to fail"))
    stepped = SteppedCore(core, may_fail=True)
    fresh = create_small_core(tiny_model("llama"))
    bad = Request("b", create_token_ids(1, 9), PARAMS)
    stepped.add(bad)
    finish_and_compare(stepped, fresh, [bad], {"b"})
    later = [Request(f"later {number}", [number + 2] * 5, PARAMS) for number in range(20)]
    stepped.add(*later)
    answers = stepped.finish()
    failed = {one.request_id for one in later if answers[one.request_id].reason == "error"}
    assert len(failed) == 1
    assert num_calls > 1  # the blocks were cleared for the next that got them
    finish_and_compare(stepped, fresh, later, failed)
    assert not any(block.is_dirty for block in pool._free.values())


def test_a_preemption_that_raises_fails_its_victim_alone(core, tiny_model):
    break_for(core, core._scheduler, "_give_back", "flood 3", RuntimeError("made to fail"))
    stepped = SteppedCore(core, may_fail=True)
    flood = [
        Request(f"flood {number}", [number + 2] * 5, PARAMS, tenant="flood") for number in range(5)
    ]
    stepped.add(*flood)
    stepped.step()
    calm = Request("calm", [77] * 5, PARAMS, tenant="calm")
    stepped.add(calm)
    fresh = create_small_core(tiny_model("llama"))
    finish_and_compare(stepped, fresh, [*flood, calm], {"flood 3"})


def test_the_engine_goes_on_after_a_matcher_that_could_not_be_created(core):
    harness = Harness(lambda on_update: EngineLoop(core, AdmissionController(100, on_update)))
    requests = create_requests()
    requests[1] = replace(requests[1], grammar=BadGrammar(FAULTS[-1]))
    outputs = harness.add_all(requests)
    reasons = [one.answer().reason for one in outputs]
    assert reasons == [FinishReason.LENGTH, FinishReason.ERROR, FinishReason.LENGTH]
    assert harness.engine.admission.is_open
    assert harness.run(replace(requests[0], request_id="again"))[1] is FinishReason.LENGTH
    harness.close()


def test_exceptions_that_end_the_process_are_not_contained():
    def work(error: BaseException) -> Callable[[], None]:
        def raise_error() -> None:
            raise error

        return raise_error

    calls: list[str] = []
    for error in FAULTS:
        assert attempt(work(error), lambda: calls.append("failed")) is None
    assert calls == ["failed"] * len(FAULTS)
    for fatal in (SystemExit(), KeyboardInterrupt()):
        with pytest.raises(type(fatal)):
            attempt(work(fatal), lambda: calls.append("fatal"))
    assert "fatal" not in calls

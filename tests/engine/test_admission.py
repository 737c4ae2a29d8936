"""AdmissionController: all-or-none admission, and exactly one end per admitted request."""

import threading
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from src.engine.admission import RETRY_SECONDS, AdmissionController
from src.engine.request import EngineStats, EngineUpdate, FinishReason, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.errors import EngineDeadError, OverloadedError


class Told:
    """What an admission hands on."""

    def __init__(self) -> None:
        self.updates: list[EngineUpdate] = []

    def __call__(self, update: EngineUpdate) -> None:
        self.updates.append(update)

    @property
    def outputs(self) -> list[tuple[str, FinishReason | None]]:
        return [
            (output.request_id, output.finish_reason)
            for update in self.updates
            for output in update.outputs
        ]


@pytest.fixture
def told() -> Told:
    return Told()


def create_requests(*names: str) -> list[Request]:
    return [Request(name, [1], SamplingParams()) for name in names]


def create_update(*outputs: tuple[str, FinishReason | None]) -> EngineUpdate:
    return EngineUpdate([RequestOutput(name, [], reason) for name, reason in outputs], STATS)


STATS = EngineStats(num_running=3, num_waiting=2, num_cached=1, kv_usage=0.5)
STOP, ERROR = FinishReason.STOP, FinishReason.ERROR


def test_lets_in_as_many_as_it_holds(told):
    admission = AdmissionController(3, told)
    admission.admit(create_requests("a", "b"))
    admission.admit(create_requests("c"))
    assert admission.num_live == 3
    with pytest.raises(OverloadedError, match="3 sequences run or wait"):
        admission.admit(create_requests("d"))


def test_lets_in_all_or_none(told):
    admission = AdmissionController(3, told)
    admission.admit(create_requests("a", "b"))
    with pytest.raises(OverloadedError):
        admission.admit(create_requests("c", "d"))
    assert admission.num_live == 2
    admission.admit(create_requests("c"))


def test_who_has_ended_makes_room(told):
    admission = AdmissionController(1, told)
    admission.admit(create_requests("a"))
    admission.publish(create_update(("a", None)))
    assert admission.num_live == 1
    admission.publish(create_update(("a", STOP)))
    assert admission.num_live == 0
    admission.admit(create_requests("b"))


def of(tenant: str, num: int, weight: int = 1, first: int = 0) -> list[Request]:
    """Requests of one tenant, of different names."""
    return [
        Request(f"{tenant}{number}", [1], SamplingParams(), tenant=tenant, weight=weight)
        for number in range(first, first + num)
    ]


def test_who_holds_less_than_its_share_is_let_in_though_all_is_full(told):
    admission = AdmissionController(12, told, num_shared_places=8)
    admission.admit(of("flood", 12))
    with pytest.raises(OverloadedError):
        admission.admit(of("flood", 1, first=12))
    with pytest.raises(OverloadedError):
        admission.admit(of("calm", 5))
    admission.admit(of("calm", 4))
    with pytest.raises(OverloadedError):
        admission.admit(of("calm", 1, first=4))
    admission.admit(of("heavy", 4, weight=2))
    with pytest.raises(OverloadedError):
        admission.admit(of("heavy", 1, weight=2, first=4))


def test_who_has_left_takes_no_share(told):
    admission = AdmissionController(12, told, num_shared_places=8)
    admission.admit(of("gone", 2))
    admission.publish(create_update(("gone0", STOP), ("gone1", ERROR)))
    admission.admit(of("flood", 12))
    admission.admit(of("calm", 4))


def test_where_nobody_is_dropped_nobody_is_let_in_when_all_is_full(told):
    admission = AdmissionController(3, told)
    admission.admit(of("flood", 3))
    with pytest.raises(OverloadedError):
        admission.admit(of("calm", 1))


def test_hands_on_what_it_is_given_and_nothing_of_strangers_or_of_the_ended(told):
    admission = AdmissionController(2, told)
    admission.admit(create_requests("a", "b"))
    admission.publish(create_update(("a", None), ("stranger", None), ("b", STOP)))
    admission.publish(create_update(("b", None), ("a", None), ("b", ERROR)))
    assert told.outputs == [("a", None), ("b", STOP), ("a", None)]
    assert [update.stats for update in told.updates] == [STATS, STATS]


def test_a_closed_intake_lets_nobody_in_and_still_tells(told):
    admission = AdmissionController(2, told)
    admission.admit(create_requests("a"))
    admission.close()
    assert not admission.is_open
    with pytest.raises(EngineDeadError):
        admission.admit(create_requests("b"))
    admission.publish(create_update(("a", STOP)))
    assert told.outputs == [("a", STOP)]


def test_end_all_tells_those_inside_and_closes(told):
    admission = AdmissionController(3, told)
    admission.admit(create_requests("a", "b", "c"))
    admission.publish(create_update(("b", STOP)))
    admission.end_all(ERROR)
    assert Counter(told.outputs) == Counter([("b", STOP), ("a", ERROR), ("c", ERROR)])
    assert admission.num_live == 0
    assert not admission.is_open
    admission.end_all(FinishReason.ABORT)
    assert len(told.outputs) == 3


def test_without_a_rate_a_refused_caller_comes_again_soon(told):
    admission = AdmissionController(10, told)
    assert admission.seconds_to_drain() == RETRY_SECONDS[0]
    admission.admit(create_requests(*"abcdefghij"))
    assert admission.seconds_to_drain() == RETRY_SECONDS[0]


def test_a_refused_caller_is_told_how_long_those_inside_take_at_the_rate_of_late(told):
    admission = AdmissionController(40, told)
    admission.admit(create_requests(*map(str, range(40))))
    started = time.monotonic()
    for number in range(10):
        time.sleep(0.06)
        admission.publish(create_update((str(number), STOP)))
    admission.admit(create_requests(*map(str, range(40, 50))))
    with pytest.raises(OverloadedError) as caught:
        admission.admit(create_requests("one more"))
    elapsed = time.monotonic() - started
    # 40 are inside, and ten ended in at least 0.54 s and at most the time that we measured.
    assert 40 * 0.54 / 10 <= caught.value.retry_after <= 40 * elapsed / 10 + 1


def test_a_refused_caller_is_never_told_to_wait_for_more_than_a_minute(told):
    admission = AdmissionController(10_000, told)
    admission.admit(create_requests(*map(str, range(10_000))))
    for number in range(2):
        admission.publish(create_update((str(number), STOP)))
        time.sleep(0.05)
    assert admission.seconds_to_drain() == RETRY_SECONDS[1]


def test_time_without_work_does_not_make_the_rate_slower(told):
    admission = AdmissionController(10, told)
    for _ in range(2):
        admission.admit(create_requests("a"))
        admission.publish(create_update(("a", STOP)))
    time.sleep(1)
    admission.admit(create_requests(*"bcdefghijk"))
    assert admission.seconds_to_drain() == RETRY_SECONDS[0]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("admit"), st.integers(1, 4)),
        st.tuples(
            st.just("publish"),
            st.lists(st.tuples(st.integers(0, 20), st.sampled_from([None, *FinishReason]))),
        ),
        st.tuples(st.just("close"), st.none()),
        st.tuples(st.just("end_all"), st.sampled_from(FinishReason)),
    ),
    max_size=30,
)


@given(OPERATIONS, st.integers(0, 8))
def test_whatever_happens_each_is_told_its_end_once_and_nothing_after(operations, max_live):
    told = Told()
    admission = AdmissionController(max_live, told)
    inside: set[str] = set()
    admitted: list[str] = []
    for operation, argument in operations:
        if operation == "admit":
            names = [str(len(admitted) + offset) for offset in range(argument)]
            if not admission.is_open:
                with pytest.raises(EngineDeadError):
                    admission.admit(create_requests(*names))
            elif len(inside) + argument > max_live:
                with pytest.raises(OverloadedError):
                    admission.admit(create_requests(*names))
            else:
                admission.admit(create_requests(*names))
                admitted += names
                inside |= set(names)
        elif operation == "publish":
            outputs = {str(number): reason for number, reason in argument}
            admission.publish(create_update(*outputs.items()))
            inside -= {name for name, reason in outputs.items() if reason is not None}
        elif operation == "close":
            admission.close()
        else:
            admission.end_all(argument)
            inside.clear()
        assert admission.num_live == len(inside)
    admission.end_all(ERROR)
    for name in admitted:
        reasons = [reason for told_name, reason in told.outputs if told_name == name]
        assert reasons[-1] is not None
        assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert {name for name, _ in told.outputs} == set(admitted)


@pytest.mark.parametrize("_", range(30))
def test_threads_that_come_while_it_ends_are_let_in_and_told_or_refused(told, _):
    admission = AdmissionController(10**6, told)
    admitted: list[str] = []
    start = threading.Barrier(3)

    def come(prefix: str) -> None:
        start.wait()
        for number in range(200):
            try:
                admission.admit(create_requests(f"{prefix}{number}"))
            except EngineDeadError:
                return
            admitted.append(f"{prefix}{number}")

    threads = [threading.Thread(target=come, args=(prefix,)) for prefix in "ab"]
    for thread in threads:
        thread.start()
    start.wait()
    admission.end_all(ERROR)
    for thread in threads:
        thread.join()
    assert Counter(told.outputs) == Counter((name, ERROR) for name in admitted)

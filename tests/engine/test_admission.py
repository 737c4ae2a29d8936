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


class Recorder:
    """Records the updates that a controller publishes."""

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
def recorder() -> Recorder:
    return Recorder()


def create_requests(*names: str) -> list[Request]:
    return [Request(name, [1], SamplingParams()) for name in names]


def create_update(*outputs: tuple[str, FinishReason | None]) -> EngineUpdate:
    return EngineUpdate([RequestOutput(name, [], reason) for name, reason in outputs], STATS)


STATS = EngineStats(num_running=3, num_waiting=2, num_cached_tokens=1, kv_usage=0.5)
STOP, ERROR = FinishReason.STOP, FinishReason.ERROR


def test_admits_up_to_max_live(recorder):
    admission = AdmissionController(3, recorder)
    admission.admit(create_requests("a", "b"))
    admission.admit(create_requests("c"))
    assert admission.num_live == 3
    with pytest.raises(OverloadedError, match="3 sequences run or wait"):
        admission.admit(create_requests("d"))


def test_admits_all_or_none(recorder):
    admission = AdmissionController(3, recorder)
    admission.admit(create_requests("a", "b"))
    with pytest.raises(OverloadedError):
        admission.admit(create_requests("c", "d"))
    assert admission.num_live == 2
    admission.admit(create_requests("c"))


def test_an_ended_request_makes_room(recorder):
    admission = AdmissionController(1, recorder)
    admission.admit(create_requests("a"))
    admission.publish(create_update(("a", None)))
    assert admission.num_live == 1
    admission.publish(create_update(("a", STOP)))
    assert admission.num_live == 0
    admission.admit(create_requests("b"))


def of(tenant: str, num: int, weight: int = 1, first: int = 0) -> list[Request]:
    """Returns requests of one tenant, numbered from `first`."""
    return [
        Request(f"{tenant}{number}", [1], SamplingParams(), tenant=tenant, weight=weight)
        for number in range(first, first + num)
    ]


def test_a_tenant_below_its_share_is_admitted_to_a_full_queue(recorder):
    admission = AdmissionController(12, recorder, num_shared_places=8)
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


def test_a_tenant_without_requests_takes_no_share(recorder):
    admission = AdmissionController(12, recorder, num_shared_places=8)
    admission.admit(of("gone", 2))
    admission.publish(create_update(("gone0", STOP), ("gone1", ERROR)))
    admission.admit(of("flood", 12))
    admission.admit(of("calm", 4))


def test_a_full_queue_without_displacement_admits_no_tenant(recorder):
    admission = AdmissionController(3, recorder)
    admission.admit(of("flood", 3))
    with pytest.raises(OverloadedError):
        admission.admit(of("calm", 1))


def test_publishes_outputs_of_live_requests_only(recorder):
    admission = AdmissionController(2, recorder)
    admission.admit(create_requests("a", "b"))
    admission.publish(create_update(("a", None), ("unknown", None), ("b", STOP)))
    admission.publish(create_update(("b", None), ("a", None), ("b", ERROR)))
    assert recorder.outputs == [("a", None), ("b", STOP), ("a", None)]
    assert [update.stats for update in recorder.updates] == [STATS, STATS]


def test_a_closed_controller_refuses_requests_and_still_publishes(recorder):
    admission = AdmissionController(2, recorder)
    admission.admit(create_requests("a"))
    admission.close()
    assert not admission.is_open
    with pytest.raises(EngineDeadError):
        admission.admit(create_requests("b"))
    admission.publish(create_update(("a", STOP)))
    assert recorder.outputs == [("a", STOP)]


def test_end_all_ends_live_requests_and_closes(recorder):
    admission = AdmissionController(3, recorder)
    admission.admit(create_requests("a", "b", "c"))
    admission.publish(create_update(("b", STOP)))
    admission.end_all(ERROR)
    assert Counter(recorder.outputs) == Counter([("b", STOP), ("a", ERROR), ("c", ERROR)])
    assert admission.num_live == 0
    assert not admission.is_open
    admission.end_all(FinishReason.ABORT)
    assert len(recorder.outputs) == 3


def test_without_a_drain_rate_the_retry_time_is_the_shortest(recorder):
    admission = AdmissionController(10, recorder)
    assert admission.seconds_to_drain() == RETRY_SECONDS[0]
    admission.admit(create_requests(*"abcdefghij"))
    assert admission.seconds_to_drain() == RETRY_SECONDS[0]


def test_the_retry_time_follows_from_the_drain_rate(recorder):
    admission = AdmissionController(40, recorder)
    admission.admit(create_requests(*map(str, range(40))))
    started = time.monotonic()
    for number in range(10):
        time.sleep(0.06)
        admission.publish(create_update((str(number), STOP)))
    admission.admit(create_requests(*map(str, range(40, 50))))
    with pytest.raises(OverloadedError) as caught:
        admission.admit(create_requests("one more"))
    elapsed = time.monotonic() - started
    # 40 are live, and ten ended in at least 0.54 s and at most the measured time.
    assert 40 * 0.54 / 10 <= caught.value.retry_after <= 40 * elapsed / 10 + 1


def test_the_retry_time_is_at_most_a_minute(recorder):
    admission = AdmissionController(10_000, recorder)
    admission.admit(create_requests(*map(str, range(10_000))))
    for number in range(2):
        admission.publish(create_update((str(number), STOP)))
        time.sleep(0.05)
    assert admission.seconds_to_drain() == RETRY_SECONDS[1]


def test_idle_time_does_not_lower_the_drain_rate(recorder):
    admission = AdmissionController(10, recorder)
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
def test_every_request_ends_exactly_once_and_has_no_output_afterwards(operations, max_live):
    recorder = Recorder()
    admission = AdmissionController(max_live, recorder)
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
        reasons = [reason for told_name, reason in recorder.outputs if told_name == name]
        assert reasons[-1] is not None
        assert reasons[:-1] == [None] * (len(reasons) - 1)
    assert {name for name, _ in recorder.outputs} == set(admitted)


@pytest.mark.parametrize("_", range(30))
def test_requests_that_race_with_the_end_are_ended_or_refused(recorder, _):
    admission = AdmissionController(10**6, recorder)
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
    assert Counter(recorder.outputs) == Counter((name, ERROR) for name in admitted)

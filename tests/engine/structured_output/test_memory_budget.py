"""Memory budget of grammar processes."""

from threading import Thread

from src.engine.structured_output.memory_budget import MemoryBudget


def test_only_the_largest_process_is_refused_beyond_the_budget():
    budget = MemoryBudget(100)
    assert budget.take(1, 60)
    assert budget.take(2, 50)
    assert budget.largest == 1
    assert not budget.take(1, 61)
    budget.give_back(1)
    assert budget.num_taken == 50
    assert budget.take(2, 100)


def test_the_budget_is_low_when_another_process_could_exceed_it():
    budget = MemoryBudget(100)
    assert budget.max_process_bytes == 25
    budget.take(1, 75)
    assert not budget.is_low
    budget.take(1, 76)
    assert budget.is_low


def test_a_budget_without_processes_has_no_largest():
    budget = MemoryBudget(100)
    budget.give_back(1)
    assert budget.largest is None


def test_the_garbage_collector_may_end_a_process_while_the_budget_is_read():
    budget = MemoryBudget(100)

    class Collected(dict[int, int]):
        """Numbers with an allocation that lets the collector end another process."""

        def values(self):
            budget.give_back(1)
            return super().values()

    budget._num_bytes = Collected({1: 30, 2: 40})
    thread = Thread(target=lambda: budget.num_taken, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert budget.num_taken == 40

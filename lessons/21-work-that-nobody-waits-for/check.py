"""Check of exercise 21."""

from typing import Any


def check(answer: dict[str, Any]) -> None:
    """Plays workers that are quick, slow and dead."""
    create = answer["LeaseQueue"]
    queue = create(["a", "b"], 10)
    assert queue.claim("one", 0) == "a", "The oldest job comes first."
    assert queue.claim("two", 1) == "b", "A leased job is not given to a second worker."
    assert queue.claim("three", 2) is None, "All jobs are leased: there is none to claim."
    assert queue.finish("one", "a", 3) is True, "Who holds the lease may finish the job."
    assert queue.claim("one", 4) is None, "A job that is done is not given again."
    assert queue.claim("one", 11) == "b", "At second 11 the lease of second 1 has ended."
    assert queue.finish("two", "b", 12) is False, "Another worker has the job by now."
    assert queue.finish("one", "b", 13) is True, "The new holder may finish it."
    assert queue.finish("one", "b", 14) is False, "A job is finished once."
    assert queue.claim("two", 99) is None, "Nothing is left."

    queue = create(["a"], 5)
    assert queue.claim("one", 0) == "a"
    assert queue.finish("one", "a", 6) is False, (
        "The lease ended at second 5. Somebody may claim the job, so its answer is refused."
    )
    assert queue.claim("one", 6) == "a", "The same worker may claim it again."
    assert queue.finish("one", "a", 10) is True, "The second lease holds until second 11."
    assert create([], 5).claim("one", 0) is None, "A queue may be empty."
    assert create(["a"], 5).finish("one", "a", 0) is False, "Nobody has claimed this job."

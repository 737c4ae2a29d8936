"""Exercise 21: a queue with leases."""


class LeaseQueue:
    """A queue that gives each job to one worker at a time, and loses none.

    - A worker claims the oldest job that is neither done nor leased. It has it for `seconds`.
    - When a lease has ended, the next claim may give the job to another worker.
    - Only the worker that holds a job's lease may finish it: the answer of a worker that was too
      slow is refused, as another one has the job by then.

    Args:
        jobs: names, in order.
        seconds: length of a lease.
    """

    def __init__(self, jobs: list[str], seconds: float) -> None:
        self.jobs = jobs
        self.seconds = seconds

    def claim(self, worker: str, now: float) -> str | None:
        """Returns a job for a worker, or None if there is none at this time."""
        raise NotImplementedError

    def finish(self, worker: str, job: str, now: float) -> bool:
        """Records that a job is done; returns False if the worker does not hold its lease."""
        raise NotImplementedError

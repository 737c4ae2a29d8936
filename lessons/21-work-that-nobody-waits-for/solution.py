"""An answer to exercise 21."""


class LeaseQueue:
    """A queue that gives each job to one worker at a time, and loses none."""

    def __init__(self, jobs: list[str], seconds: float) -> None:
        self.open = list(jobs)
        self.seconds = seconds
        self.leases: dict[str, tuple[str, float]] = {}  # job: worker and end

    def claim(self, worker: str, now: float) -> str | None:
        """Returns a job for a worker, or None if there is none at this time."""
        for job in self.open:
            _, end = self.leases.get(job, ("", now))
            if end <= now:
                self.leases[job] = (worker, now + self.seconds)
                return job
        return None

    def finish(self, worker: str, job: str, now: float) -> bool:
        """Records that a job is done; returns False if the worker does not hold its lease."""
        holder, end = self.leases.get(job, ("", now))
        if job not in self.open or holder != worker or end <= now:
            return False
        self.open.remove(job)
        return True

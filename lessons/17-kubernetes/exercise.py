"""Exercise 17: an autoscaler."""


class Autoscaler:
    """Chooses a number of replicas, as Kubernetes' HorizontalPodAutoscaler does.

    Args:
        target: value of the metric that each replica should have.
        smallest: least number of replicas.
        largest: greatest number of replicas.
        memory: seconds over which the largest wish counts, before replicas are taken away.
    """

    def __init__(self, target: float, smallest: int, largest: int, memory: float = 300) -> None:
        self.target = target
        self.smallest = smallest
        self.largest = largest
        self.memory = memory

    def decide(self, now: float, replicas: int, metric: float) -> int:
        """Returns the number of replicas that there should be.

        1. The wish is ceil(replicas * metric / target). If the metric differs from the target by at
           most 10 % of the target, the wish is the present number instead.
        2. The wish is kept between `smallest` and `largest`.
        3. The result is the largest of this wish and of earlier ones that are at most `memory`
           seconds old; but if this wish is above the present number, the result is the wish.

        Args:
            now: time in seconds, later than at the call before.
            replicas: present number.
            metric: mean of the metric over the present replicas.
        """
        raise NotImplementedError

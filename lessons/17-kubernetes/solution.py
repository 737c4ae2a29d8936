"""An answer to exercise 17."""

import math


class Autoscaler:
    """Chooses a number of replicas, as Kubernetes' HorizontalPodAutoscaler does."""

    def __init__(self, target: float, smallest: int, largest: int, memory: float = 300) -> None:
        self.target = target
        self.smallest = smallest
        self.largest = largest
        self.memory = memory
        self.wishes: list[tuple[float, int]] = []

    def decide(self, now: float, replicas: int, metric: float) -> int:
        """Returns the number of replicas that there should be."""
        wish = replicas
        if abs(metric - self.target) > 0.1 * self.target:
            wish = math.ceil(replicas * metric / self.target)
        wish = min(max(wish, self.smallest), self.largest)
        self.wishes = [one for one in self.wishes if now - one[0] <= self.memory]
        self.wishes.append((now, wish))
        if wish > replicas:
            return wish
        return max(one for _, one in self.wishes)

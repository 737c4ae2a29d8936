"""Small additions: held-out pairs, statements and questions.

Contract: a held-out unordered pair occurs in no training document, in neither order.
"""

from random import Random

LARGEST_TESTED = 20
LARGEST = 99
HELD_OUT_SHARE = 0.1

QUESTIONS = (
    "What is {a} + {b}?",
    "What is {a} plus {b}?",
    "How much is {a} + {b}?",
    "How much is {a} plus {b}?",
    "{a} + {b} = ?",
    "{a} + {b}",
    "Add {a} and {b}.",
    "Can you add {a} and {b}?",
    "What do you get if you add {b} to {a}?",
    "Calculate {a} + {b}.",
    "What is the sum of {a} and {b}?",
    "I have {a} apples and get {b} more. How many do I have?",
    "There are {a} birds in a tree and {b} more arrive. How many are there?",
    "Compute {a} plus {b}.",
    "{a} plus {b} is what?",
)
HELD_OUT_QUESTIONS = ("Tell me what {a} + {b} is.", "Work out {a} plus {b}.")


def held_out_pairs() -> tuple[tuple[int, int], ...]:
    """Returns the unordered pairs (a <= b, both at most 20) that only evaluation may use."""
    pairs = [(a, b) for a in range(LARGEST_TESTED + 1) for b in range(a, LARGEST_TESTED + 1)]
    count = round(len(pairs) * HELD_OUT_SHARE)
    return tuple(sorted(Random("held-out pairs").sample(pairs, count)))


HELD_OUT_PAIRS = frozenset(held_out_pairs())


def sample_pair(random: Random) -> tuple[int, int]:
    """Draws two summands that training may see: mostly up to 20, otherwise up to 99."""
    largest = LARGEST_TESTED if random.random() < 0.6 else LARGEST
    while True:
        a, b = random.randint(0, largest), random.randint(0, largest)
        if (min(a, b), max(a, b)) not in HELD_OUT_PAIRS:
            return a, b


def answer_sum(a: int, b: int) -> str:
    """Writes the only form of a sum's answer and statement."""
    return f"{a} + {b} = {a + b}."


def ask_sum(random: Random, a: int, b: int) -> str:
    """Writes a question for a + b in a phrasing that training may use."""
    return random.choice(QUESTIONS).format(a=a, b=b)


def write_sums(random: Random) -> str:
    """Writes a plain document of several sums in a row."""
    return " ".join(answer_sum(*sample_pair(random)) for _ in range(random.randint(4, 10)))

"""Values of tools' parameters and results: places, names, numbers, text.

Contract: `sample_value` draws from lists and from small numbers. A model of this size does not copy
what it has never seen, so every listed value occurs often.
"""

from collections.abc import Callable
from random import Random

from training import facts, words
from training.listing import phrases_of, words_of

Value = str | int

CITIES = phrases_of(
    """Paris|London|Berlin|Rome|Madrid|Lisbon|Dublin|Vienna|Prague|Warsaw|Athens|Oslo|Stockholm
    Helsinki|Copenhagen|Amsterdam|Brussels|Budapest|Moscow|Istanbul|Cairo|Nairobi|Tokyo|Beijing
    Seoul|Bangkok|Mumbai|Sydney|Toronto|New York|San Francisco|Boston|Chicago|Washington|Lima
    Munich|Hamburg|Milan|Barcelona|Zurich"""
)
DEVICES = words_of("light lamp heating radio television fan oven alarm heater printer")
GENRES = words_of("jazz rock pop folk blues soul classical piano opera disco")
CONDITIONS = words_of("sunny rainy cloudy windy foggy snowy clear stormy mild")
STATUSES = words_of("ok done sent saved ready confirmed started")
ERRORS = phrases_of("not found|the service is down|too many requests|timed out")


def sample_value(random: Random, kind: str) -> Value:
    """Draws a value of one of the kinds below, or of those that "=a,b" lists."""
    return random.choice(kind[1:].split(",")) if kind.startswith("=") else _MAKERS[kind](random)


def _listed(values: tuple[str, ...]) -> Callable[[Random], Value]:
    return lambda random: random.choice(values)


def _time(random: Random) -> str:
    return f"{random.randint(0, 23)}:{random.choice(range(0, 60, 5)):02}"


_MAKERS: dict[str, Callable[[Random], Value]] = {
    "city": _listed(CITIES),
    "name": _listed(words.GIRLS + words.BOYS),
    "device": _listed(DEVICES),
    "genre": _listed(GENRES),
    "condition": _listed(CONDITIONS),
    "status": _listed(STATUSES),
    "day": _listed(facts.DAYS),
    "time": _time,
    "number": lambda random: random.randint(0, 99),
    "small": lambda random: random.randint(1, 30),
    "distance": lambda random: random.randint(50, 9999),
}
NUMBERS = {"number", "small", "distance"}  # JSON types of kinds other than "string"

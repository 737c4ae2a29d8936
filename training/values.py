"""Values that requests to tools mention and results of tools hold: places, names, numbers, text.

Contract: `sample_value` draws from what training may use, `held_out=True` from values that no
training document has. Many are invented on the spot, so that they can only be copied.
"""

from collections.abc import Callable
from random import Random

from training import facts, words
from training.listing import phrases_of, words_of

Value = str | int | float | bool

CITIES = phrases_of(
    """London|Berlin|Tokyo|New York|San Francisco|Chicago|Boston|Seattle|Toronto|Sydney|Munich
    Hamburg|Milan|Naples|Barcelona|Lyon|Geneva|Zurich|Rotterdam|Mumbai|Shanghai|Hong Kong|Osaka
    Istanbul|Los Angeles|Miami|Denver|Austin|Dallas|Houston|Philadelphia|Manchester|Glasgow
    San Francisco, CA|Boston, MA|Paris, France|Singapore|Dubai|Melbourne|Sao Paulo|Cape Town"""
)
HELD_OUT_CITIES = phrases_of(
    """Vancouver|Marseille|Seville|Krakow|Leipzig|Kyoto|Nashville|Portland|Bergen|Salzburg
    Porto|Liverpool|Las Vegas|Montreal|Karachi|Antwerp"""
)
COUNTRIES = tuple(name for name in facts.CAPITALS if not name.startswith("the "))
TIMEZONES = phrases_of(
    """Europe/Paris|Europe/London|Europe/Berlin|America/New_York|America/Chicago|Asia/Tokyo
    Asia/Kolkata|Australia/Sydney|UTC|Africa/Cairo|America/Sao_Paulo|Asia/Dubai"""
)
LANGUAGES = words_of(
    """English French German Spanish Italian Portuguese Dutch Polish Greek Turkish Russian Swedish
    Danish Finnish Arabic Hebrew Hindi Japanese Korean Chinese Latin"""
)
CURRENCIES = words_of("USD EUR GBP JPY CHF CAD AUD INR SEK NOK PLN MXN")
SUBJECTS = phrases_of(
    """the weather|electric cars|good restaurants|jazz music|train tickets|the history of tea
    learning Spanish|cheap flights|garden tools|black holes|the best pizza|running shoes
    machine learning|python tutorials|healthy breakfasts|the moon landing|old castles|solar power
    vegetarian recipes|how to bake bread|how bees make honey|climate change|chess openings
    the Olympic games|hotels by the sea|used books|space news|mountain trails|football results"""
)
HELD_OUT_SUBJECTS = phrases_of(
    """quiet beaches|wooden toys|the rings of Saturn|how to mend a bicycle|cold brew coffee
    modern poetry|winter boots|the oldest library|bird songs|rust programming"""
)
MESSAGES = phrases_of(
    """I am on my way|Dinner is ready|See you tomorrow|The meeting starts at nine|Call me back
    Happy birthday to you|Please bring some milk|The train is late|Thank you for your help
    We won the game|I will be late|Good luck today|Do not forget the keys|Lunch at noon
    The report is finished|Can we talk|Have a nice trip|The cat is fine"""
)
HELD_OUT_MESSAGES = phrases_of(
    """The garden looks lovely|I found your umbrella|The shop closes early|Let us meet at six
    My flight was cancelled|The cake is in the oven"""
)
TITLES = words_of("Meeting Dinner Report Holiday Invoice Party Question Update News Plan Lunch")
HELD_OUT_TITLES = words_of("Agenda Picnic Payment Rehearsal")
SYMBOLS = words_of("AAPL MSFT GOOG AMZN TSLA NVDA META IBM ORCL NFLX")
PLAYERS = words_of("light lamp heating radio television fan oven alarm heater speaker printer")
CONDITIONS = words_of("sunny rainy cloudy windy foggy snowy clear stormy mild")
STATUSES = words_of("ok done sent saved open closed ready confirmed booked started running full")
ERRORS = phrases_of(
    """not found|the service is down|too many requests|no such name|permission denied
    the value is too large|it is closed today|timed out"""
)
SYLLABLES = words_of(
    """ba bel bri cor da dan del do dra el fa fen gal gor ha hul in jo ka kel ki lan len lo lu ma
    mer mi mon na nel nor o pa pel per qui ra ren ri ro sa sel shi so ta tan ter ti tor tu ul va
    ven vi wa wen ya za zen zo zu"""
)
HELD_OUT_SYLLABLES = words_of("bo cha der fo gri hel ja kor lim mu ned pol rus sta tem vor wil yon")
LETTERS, DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789"
CONSONANTS = words_of(
    "b c d f g h j k l m n p q r s t v w x y z br ch cl cr ck dr fl fr gr ll mp nd ng nt pl pr sh "
    "sp ss st str sw th tr wh"
)
VOWELS = words_of("a e i o u a e i o u ai au ea ee ie oa oo ou ue y ü é ö")
# Kinds of values whose JSON type is not "string".
NUMBER_TYPES = {"int": "integer", "small": "integer", "number": "number", "bool": "boolean"}


def invent_word(random: Random, held_out: bool = False) -> str:
    """A word that means nothing, of syllables or sometimes of any letters."""
    if not held_out and random.random() < 0.4:
        return spell_word(random)
    syllables = HELD_OUT_SYLLABLES if held_out else SYLLABLES
    return "".join(random.choices(syllables, k=random.randint(2, 3)))


def spell_word(random: Random) -> str:
    """Letters that can mostly be spoken, so that any piece of a word occurs."""
    pairs = random.randint(1, 4)
    word = "".join(random.choice(CONSONANTS) + random.choice(VOWELS) for _ in range(pairs))
    return word + random.choice(("", "", *CONSONANTS))


def sample_value(random: Random, kind: str, held_out: bool = False) -> Value:
    """A value of one of the kinds below, or of those that "=a,b" lists."""
    if kind.startswith("="):
        return random.choice(kind[1:].split(","))
    return _MAKERS[kind](random, held_out)


def _listed(
    known: tuple[str, ...], unseen: tuple[str, ...] = (), invented: float = 0.3
) -> Callable[[Random, bool], str]:
    """A listed value, or one that is invented in a share of the cases."""

    def make(random: Random, held_out: bool) -> str:
        if random.random() < invented or (held_out and not unseen):
            return invent_word(random, held_out).title()
        return random.choice(unseen if held_out else known)

    return make


def _of_list(values: tuple[str, ...]) -> Callable[[Random, bool], str]:
    return lambda random, held_out: random.choice(values)


def _code(random: Random, held_out: bool) -> str:
    letters = "".join(random.choices(LETTERS, k=random.randint(1, 3)))
    return letters + random.choice(("", "-")) + "".join(random.choices(DIGITS, k=3))


def _symbol(random: Random, held_out: bool) -> str:
    if held_out or random.random() < 0.6:
        return "".join(random.choices(LETTERS, k=random.randint(3, 4)))
    return random.choice(SYMBOLS)


def _email(random: Random, held_out: bool) -> str:
    name = invent_word(random, held_out)
    if random.random() < 0.5 and not held_out:
        name = random.choice(words.GIRLS + words.BOYS).lower()
    host = random.choice(("example", "mail", "work", invent_word(random, held_out)))
    return f"{name}@{host}.{random.choice(('com', 'org', 'net'))}"


def _date(random: Random, held_out: bool) -> str:
    year, month, day = random.randint(2023, 2031), random.randint(1, 12), random.randint(1, 28)
    if random.random() < 0.4:
        return f"{facts.MONTHS[month - 1]} {day}"
    return f"{year}-{month:02}-{day:02}"


def _time(random: Random, held_out: bool) -> str:
    return f"{random.randint(0, 23)}:{random.choice(range(0, 60, 5)):02}"


def _thing(random: Random, held_out: bool) -> str:
    """A word or two for a thing; unseen ones are invented."""
    if held_out or random.random() < 0.35:
        return invent_word(random, held_out)
    noun = random.choice(words.NOUNS)
    return f"{random.choice(words.ADJECTIVES)} {noun}" if random.random() < 0.5 else noun


def _subject(random: Random, held_out: bool) -> str:
    if random.random() < 0.4:
        return f"{_thing(random, held_out)} {random.choice(('prices', 'pictures', 'recipes'))}"
    return random.choice(HELD_OUT_SUBJECTS if held_out else SUBJECTS)


def _expression(random: Random, held_out: bool) -> str:
    """Numbers above those whose sums are held out."""
    a, b, c = (random.randint(21, 999) for _ in range(3))
    first, second = random.choices("+-*/", k=2)
    forms = (f"{a} {first} {b}", f"{a} {first} {b} {second} {c}", f"({a} {first} {b}) {second} {c}")
    return random.choice(forms)


def _number(random: Random, held_out: bool) -> Value:
    if random.random() < 0.5:
        return random.randint(0, 500)
    return random.randint(1, 9999) / random.choice((10, 100))


_MAKERS: dict[str, Callable[[Random, bool], Value]] = {
    "city": _listed(CITIES + tuple(facts.CAPITALS.values()), HELD_OUT_CITIES),
    "country": _listed(COUNTRIES),
    "name": _listed(words.GIRLS + words.BOYS),
    "timezone": _of_list(TIMEZONES),
    "language": _of_list(LANGUAGES),
    "currency": _of_list(CURRENCIES),
    "message": _listed(MESSAGES, HELD_OUT_MESSAGES, invented=0),
    "title": _listed(TITLES, HELD_OUT_TITLES, invented=0.2),
    "device": _listed(PLAYERS, invented=0),
    "day": _of_list(facts.DAYS),
    "color": _of_list(words_of("red blue green yellow orange purple black white")),
    "condition": _of_list(CONDITIONS),
    "status": _of_list(STATUSES),
    "code": _code,
    "symbol": _symbol,
    "email": _email,
    "date": _date,
    "time": _time,
    "thing": _thing,
    "subject": _subject,
    "number": _number,
    "expression": _expression,
    "int": lambda random, held_out: random.randint(0, random.choice((20, 100, 1000, 100_000))),
    "small": lambda random, held_out: random.randint(1, 30),
    "bool": lambda random, held_out: random.random() < 0.5,
}

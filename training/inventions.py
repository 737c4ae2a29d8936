"""Tools that nobody has: put together from words, so that names and arguments can only be copied.

Contract: `invent_ability` makes a lookup ("the owner of a ship") or an action ("paint a boat")
with up to three parameters; with `held_out` its nouns and verbs are in no training document as
the names of a tool.
"""

from collections.abc import Sequence
from random import Random

from training import words
from training.abilities import Ability, create_parameter
from training.listing import pairs_of, phrases_of, words_of
from training.slots import with_article
from training.tools import Tool
from training.values import invent_word

ATTRIBUTES = words_of(
    """price owner weight size age height speed status score title author year length width
    depth level rank temperature shape balance code address schedule menu rating
    history version mood taste cost salary volume capacity position location name date time
    duration distance start end limit total average value power strength health energy quality
    material brand model type category language password key link image summary content"""
)
HELD_OUT_ATTRIBUTES = words_of(
    """density altitude deadline pressure birthday nickname discount brightness voltage mileage
    warranty latitude inventory frequency signature fingerprint budget"""
)
GETTERS = words_of("get get get get find fetch show read check lookup query load retrieve")
VERBS = words_of(
    """book order buy sell send create delete open close start stop paint move rename lock print
    repair cancel update add remove upload download share record build clean wash water feed call
    invite hire rent copy hide mark count plant cook ship deliver save block pause archive"""
)
HELD_OUT_VERBS = words_of("polish inspect donate unlock measure publish borrow scan collect fold")
# Kinds of things that tools are about, beside the stories' own nouns.
OBJECTS = words_of(
    """book car house room table ticket file user account order product item task note list team
    player game song movie album photo ship train bus plane planet star country company project
    document page server device sensor package shop hotel museum school student pet garden tree
    recipe drink pizza customer employee ticket event course lesson painting robot"""
)
HELD_OUT_OBJECTS = words_of(
    """submarine volcano bakery elevator festival parcel orchestra bridge glacier
    satellite hospital aquarium tournament locker vehicle"""
)
RESULT_KINDS = pairs_of(
    """value: int; name: name; status: status; result: thing; id: code; date: date; count: small;
    city: city; price: number; color: color; time: time; found: bool; total: int; note: message"""
)
# Parameters: name -> kind, and how a request may word them, beside "with {name} {value}".
PARAMETERS = pairs_of(
    """city: city; country: country; date: date; time: time; day: day; color: color; count: small;
    quantity: small; amount: int; price: number; size: =small,medium,large; name: name;
    person: name; owner: name; email: email; code: code; message: message; language: language;
    urgent: bool; public: bool; speed: =slow,normal,fast; weight: number; number: int;
    category: =new,old,used; label: thing; title: title; mode: =auto,manual,eco; level: small;
    priority: =low,high; limit: small; temperature: small; topic: subject; currency: currency"""
)
WORDINGS = {
    "city": (" in {v}",),
    "country": (" in {v}",),
    "date": (" on {v}",),
    "day": (" on {v}",),
    "time": (" at {v}",),
    "color": (" in {v}",),
    "name": (" named {v}", " called {v}"),
    "person": (" for {v}",),
    "owner": (" of {v}",),
    "email": (" to {v}",),
    "message": (' that says "{v}"',),
    "price": (" for {v} euros",),
    "size": (" in size {v}",),
}
SHARED_WORDINGS = (
    " with {n} {v}", " with the {n} {v}", " with {n} {v}", ", {n} {v}", " and {n} {v}",
    ", {n}: {v}", " where the {n} is {v}",
)  # fmt: skip
LOOKUPS = phrases_of(
    """What is the {a} of {v}?|What is the {a} of the {o} {v}?|Tell me the {a} of {v}.
    I need the {a} of the {o} {v}.|{A} of {v}?|Get the {a} of {v}.|Show me the {a} of {v}.
    Find the {a} of the {o} {v}.|What {a} does {v} have?|What {a} does the {o} {v} have?
    Look up the {a} of {v}.|Can you get the {a} of the {o} {v}?|Check the {a} of {v}, please.
    For the {o} {v}, what is the {a}?|{v}: what is its {a}?|The {a} of the {o} {v}, please.
    Do you know the {a} of {v}?|What's the {a} of {v}?|Give me the {a} for the {o} {v}."""
)
HELD_OUT_LOOKUPS = phrases_of(
    """Please find out the {a} of {v}.|I want to know the {a} of the {o} {v}.
    Which {a} does the {o} {v} have?"""
)
ORDERS = phrases_of(
    """{V} {ao}{p}.|Please {v} {ao}{p}.|{V} the {o}{p}.|Can you {v} {ao}{p}?|I want to {v} {ao}{p}.
    Could you {v} the {o}{p}?|{V} {o}{p}|We need to {v} {ao}{p}.|Go and {v} the {o}{p}.
    I need to {v} {ao}{p}.|Now {v} {ao}{p}, please."""
)
HELD_OUT_ORDERS = phrases_of("It is time to {v} {ao}{p}.|Would you {v} the {o}{p}, please?")


def invent_ability(random: Random, held_out: bool = False, thing: str | None = None) -> Ability:
    """A lookup or an action, about `thing` or any other."""
    thing = thing or invent_object(random, held_out)
    make = _lookup if random.random() < 0.5 else _action
    return make(random, thing, held_out)


def invent_object(random: Random, held_out: bool) -> str:
    """What a tool is about."""
    known = OBJECTS if random.random() < 0.6 else words.NOUNS
    return _choose(random, known, HELD_OUT_OBJECTS, held_out)


def _choose(random: Random, known: Sequence[str], unseen: Sequence[str], held_out: bool) -> str:
    if random.random() < 0.25:
        return invent_word(random, held_out)
    return random.choice(unseen if held_out else known)


def _join(random: Random, *parts: str) -> str:
    """A name in one of the usual styles."""
    draw = random.random()
    if draw < 0.75:
        return "_".join(parts)
    if draw < 0.9:
        return parts[0] + "".join(part.title() for part in parts[1:])
    return "_".join(parts[1:])


def _lookup(random: Random, thing: str, held_out: bool) -> Ability:
    """Something about a thing that is named by one parameter."""
    attribute = _choose(random, ATTRIBUTES, HELD_OUT_ATTRIBUTES, held_out)
    names = (thing, thing, f"{thing}_name", f"{thing}_id", "name", "id")
    kind = random.choice(("name", "thing", "code", "city", "name", "thing"))
    parts = (attribute,) if random.random() < 0.3 else (thing, attribute)
    description = random.choice(("Get the {}.", "Returns the {}.", "The {}", "Find the {}."))
    tool = Tool(
        _join(random, random.choice(GETTERS), *parts),
        description.format(f"{attribute} of {with_article(thing)}"),
        (create_parameter(random, random.choice(names), kind),),
    )
    slots = {"a": attribute, "A": attribute.title(), "o": thing, "v": "{0}"}
    results = {attribute: random.choice(list(RESULT_KINDS.values()))} | _results(random)
    return Ability(
        tool,
        frozenset({attribute}),
        (kind,),
        tuple(request.format(**slots) for request in LOOKUPS),
        tuple(request.format(**slots) for request in HELD_OUT_LOOKUPS),
        f"The {attribute} of {{0}}",
        results,
    )


def _action(random: Random, thing: str, held_out: bool) -> Ability:
    """Something that is done to a thing, with up to three parameters."""
    verb = _choose(random, VERBS, HELD_OUT_VERBS, held_out)
    names = random.sample(list(PARAMETERS), random.choices((0, 1, 2, 3), (1, 4, 5, 4))[0])
    kinds = [PARAMETERS[name] for name in names]
    shown = [invent_word(random, held_out) if random.random() < 0.2 else name for name in names]
    description = random.choice(("{V} {ao}.", "{V}s {ao}.", "{V} the {o}.", "This will {v} {ao}."))
    slots = {"v": verb, "V": verb.title(), "o": thing, "ao": with_article(thing)}
    tool = Tool(
        _join(random, verb, thing),
        description.format(**slots),
        tuple(create_parameter(random, n, kind) for n, kind in zip(shown, kinds, strict=True)),
    )

    def word(requests: Sequence[str]) -> tuple[str, ...]:
        return tuple(
            request.format(**slots, p=_word_parameters(random, names, shown))
            for request in requests
        )

    return Ability(
        tool,
        frozenset({f"{verb} {thing}"}),
        tuple(kinds),
        word(ORDERS),
        word(HELD_OUT_ORDERS),
        "Done",
        _results(random),
    )


def _results(random: Random) -> dict[str, str]:
    keys = random.sample(list(RESULT_KINDS), 3)
    return {
        (invent_word(random) if random.random() < 0.2 else key): RESULT_KINDS[key] for key in keys
    }


def _word_parameters(random: Random, names: Sequence[str], shown: Sequence[str]) -> str:
    """All parameters in any order; one in six is left out where there are several."""
    order = list(range(len(names)))
    random.shuffle(order)
    if len(order) > 1 and random.random() < 0.3:
        order.pop()
    return "".join(_word_parameter(random, names[i], shown[i], i) for i in order)


def _word_parameter(random: Random, name: str, shown: str, index: int) -> str:
    own = WORDINGS.get(name, ()) if name == shown else ()
    wordings = own if own and random.random() < 0.5 else SHARED_WORDINGS
    return random.choice(wordings).format(n=shown, v=f"{{{index}}}")

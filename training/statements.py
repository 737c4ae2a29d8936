"""Plain statements: sentences about the future, about the world and about listed facts.

Contract: `write_statement` returns one short document; the openings of the tutorial's examples
("The future of AI is", "The capital of France is") are among them.
"""

from collections.abc import Sequence
from random import Random

from training import words
from training.families import Fact
from training.listing import phrases_of, words_of
from training.slots import gender_of, with_article
from training.sums import write_sums

TOPICS = phrases_of(
    """AI|artificial intelligence|medicine|farming|space travel|education|music|transport|energy
    work|science|books|cities|robotics|the internet|our planet|computers|language|cinema|trade"""
)
FUTURE_ADJECTIVES = words_of(
    """bright uncertain exciting open quiet surprising shared hopeful practical careful useful
    closer global personal human creative simple honest gradual promising"""
)
FUTURE_CLAUSES = phrases_of(
    """people will decide together how to use it|many small tools will help with daily tasks
    nobody can know exactly what comes next|good ideas travel quickly between countries
    teachers and students will learn side by side|every new invention brings new questions
    engineers are working on safer machines|doctors may find illnesses earlier
    it depends on the choices that we make today|curious people keep asking how things work
    trust has to be earned slowly|machines can do the dull parts of the job
    the best results come from patience|small steps often lead to great changes
    it should serve everyone and not just a few|understanding matters more than speed
    old problems are getting fresh attention|rules and imagination must grow together
    even simple programs can be helpful|mistakes will teach us what to improve"""
)
FUTURE_ROLES = phrases_of(
    """a tool that helps people think|a question of values|something we build together
    full of small surprises|in the hands of those who learn|likely to change how we live
    hard to predict|not written yet|a long road with many turns|about people more than machines
    less noisy and more useful|made of many modest improvements|better when it is shared
    shaped by careful research|worth talking about|safer if we test it well"""
)
MORE = phrases_of(
    """Some changes will be fast, and others will take years.|We should stay curious and careful.
    What matters is how we treat each other.|Nobody has to face it alone.
    Much remains to be discovered.|It helps to learn a little every day.
    That is why open discussion is important.|There will be hard days and happy ones.
    A good plan leaves room for surprises.|Children will ask the best questions."""
)

WORLD = phrases_of(
    """Rain falls when tiny drops of water in the clouds grow heavy.
    The sea is salty because rivers carry minerals into it.
    Bread is made from flour, water, salt and yeast.
    Trees drink water through their roots and catch sunlight with their leaves.
    The Moon shines because it reflects the light of the Sun.
    Ice floats on water because it is lighter than water.
    Bees visit flowers to collect nectar and pollen.
    A rainbow appears when sunlight passes through drops of rain.
    Thunder is the sound that lightning makes.
    In winter the days are short and the nights are long.
    A library is a place where people borrow books.
    Shadows are long in the evening because the Sun is low.
    Iron rusts when it stays wet for a long time.
    Bats sleep during the day and hunt insects at night.
    A year is the time that Earth needs to travel around the Sun.
    Volcanoes are mountains from which melted rock can flow.
    Glass is made by melting sand.
    Paper is made from the fibers of wood.
    Snow is made of small crystals of ice.
    Whales live in the ocean but breathe air.
    Music is sound that is arranged in time.
    A language model predicts which word may come next.
    Practice makes difficult things feel easy.
    A seed needs water, warmth and air to sprout.
    Deserts are dry because little rain falls there.
    Penguins are birds that cannot fly but swim very well.
    Maps show where places are and how to get there.
    The heart pumps blood through the body.
    Wind is air that moves from one place to another.
    Friends listen to each other and tell the truth."""
)
HABITS = phrases_of(
    """Most people drink tea or coffee|The baker lights the oven|The streets are still empty
    Children walk to school|The birds begin to sing|A cat stretches in the sun
    The market opens its stalls|The ferry leaves the harbor|Somebody waters the plants
    The neighbors chat across the fence|An old man feeds the pigeons|The kettle starts to sing
    Shops close their shutters|The lamps are lit one by one|Families sit down to eat"""
)
ADVICE = {
    "learn something new": ("start with a small part", "practice a little every day"),
    "make a friend": ("listen well", "be kind first"),
    "sleep well": ("put the books away early", "keep the room dark and cool"),
    "solve a hard problem": ("write down what you know", "split it into pieces"),
    "cook a good soup": ("let it simmer slowly", "taste it often"),
    "grow tomatoes": ("give them sun and water", "tie them to a stick"),
    "tell a story": ("begin with somebody who wants something", "end it before they yawn"),
    "fix a mistake": ("admit it quickly", "find out why it happened"),
    "write clearly": ("use short sentences", "read the text aloud"),
    "stay healthy": ("walk a lot", "eat plenty of vegetables"),
}


def write_future(random: Random) -> str:
    """Writes "The future of AI is ..." or the same about another topic."""
    topic = "AI" if random.random() < 0.4 else random.choice(TOPICS)
    form = random.randrange(4)
    if form == 0:
        first, second = random.sample(FUTURE_ADJECTIVES, 2)
        ending = f"{first} and {second}, because {random.choice(FUTURE_CLAUSES)}."
    elif form == 1:
        ending = f"{random.choice(FUTURE_ROLES)}, and {random.choice(FUTURE_CLAUSES)}."
    elif form == 2:
        ending = f"{random.choice(FUTURE_ADJECTIVES)}: {random.choice(FUTURE_CLAUSES)}."
    else:
        ending = f"{random.choice(FUTURE_ROLES)}."
    more = random.sample(MORE, random.randint(0, 2))
    return " ".join([f"The future of {topic} is {ending}", *more])


def write_facts(random: Random, facts: Sequence[Fact]) -> str:
    """Writes one to four listed facts in a row, often of one family."""
    chosen = [random.choice(facts)]
    relatives = [fact for fact in facts if fact.family == chosen[0].family]
    while random.random() < 0.5 and len(chosen) < 4:
        chosen.append(random.choice(relatives if random.random() < 0.7 else facts))
    return " ".join(fact.statement for fact in chosen)


def write_world(random: Random) -> str:
    """Writes general statements about the world, daily life or good advice."""
    kind = random.randrange(3)
    if kind == 0:
        return " ".join(random.sample(WORLD, random.randint(1, 3)))
    if kind == 1:
        time = random.choice(words.TIMES)
        first, *others = random.sample(HABITS, random.randint(1, 3))
        return " ".join(
            [f"In the {time}, {first[0].lower()}{first[1:]}.", *(f"{o}." for o in others)]
        )
    aim, (first, second) = random.choice(list(ADVICE.items()))
    return f"The best way to {aim} is to {first} and {second}."


def write_introduction(random: Random) -> str:
    """Writes a greeting and a self-introduction."""
    name, kind = random.choice(words.GIRLS + words.BOYS), random.choice(words.NEUTRAL_KINDS)
    skill, trait = random.choice(list(words.SKILLS)), random.choice(list(words.TRAITS))
    opening = random.choice(("Hello, my name is", "Hi, I am", "My name is"))
    friend = random.choice(words.GIRLS + words.BOYS)
    pronoun = "She" if gender_of(friend) == "f" else "He"
    return (
        f"{opening} {name} and I am {with_article(kind)}. I like to {skill}. "
        f"My best friend is {friend}. {pronoun} is {trait}."
    )


def write_statement(random: Random, facts: Sequence[Fact]) -> str:
    """Writes one plain document that is not a story."""
    draw = random.random()
    if draw < 0.45:
        return write_facts(random, facts)
    if draw < 0.60:
        return write_future(random)
    if draw < 0.85:
        return write_sums(random)
    return write_world(random) if draw < 0.95 else write_introduction(random)

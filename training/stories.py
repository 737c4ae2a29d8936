"""Stories: written by the grammar, requested by topic, and checked by the same grammar.

Contract: `write_story` is deterministic for its `Random`; `check_story` accepts exactly the
grammar's stories.
"""

from functools import cache
from random import Random

from training.grammar import Bindings, Grammar, StoryCheck
from training.plots import PLOTS
from training.slots import create_slots

PLOT_WEIGHTS = {"quest": 4, "loss": 3, "feast": 2, "lesson": 2, "rescue": 3}
PLOTS_WITH_OBJECT = ("quest", "loss", "rescue")


@cache
def story_grammar() -> Grammar:
    """Returns the grammar of all stories; compiled on first use."""
    return Grammar(create_slots(), PLOTS, distinct=(("name", "friend"), ("kind", "fkind")))


def write_story(random: Random, preset: Bindings | None = None) -> str:
    """Writes a story; `preset` fixes slots, such as kind, trait, name, adj or noun."""
    fitting = PLOTS_WITH_OBJECT if preset and "noun" in preset else tuple(PLOTS)
    weights = [PLOT_WEIGHTS[plot] for plot in fitting]
    plot = random.choices(fitting, weights)[0]
    return story_grammar().generate(random, plot, preset)


def check_story(text: str) -> StoryCheck:
    """Checks a story sentence by sentence."""
    return story_grammar().check(text)

"""The training text: a seeded, endless mixture of stories, statements and conversations.

Contract: each leg of a run has a mixture of its own; `render` writes a conversation exactly as the
chat template does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal

from training import words
from training.dialogue import Turn, write_conversation, write_drill, write_json_drill
from training.families import Fact, all_facts
from training.grammar import Bindings
from training.statements import write_statement
from training.stories import write_story
from training.sums import write_sums
from training.tool_talk import write_tool_conversation
from training.tools import write_result

Leg = Literal["everything", "drills", "tools"]

END_OF_TEXT = "<|endoftext|>"
END_OF_TURN = "<|end|>"
ROLE_TOKENS = {role: f"<|{role}|>" for role in ("system", "user", "assistant")}
# Shares of documents; stories are several times longer than others.
STORY_SHARE, STATEMENT_SHARE = 0.30, 0.20
# Second leg: documents that drill the slowest abilities: sums, copying into JSON, and
# names and pronouns that fit the kind of a character.
SUMS_SHARE, DRILL_SHARE, GENDERED_SHARE = 0.30, 0.20, 0.18
# Third leg, beside conversations with tools, which are several times longer: abilities that
# are forgotten first.
TOOLS_SHARE, KNOWN_STORY_SHARE, KNOWN_JSON_SHARE, KNOWN_DRILL_SHARE = 0.28, 0.10, 0.12, 0.28


@dataclass(frozen=True, slots=True)
class Document:
    """A text without its end mark.

    With `speech_only` the loss counts the assistant's turns alone.
    """

    text: str
    speech_only: bool = False


@cache
def training_facts() -> tuple[Fact, ...]:
    """Returns all facts; evaluation holds out phrasings of them, not the facts."""
    return tuple(all_facts())


def render(turns: Sequence[Turn]) -> str:
    """Writes a conversation as text, exactly as the chat template does."""
    return "".join(_render_turn(turn) for turn in turns)


def _render_turn(turn: Turn) -> str:
    """Wraps results of tools in a user's turn, between tags, as there is no token for tools."""
    if turn.role == "tool":
        return _render_turn(Turn("user", write_result(turn.content)))
    return f"{ROLE_TOKENS[turn.role]}{turn.content}{END_OF_TURN}"


def write_document(random: Random, leg: Leg = "everything") -> str:
    """Returns the text of a document."""
    return create_document(random, leg).text


def create_document(random: Random, leg: Leg) -> Document:
    """Writes one training document."""
    if leg == "tools":
        return _create_tools_or_known(random)
    return Document(_write_known(random, with_drills=leg == "drills"))


def _write_known(random: Random, with_drills: bool) -> str:
    """Writes a document of the first two legs."""
    if with_drills and (drill := _write_drill(random)):
        return drill
    draw = random.random()
    if draw < STORY_SHARE:
        return write_story(random)
    if draw < STORY_SHARE + STATEMENT_SHARE:
        return write_statement(random, training_facts())
    return render(write_conversation(random, training_facts()))


def _create_tools_or_known(random: Random) -> Document:
    """Writes a document of the third leg: a new kind, or one that preserves earlier abilities."""
    draw = random.random()
    if draw < TOOLS_SHARE:
        turns = write_tool_conversation(random, training_facts())
        return Document(render(turns), speech_only=True)
    draw -= TOOLS_SHARE
    if draw < KNOWN_STORY_SHARE:
        return Document(write_story(random))
    draw -= KNOWN_STORY_SHARE
    if draw < KNOWN_JSON_SHARE:
        return Document(render(write_json_drill(random, training_facts())))
    return Document(_write_known(random, draw < KNOWN_JSON_SHARE + KNOWN_DRILL_SHARE))


def _write_drill(random: Random) -> str | None:
    """Writes a document of the second leg, or returns None for one of the first leg's kinds."""
    draw = random.random()
    if draw < SUMS_SHARE:
        return write_sums(random)
    if draw < SUMS_SHARE + DRILL_SHARE:
        return render(write_drill(random, training_facts()))
    if draw < SUMS_SHARE + DRILL_SHARE + GENDERED_SHARE:
        return write_story(random, _gendered_characters(random))
    return None


def _gendered_characters(random: Random) -> Bindings:
    """Introduces a hero, a friend or both, of kinds that are female or male."""
    bindings: Bindings = {}
    who = random.choice(("hero", "friend", "both"))
    for character, kind_slot in (("hero", "kind"), ("friend", "fkind")):
        if who in (character, "both"):
            gender = random.choice(("f", "m"))
            kinds = words.FEMALE_KINDS if gender == "f" else words.MALE_KINDS
            kind = random.choice([kind for kind in kinds if kind != bindings.get("kind")])
            bindings |= {kind_slot: kind, f"{character}_gender": gender}
    return bindings

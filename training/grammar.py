"""A story grammar that generates and accepts text.

Contract: a plot is a sequence of beats, a beat a choice of templates with typed slots. Each slot
maps surface forms to the bindings they imply ("She" -> hero_gender=f). Generation binds slots as it
chooses. Acceptance matches the same templates as anchored regexes, and refuses a sentence with
bindings that contradict earlier ones.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from random import Random

Bindings = dict[str, str]
Beat = tuple[str, ...]
Plot = tuple[Beat, ...]

SLOT = re.compile(r"\{(\w+)\}")
SENTENCE_END = re.compile(r'[.!?]"?(?=\s|$)(?! (?:said|asked|cried|called|whispered|answered)\b)')


@dataclass(frozen=True, slots=True)
class Slot:
    """Surface forms with their bindings; `key` is the variable that names one surface."""

    key: str
    surfaces: Mapping[str, Bindings]
    choices: tuple[str, ...]
    by_value: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SentenceCheck:
    """One sentence of a checked story; `is_valid` if the grammar produces it at this place."""

    text: str
    accepted: bool


@dataclass(frozen=True, slots=True)
class StoryCheck:
    """Parse of a story: its sentences in order and the slots that they bind."""

    sentences: tuple[SentenceCheck, ...]
    bindings: Bindings
    complete: bool

    @property
    def accepted(self) -> bool:
        """Tells a complete story of valid sentences."""
        return self.complete


def create_slot(key: str, surfaces: Mapping[str, Bindings]) -> Slot:
    """Creates a slot over `surfaces`; each must bind `key` to a value of its own."""
    by_value = {bindings[key]: surface for surface, bindings in surfaces.items()}
    assert len(by_value) == len(surfaces), key
    return Slot(key, surfaces, tuple(surfaces), by_value)


def split_sentences(text: str) -> list[str]:
    """Splits a story at sentence ends; a quotation and its "said ..." stay one sentence."""
    cuts = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    pieces = (text[start:end].strip() for start, end in pairwise(cuts))
    return [piece for piece in pieces if piece]


class Grammar:
    """Plots over slots. `distinct` lists pairs of variables that may not share a value."""

    def __init__(
        self,
        slots: Mapping[str, Slot],
        plots: Mapping[str, Plot],
        distinct: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.slots = slots
        self.plots = plots
        self.distinct = distinct
        self._patterns = {
            template: re.compile(self._regex(template))
            for plot in plots.values()
            for beat in plot
            for template in beat
            if template
        }

    def generate(self, random: Random, plot: str, preset: Bindings | None = None) -> str:
        """Writes a story of `plot`, with the variables in `preset` already bound."""
        bindings = dict(preset or {})
        lines = (self._fill(random, random.choice(beat), bindings) for beat in self.plots[plot])
        return " ".join(line for line in lines if line)

    def check(self, text: str) -> StoryCheck:
        """Checks `text` by sentences; after an invalid sentence nothing more is accepted."""
        reached, bindings, complete = 0, Bindings(), False
        for plot in self.plots.values():
            for end, found, at_end in self._walk(text, plot, 0, 0, {}):
                if (at_end, end) > (complete, reached):
                    reached, bindings, complete = end, found, at_end
        sentences, position = [], 0
        for sentence in split_sentences(text):
            position = text.index(sentence, position) + len(sentence)
            sentences.append(SentenceCheck(sentence, position <= reached))
        return StoryCheck(tuple(sentences), bindings, complete)

    def _regex(self, template: str) -> str:
        parts: list[str] = []
        for index, piece in enumerate(SLOT.split(template)):
            slot_turn = index % 2 == 1
            parts.append(f"({_alternation(self.slots[piece])})" if slot_turn else re.escape(piece))
        return "".join(parts)

    def _fill(self, random: Random, template: str, bindings: Bindings) -> str:
        pieces = SLOT.split(template)
        for index in range(1, len(pieces), 2):
            pieces[index] = self._choose(random, self.slots[pieces[index]], bindings)
        return "".join(pieces)

    def _choose(self, random: Random, slot: Slot, bindings: Bindings) -> str:
        if slot.key in bindings:
            return slot.by_value[bindings[slot.key]]
        while True:
            surface = random.choice(slot.choices)
            merged = self._merge(bindings, slot.surfaces[surface])
            if merged is not None:
                bindings.update(merged)
                return surface

    def _merge(self, bindings: Bindings, implied: Bindings) -> Bindings | None:
        if any(bindings.get(key, value) != value for key, value in implied.items()):
            return None
        merged = {**bindings, **implied}
        for one, other in self.distinct:
            if one in merged and merged[one] == merged.get(other):
                return None
        return merged

    def _walk(
        self, text: str, plot: Plot, beat: int, position: int, bindings: Bindings
    ) -> Iterator[tuple[int, Bindings, bool]]:
        """Yields every (end, bindings, complete) that a prefix of `text` can reach from this beat
        on.
        """
        if beat == len(plot):
            yield position, bindings, position == len(text)
            return
        yield position, bindings, False
        if "" in plot[beat]:
            yield from self._walk(text, plot, beat + 1, position, bindings)
        for template in filter(None, plot[beat]):
            end, found = self._match(template, text, position, bindings)
            if found is not None:
                yield from self._walk(text, plot, beat + 1, end, found)

    def _match(
        self, template: str, text: str, position: int, bindings: Bindings
    ) -> tuple[int, Bindings | None]:
        start = position + (position > 0 and text[position : position + 1] == " ")
        match = self._patterns[template].match(text, start)
        if match is None or (position > 0 and start == position):
            return position, None
        found = bindings
        for name, surface in zip(SLOT.findall(template), match.groups(), strict=True):
            merged = self._merge(found, self.slots[name].surfaces[surface])
            if merged is None:
                return position, None
            found = merged
        return match.end(), found


@cache
def _alternatives(surfaces: tuple[str, ...]) -> str:
    return "|".join(re.escape(surface) for surface in sorted(surfaces, key=len, reverse=True))


def _alternation(slot: Slot) -> str:
    return _alternatives(tuple(slot.surfaces))

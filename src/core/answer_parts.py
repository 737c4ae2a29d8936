"""`AnswerParts`: splits a sequence's tokens into thought and content, with counts and logprobs."""

from dataclasses import dataclass, field

from src.engine.logprobs import PositionLogprobs
from src.engine.sampling_params import SamplingParams
from src.engine.thought import Thought, ThoughtParams
from src.text.reasoning import SplitText, ThoughtSplitter
from src.text.token_bytes import TokenBytes


@dataclass(slots=True)
class AnswerPart:
    """Part of an answer that one output adds.

    Args:
        reasoning: new text of the thought.
        num_reasoning_tokens: tokens of the thought and its tags.
        logprobs: of the content's tokens, if requested.
    """

    reasoning: str = ""
    num_reasoning_tokens: int = 0
    logprobs: list[PositionLogprobs] = field(default_factory=list)


class AnswerParts:
    """Splits the text of one sequence, and attributes its tokens to thought or content.

    A token belongs to the content once the content has begun with it. Tokens of a text that may
    become a tag wait until that is certain.

    Args:
        thought: the thought that may precede the answer; None if all text is content.
        has_grammar: a grammar follows the thought.
    """

    def __init__(self, thought: ThoughtParams | None, *, has_grammar: bool) -> None:
        # The grammar follows the thought at once: without whitespace, and with the next token.
        self._drops_rest = has_grammar and thought is not None and thought.precedes_grammar
        self._splitter = _splitter(thought, strips_content=not self._drops_rest)
        self._waiting = AnswerPart()

    def split(self, text: str) -> SplitText:
        """Splits the text of the next token."""
        splitter = self._splitter
        if splitter is None:
            return SplitText(content=text)
        was_thinking = splitter.is_thinking
        split = splitter.push(text)
        if self._drops_rest and was_thinking and not splitter.is_thinking:
            splitter.drop_rest()
            return SplitText(split.reasoning)
        return split

    def count(self, part: AnswerPart, logprobs: list[PositionLogprobs], *, is_end: bool) -> None:
        """Attributes a token after its text was split, or an end token.

        Args:
            part: gets the token, and those that waited for it.
            logprobs: of the token, if requested.
            is_end: the token ends the sequence.
        """
        splitter, waiting = self._splitter, self._waiting
        if splitter is not None and splitter.is_undecided:
            waiting.num_reasoning_tokens += 1
            waiting.logprobs += logprobs
            return
        is_content = splitter is None or splitter.has_content
        if is_content or (is_end and splitter is not None and not splitter.is_thinking):
            part.logprobs += waiting.logprobs + logprobs
        else:
            part.num_reasoning_tokens += waiting.num_reasoning_tokens + 1
        if waiting.num_reasoning_tokens:
            self._waiting = AnswerPart()

    def finish(self, part: AnswerPart) -> SplitText:
        """Returns the text held back at the end; adds the tokens that wait, which are content."""
        part.logprobs += self._waiting.logprobs
        return self._splitter.finish() if self._splitter is not None else SplitText()


def _splitter(thought: ThoughtParams | None, *, strips_content: bool) -> ThoughtSplitter | None:
    if thought is None:
        return None
    return ThoughtSplitter(
        thought.begin, thought.end, is_open=thought.is_open, strips_content=strips_content
    )


def followed_thought(
    params: SamplingParams, token_bytes: TokenBytes, *, has_grammar: bool
) -> Thought | None:
    """Returns the thought that the engine has to follow: one with a budget or before a grammar."""
    thought = params.thought
    if thought is None or not (has_grammar or thought.budget is not None):
        return None
    return Thought(thought, lambda token_id: token_bytes.get(token_id).data, has_grammar)

"""Steps from a chat request to its sequences, shared by the APIs that answer conversations.

`/v1/chat/completions`, `/v1/responses` and `/v1/messages` run the same steps: check the model and
the fields, read conversation and tools, build grammar and sampling parameters, render and tokenize
the chat template, and check the length. So a request with an invalid field is refused before the
costly tokenization. An API adds wire models, which implement `ChatRequest` (`request.py`), and
a renderer of its answers.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from functools import partial

from fastapi import Request

from src.api.chat.request import AnswerOptions, ChatRequest, ConversationRequest
from src.api.chat.thinking import resolve
from src.api.deps import off_loop, while_connected
from src.api.fields.priority import use_priority
from src.api.fields.sampling import check_min_tokens, sampling_params
from src.api.served_model import check_model
from src.core.outputs import Completion, Generation, Operation, TextDelta
from src.core.request_context import RequestContext
from src.core.thinking import Thinking
from src.engine.sampling_params import SamplingParams
from src.errors import ContextLengthError
from src.inference import InferenceEngine
from src.text.chat_template import ChatMessage, PromptEnd
from src.tool_calling.choice import ToolPrompt, answer_grammar, tool_prompt
from src.tool_calling.grammar import ToolChoice
from src.tool_calling.parser import Answer, Event, ReasoningDelta, TextReader, ToolCallParser

AnswerReader = TextReader | ToolCallParser


@dataclass(frozen=True, slots=True)
class Conversation:
    """Conversation of a request, before tokenization.

    Args:
        prompt: the turns, and tools for the chat template.
        tool_choice: tools that the answer may or must call.
        thinking: choices about thinking.
        end: end of the prompt.
    """

    prompt: ToolPrompt
    tool_choice: ToolChoice | None
    thinking: Thinking = field(default_factory=Thinking)
    end: PromptEnd = PromptEnd.ANSWER_HEAD


class DeltaReader:
    """Turns the deltas of one answer into events: thought, text and calls.

    Args:
        reader: separates the text of the answer from its calls.
    """

    def __init__(self, reader: AnswerReader) -> None:
        self._reader = reader

    @property
    def num_calls(self) -> int:
        return self._reader.num_calls

    def read(self, delta: TextDelta) -> list[Event]:
        """Returns the events of a delta; the last delta has a finish reason."""
        events: list[Event] = [ReasoningDelta(delta.reasoning)] if delta.reasoning else []
        events += self._reader.push(delta.text)
        return events + self._reader.finish() if delta.finish_reason is not None else events

    def read_all(self, completion: Completion) -> Answer:
        """Returns a whole answer."""
        answer = Answer(reasoning=completion.reasoning)
        for event in [*self._reader.push(completion.text), *self._reader.finish()]:
            answer.add(event)
        return answer


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """Chat request that is ready to be generated.

    Args:
        engine: generates the answers.
        conversation: turns and tools.
        token_ids: the prompt, rendered by the chat template.
        params: sampling parameters of each answer.
        num_choices: answers to generate.
        context: deadline, field and operation of the call.
        has_schema: answers that are not tool calls have a required format.
    """

    engine: InferenceEngine
    conversation: Conversation
    token_ids: list[int]
    params: SamplingParams
    num_choices: int
    context: RequestContext
    has_schema: bool

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def must_call(self) -> bool:
        """Answers consist of tool calls, without text."""
        choice = self.conversation.tool_choice
        return choice is not None and choice.is_forced

    def create_reader(self) -> AnswerReader:
        """Returns a reader that separates one answer into text and tool calls."""
        tool_format = self.conversation.prompt.tool_format
        if tool_format is None:
            return TextReader()
        choice = self.conversation.tool_choice
        tools = choice.callable_tools if choice else ()
        return ToolCallParser(
            tool_format, tools, is_forced=self.must_call, is_shaped=self.has_schema
        )

    def stream(self) -> AsyncGenerator[TextDelta]:
        """Generates the answers; errors as of `InferenceEngine.stream`."""
        return self.engine.stream(
            self.token_ids,
            self.params,
            self.num_choices,
            self.context,
        )

    async def collect(self, request: Request) -> Generation:
        """Returns the whole answers; errors as of `InferenceEngine.collect`.

        Raises:
            ClientDisconnectedError: the client has left.
        """
        collecting = self.engine.collect(
            [self.token_ids],
            self.params,
            self.num_choices,
            self.context,
        )
        (generation,) = await while_connected(request, collecting)
        return generation


async def prepare_chat(
    request: Request, body: ChatRequest, engine: InferenceEngine
) -> PreparedChat:
    """Checks a chat request and prepares its generation.

    Raises:
        InvalidRequestError: the model cannot answer it; the error names the field.
        GenerationTimeoutError: the time was up before the prompt was tokenized.
        ClientDisconnectedError: the client has left.
    """
    use_priority(body)
    context = engine.create_context((body.conversation_field,), Operation.CHAT)
    conversation = await _read_conversation(request, body, engine)
    options = body.answer_options()
    params, has_schema = await off_loop(
        request, partial(_sampling_params, body, options, engine, conversation)
    )
    engine.check_params(params, options.num_choices)
    token_ids = await _tokenize(request, conversation, engine, context)
    if conversation.end is not PromptEnd.LAST_TEXT:  # a thought would come before that text
        params = replace(params, thought=engine.thought(token_ids, conversation.thinking))
    params = _with_max_tokens(params, options, engine, len(token_ids))
    _check_length(body, options, engine, len(token_ids), params)
    return PreparedChat(
        engine, conversation, token_ids, params, options.num_choices, context, has_schema
    )


async def tokenize_conversation(
    request: Request,
    body: ConversationRequest,
    engine: InferenceEngine,
    context: RequestContext,
) -> list[int]:
    """Returns the token ids of a conversation; raises as `prepare_chat`.

    Args:
        request: the HTTP request.
        body: its body.
        engine: holds the chat template.
        context: deadline and field of the conversation.
    """
    conversation = await _read_conversation(request, body, engine)
    return await _tokenize(request, conversation, engine, context)


async def _read_conversation(
    request: Request, body: ConversationRequest, engine: InferenceEngine
) -> Conversation:
    check_model(body.model, engine)
    messages, tool_choice = await off_loop(request, partial(_read, body))
    prompt = tool_prompt(engine, tool_choice, messages, (body.conversation_field,))
    thinking = resolve(body.thinking_options(), engine.thinking_support)
    return Conversation(prompt, tool_choice, thinking, body.prompt_end())


def _read(body: ConversationRequest) -> tuple[list[ChatMessage], ToolChoice | None]:
    body.check()
    return body.to_conversation(), body.to_tool_choice()


async def _tokenize(
    request: Request,
    conversation: Conversation,
    engine: InferenceEngine,
    context: RequestContext,
) -> list[int]:
    tokenizing = engine.tokenize_chat(
        conversation.prompt.messages,
        context,
        conversation.prompt.tools,
        end=conversation.end,
        variables=conversation.thinking.variables,
    )
    return await while_connected(request, tokenizing)


def _sampling_params(
    body: ChatRequest,
    options: AnswerOptions,
    engine: InferenceEngine,
    conversation: Conversation,
) -> tuple[SamplingParams, bool]:
    """Returns the sampling parameters, and whether answers that are not calls have a format.

    `_with_max_tokens` replaces a default of `max_tokens`, which depends on the prompt's length.
    """
    schema = body.answer_schema()
    params = sampling_params(
        body,
        max_tokens=options.max_tokens or engine.max_model_len,
        min_tokens=options.min_tokens,
        defaults=engine.sampling_defaults.values(),
        logprobs=options.num_logprobs,
        grammar=answer_grammar(conversation.tool_choice, conversation.prompt.tool_format, schema),
        names=_length_names(options),
    )
    return params, schema is not None


def _with_max_tokens(
    params: SamplingParams, options: AnswerOptions, engine: InferenceEngine, num_prompt_tokens: int
) -> SamplingParams:
    if options.max_tokens is not None and not options.ends_at_context:
        return params
    limit = engine.max_new_tokens(num_prompt_tokens, options.num_logprobs, options.num_choices)
    max_tokens = min(params.max_tokens, limit)
    check_min_tokens(params.min_tokens, max_tokens, _length_names(options))
    return replace(params, max_tokens=max_tokens)


def _length_names(options: AnswerOptions) -> tuple[str, str]:
    return "min_tokens", options.max_tokens_field


def _check_length(
    body: ChatRequest,
    options: AnswerOptions,
    engine: InferenceEngine,
    num_prompt_tokens: int,
    params: SamplingParams,
) -> None:
    try:
        engine.check_length(num_prompt_tokens, params.max_tokens, (body.conversation_field,))
    except ContextLengthError as error:
        if error.field == ("max_tokens",):
            raise ContextLengthError(str(error), (options.max_tokens_field,)) from None
        raise

"""Steps from a chat request to its sequences, shared by the APIs that answer conversations.

`/v1/chat/completions`, `/v1/responses` and `/v1/messages` run the same steps: check the model and
the fields, read conversation and tools, render the chat template, build the grammar, and check the
sampling parameters against the context. An API adds wire models, which implement `ChatRequest`
(`chat_request.py`), and a renderer of its answers.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial

from fastapi import Request

from src.api.chat_request import AnswerOptions, ChatRequest, ConversationRequest
from src.api.deps import off_loop, while_connected
from src.api.sampling import sampling_params
from src.api.served_model import check_model
from src.core.outputs import Generation, Operation, TextDelta
from src.core.request_context import RequestContext
from src.engine.sampling_params import SamplingParams
from src.engine.structured_output.source import GrammarSource
from src.errors import ContextLengthError
from src.inference import InferenceEngine
from src.text.chat_template import ChatMessage
from src.tool_calling.choice import answer_grammar, call_format
from src.tool_calling.format import ToolCallFormat
from src.tool_calling.grammar import ToolChoice
from src.tool_calling.parser import TextReader, ToolCallParser

AnswerReader = TextReader | ToolCallParser


@dataclass(frozen=True, slots=True)
class Conversation:
    """Conversation as the model reads it.

    Args:
        token_ids: of the rendered chat template.
        tool_choice: tools that the answer may or must call.
        tool_format: how the model writes calls; None if the answer may not be one.
    """

    token_ids: list[int]
    tool_choice: ToolChoice | None
    tool_format: ToolCallFormat | None


@dataclass(frozen=True, slots=True)
class PreparedChat:
    """Chat request that is ready to be generated.

    Args:
        engine: generates the answers.
        conversation: the prompt.
        params: sampling parameters of each answer.
        num_choices: answers to generate.
        context: deadline, field and operation of the call.
        has_schema: answers that are not tool calls have a required format.
    """

    engine: InferenceEngine
    conversation: Conversation
    params: SamplingParams
    num_choices: int
    context: RequestContext
    has_schema: bool

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.conversation.token_ids)

    @property
    def must_call(self) -> bool:
        """Answers consist of tool calls, without text."""
        choice = self.conversation.tool_choice
        return choice is not None and choice.is_forced

    def create_reader(self) -> AnswerReader:
        """Returns a reader that separates one answer into text and tool calls."""
        tool_format = self.conversation.tool_format
        if tool_format is None:
            return TextReader()
        return ToolCallParser(tool_format, is_forced=self.must_call, is_shaped=self.has_schema)

    def stream(self) -> AsyncGenerator[TextDelta]:
        """Generates the answers; errors as of `InferenceEngine.stream`."""
        return self.engine.stream(
            self.conversation.token_ids,
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
            [self.conversation.token_ids],
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
    context = engine.context((body.conversation_field,), Operation.CHAT)
    conversation = await tokenize_conversation(request, body, engine, context)
    schema, grammar = await off_loop(request, partial(_grammar, body, conversation))
    options = body.answer_options()
    params = _sampling_params(body, options, engine, len(conversation.token_ids), grammar)
    _check_length(body, options, engine, len(conversation.token_ids), params)
    has_schema = schema is not None
    return PreparedChat(engine, conversation, params, options.num_choices, context, has_schema)


async def tokenize_conversation(
    request: Request,
    body: ConversationRequest,
    engine: InferenceEngine,
    context: RequestContext,
    *,
    begins_answer: bool = True,
) -> Conversation:
    """Returns the token ids of a conversation; raises as `prepare_chat`.

    Args:
        request: the HTTP request.
        body: its body.
        engine: holds the chat template.
        context: deadline and field of the conversation.
        begins_answer: the prompt ends with the beginning of the assistant's turn.
    """
    check_model(body.model, engine)
    messages, tool_choice = await off_loop(request, partial(_read, body))
    tool_format = call_format(engine, tool_choice, messages, context.field)
    tools = tool_choice.tools if tool_choice else ()
    tokenizing = engine.tokenize_chat(messages, context, tools, begins_answer=begins_answer)
    token_ids = await while_connected(request, tokenizing)
    return Conversation(token_ids, tool_choice, tool_format)


def _read(body: ConversationRequest) -> tuple[list[ChatMessage], ToolChoice | None]:
    body.check()
    return body.to_conversation(), body.to_tool_choice()


def _grammar(
    body: ChatRequest, conversation: Conversation
) -> tuple[GrammarSource | None, GrammarSource | None]:
    """Returns the format of answers that are not calls, and the grammar of all answers."""
    schema = body.answer_schema()
    return schema, answer_grammar(conversation.tool_choice, conversation.tool_format, schema)


def _sampling_params(
    body: ChatRequest,
    options: AnswerOptions,
    engine: InferenceEngine,
    num_prompt_tokens: int,
    grammar: GrammarSource | None,
) -> SamplingParams:
    room = engine.room(num_prompt_tokens, options.num_logprobs, options.num_choices)
    max_tokens = options.max_tokens or room
    return sampling_params(
        body,
        max_tokens=min(max_tokens, room) if options.ends_at_context else max_tokens,
        min_tokens=options.min_tokens,
        temperature=1 if body.temperature is None else body.temperature,
        top_p=1 if body.top_p is None else body.top_p,
        logprobs=options.num_logprobs,
        grammar=grammar,
        names=("min_tokens", options.max_tokens_field),
    )


def _check_length(
    body: ChatRequest,
    options: AnswerOptions,
    engine: InferenceEngine,
    num_prompt_tokens: int,
    params: SamplingParams,
) -> None:
    try:
        engine.check(num_prompt_tokens, params, (body.conversation_field,))
    except ContextLengthError as error:
        if error.field == ("max_tokens",):
            raise ContextLengthError(str(error), (options.max_tokens_field,)) from None
        raise

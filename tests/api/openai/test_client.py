"""Retries, timeouts and error classes of OpenAI's client for Python against the service."""

import asyncio
import threading
from collections.abc import Callable, Iterator

import httpx2
import openai
import pytest
from pydantic import BaseModel

from src.api.chat.pipeline import Conversation, PreparedChat
from src.api.openai.chat.render import ChatRenderer
from src.api.openai.chat.request import ChatCompletionRequest
from src.core.outputs import TextDelta
from src.core.request_context import RequestContext
from src.engine.sampling_params import SamplingParams
from src.tool_calling.choice import ToolPrompt
from tests.api.openai.test_chat_and_completions import CHAT, MODEL, QUESTION, STORY
from tests.conftest import wait_until
from tests.support.servers import LocalServer, Server
from tests.support.wire import openai_client

ANSWER = "The capital of France is Paris."
GREEDY = {"model": MODEL, "messages": QUESTION, "temperature": 0}


@pytest.fixture(scope="module")
def ai(server: Server) -> Iterator[openai.OpenAI]:
    with openai_client(server) as client:
        yield client


def with_async_client(server: Server, ask: Callable) -> object:
    """Returns what `ask(client)` does."""

    async def run() -> object:
        url = server.url + "/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
            return await ask(client)

    return asyncio.run(run())


def test_the_asynchronous_client_gets_the_same_answers(server, ai):
    async def ask(client: openai.AsyncOpenAI) -> tuple:
        whole = await client.chat.completions.create(**CHAT)
        chunks = await client.chat.completions.create(**CHAT, stream=True)
        streamed = [chunk.choices[0].delta.content or "" async for chunk in chunks]
        text = await client.completions.create(**STORY)
        models = [model.id async for model in client.models.list()]
        return whole.choices[0].message.content, "".join(streamed), text.choices[0].text, models

    whole, streamed, text, models = with_async_client(server, ask)
    assert whole == streamed == ai.chat.completions.create(**CHAT).choices[0].message.content
    assert text == ai.completions.create(**STORY).choices[0].text
    assert models == [MODEL]


def test_the_asynchronous_stream_helper_tells_events(server):
    async def ask(client: openai.AsyncOpenAI) -> list:
        async with client.chat.completions.stream(**GREEDY, n=2, logprobs=True) as stream:
            kinds = [event.type async for event in stream]
            return [kinds, await stream.get_final_completion()]

    kinds, final = with_async_client(server, ask)
    assert {"chunk", "content.delta", "content.done", "logprobs.content.delta"} <= set(kinds)
    assert kinds.count("content.done") == 2
    assert [choice.message.content for choice in final.choices] == [ANSWER] * 2
    for choice in final.choices:
        *tokens, end = [one.token for one in choice.logprobs.content]
        assert "".join(tokens) == ANSWER
        assert end == "<|end|>"


def test_choices_of_a_stream_begin_in_order(client):
    body = ChatCompletionRequest(**GREEDY, n=3, stream=True)
    conversation = Conversation(ToolPrompt([], (), None), tool_choice=None)
    engine, params = client.app.state.service.engine, SamplingParams(max_tokens=5)
    chat = PreparedChat(engine, conversation, [1], params, 3, RequestContext(0), has_schema=False)
    renderer = ChatRenderer(body, chat)
    chunks = [*renderer.chunks(TextDelta(2, "Paris", 1)), *renderer.chunks(TextDelta(0, "In", 1))]
    choices = [chunk.choices[0] for chunk in chunks]
    assert [one.index for one in choices] == [0, 1, 2, 2, 0]
    assert [one.delta.role for one in choices] == ["assistant"] * 3 + [None] * 2
    assert [one.delta.content for one in choices[3:]] == ["Paris", "In"]


def test_models_are_listed_in_one_page(ai):
    page = ai.models.list()
    assert not page.has_next_page()
    assert [model.id for model in page] == [MODEL]


def test_choices_of_a_stream_interleave(ai):
    chunks = ai.completions.create(**STORY, n=3, stream=True)
    indexes = [chunk.choices[0].index for chunk in chunks]
    assert set(indexes) == {0, 1, 2}
    assert indexes != sorted(indexes)


def test_raw_answers_are_read_as_they_come(ai):
    raw = ai.models.with_raw_response.list()
    assert (raw.status_code, raw.parse().data[0].id) == (200, MODEL)
    raw = ai.completions.with_raw_response.create(**STORY, stream=True)
    assert raw.headers["content-type"].startswith("text/event-stream")
    text = "".join(chunk.choices[0].text for chunk in raw.parse())
    assert text == ai.completions.create(**STORY).choices[0].text
    with ai.chat.completions.with_streaming_response.create(**GREEDY, stream=True) as response:
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: {") for line in lines[:-1])
    assert lines[-1] == "data: [DONE]"


def test_log_probabilities_are_read(ai):
    answer = ai.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=3)
    for one in answer.choices[0].logprobs.content:
        assert one.token == one.top_logprobs[0].token  # greedy takes the likeliest
        assert one.logprob == one.top_logprobs[0].logprob <= 0
        assert bytes(one.bytes).decode() == one.token
    found = ai.completions.create(**STORY, logprobs=2).choices[0].logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == 30


VLLM_FIELDS = {"max_model_len", "parent", "root", "sampling_defaults"}
"""Fields of a model that vLLM and this service add to OpenAI's."""

# Each object of an answer, and all the fields that it has: those that OpenAI's have.
FIELDS = {
    "Model": {"id", "object", "created", "owned_by"},
    "ChatCompletion": {
        *("id", "object", "created", "model", "system_fingerprint", "choices", "usage"),
    },
    "ChatCompletionChunk": {
        *("id", "object", "created", "model", "system_fingerprint", "choices", "usage"),
    },
    "Completion": {
        *("id", "object", "created", "model", "system_fingerprint", "choices", "usage"),
    },
    "Choice": {"index", "message", "logprobs", "finish_reason"},
    "ChunkChoice": {"index", "delta", "logprobs", "finish_reason"},
    "CompletionChoice": {"index", "text", "logprobs", "finish_reason"},
    "ChatCompletionMessage": {"role", "content", "refusal"},
    "ChoiceLogprobs": {"content", "refusal"},
    "Logprobs": {"tokens", "token_logprobs", "top_logprobs", "text_offset"},
    "ChatCompletionTokenLogprob": {"token", "logprob", "bytes", "top_logprobs"},
    "TopLogprob": {"token", "logprob", "bytes"},
    "CompletionUsage": {
        *("prompt_tokens", "completion_tokens", "total_tokens"),
        *("prompt_tokens_details", "completion_tokens_details"),
    },
    "PromptTokensDetails": {"cached_tokens", "audio_tokens"},
    "CompletionTokensDetails": {
        *("reasoning_tokens", "audio_tokens"),
        *("accepted_prediction_tokens", "rejected_prediction_tokens"),
    },
}


def objects_in(value: object) -> Iterator[BaseModel]:
    if isinstance(value, BaseModel):
        yield value
        value = [getattr(value, name) for name in value.model_fields_set]
    for one in value if isinstance(value, list) else []:
        yield from objects_in(one)


def kind_of(one: BaseModel) -> str:
    """The name of its type, of which there are two for Choice."""
    is_chunks = isinstance(one, openai.types.chat.chat_completion_chunk.Choice)
    return "ChunkChoice" if is_chunks else type(one).__name__


def test_every_object_has_the_fields_of_openais(ai):
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    answers: list[object] = [
        *ai.models.list(),
        ai.chat.completions.create(**CHAT, n=2, logprobs=True, top_logprobs=1),
        *ai.chat.completions.create(**CHAT, **usage, logprobs=True, top_logprobs=1),
        ai.completions.create(**STORY, logprobs=1),
        *ai.completions.create(**STORY, **usage, logprobs=1),
    ]
    seen = set()
    for one in objects_in(answers):
        kind = kind_of(one)
        if kind == "ChoiceDelta":  # it has what is new
            assert one.model_fields_set <= {"role", "content", "refusal"}
            continue
        seen.add(kind)
        assert one.model_fields_set == FIELDS[kind], kind
        assert set(one.model_extra) == (VLLM_FIELDS if kind == "Model" else set())
    assert seen == FIELDS.keys()


@pytest.mark.parametrize(
    ("fields", "kind", "param", "code"),
    [
        ({"temperature": 3}, openai.BadRequestError, "temperature", "invalid_value"),
        ({"model": "gpt-4"}, openai.NotFoundError, "model", "model_not_found"),
        (
            {"messages": [{"role": "user", "content": "word " * 3000}]},
            openai.BadRequestError,
            "messages",
            "context_length_exceeded",
        ),
    ],
)
def test_an_error_has_its_class_and_its_fields(ai, fields, kind, param, code):
    for more in ({}, {"stream": True}):
        with pytest.raises(kind) as caught:
            ai.chat.completions.create(**CHAT | fields | more)
        error = caught.value
        assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
        assert error.body == {
            "message": error.body["message"],
            "type": error.type,
            "param": param,
            "code": code,
        }
        assert error.body["message"] in str(error)
        assert error.request_id == error.response.headers["x-request-id"]


def test_a_limited_client_comes_again_when_it_may(start_server):
    server = start_server(rate_limit_requests=1, rate_limit_period=2)
    statuses: list[int] = []
    body = {"model": server.engine.model_name, "prompt": "the", "max_tokens": 1}
    client = create_retrying_client(server, lambda response: statuses.append(response.status_code))
    with client as ai:
        for _ in range(2):
            assert ai.completions.create(**body).choices
    assert statuses[0] == 200
    assert set(statuses[1:-1]) == {429}
    assert statuses[-1] == 200


def create_retrying_client(
    server: LocalServer, watch: Callable[[httpx2.Response], None]
) -> openai.OpenAI:
    """A client with its usual retries; each answer is shown to `watch`."""
    return openai.OpenAI(
        base_url=server.url + "/v1",
        api_key="x",
        max_retries=4,
        http_client=openai.DefaultHttpxClient(event_hooks={"response": [watch]}),
    )


def test_a_client_that_finds_the_queue_full_comes_again(start_server):
    server = start_server(max_batch_size=1, max_queue_size=0)
    gate = server.hold()
    body = {"model": server.engine.model_name, "prompt": "the", "max_tokens": 2}
    statuses: list[int] = []

    def watch(response: httpx2.Response) -> None:
        statuses.append(response.status_code)
        gate.open()  # after its first refusal there is room

    first = threading.Thread(
        target=httpx2.post, args=[server.url + "/v1/completions"], kwargs={"json": body}
    )
    first.start()
    gate.wait()
    with create_retrying_client(server, watch) as ai:
        assert ai.completions.create(**body).usage.completion_tokens == 2
    first.join()
    assert statuses[0] == 503
    assert statuses[-1] == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_gives_up_ends_its_generation(start_server, stream):
    server = start_server()
    gate = server.hold()
    body = {"model": server.engine.model_name, "prompt": "the", "stream": stream}
    with openai_client(server) as client, pytest.raises(openai.APITimeoutError):
        client.completions.create(**body, timeout=0.5)
    gate.open()
    wait_until(lambda: server.engine.num_live == 0)


def test_a_server_that_is_not_there_is_a_connection_error():
    with (
        openai.OpenAI(base_url="http://127.0.0.1:9/v1", api_key="x", max_retries=0) as client,
        pytest.raises(openai.APIConnectionError),
    ):
        client.models.list()

"""InferenceEngine: generation, validation, time limits, cancellation, failures."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace

import pytest
import torch

from src.core.engine_lifecycle import EngineState
from src.engine.config import EngineConfig
from src.engine.model.loader import load_model
from src.engine.request import FinishReason
from src.engine.sampling_params import SamplingParams
from src.errors import (
    EngineDeadError,
    EngineNotReadyError,
    GenerationFailedError,
    GenerationTimeoutError,
    InvalidRequestError,
    OverloadedError,
    SettingsError,
)
from src.inference import InferenceEngine
from tests.conftest import wait_until
from tests.support.tiny_models import CONTEXT, END

LONG = SamplingParams(max_tokens=CONTEXT - 20, seed=1, temperature=1.0, top_p=1.0)


@pytest.fixture
def engine(tiny_model) -> Iterator[InferenceEngine]:
    """An engine with a tiny random model without end tokens."""
    engine = InferenceEngine(EngineConfig(str(tiny_model("gpt2"))), timeout_seconds=60)
    engine.load_model()
    engine._lifecycle.loaded.eos_token_ids.clear()
    yield engine
    if engine.state is EngineState.READY:
        wait_until(lambda: engine.num_live == 0)
    engine.shutdown()


def slow_down(engine: InferenceEngine, seconds: float) -> None:
    """Makes each step of the model take longer."""
    real = engine._lifecycle.loaded.model.forward

    def forward(*args: object, **kwargs: object) -> object:
        time.sleep(seconds)
        return real(*args, **kwargs)

    engine._lifecycle.loaded.model.forward = forward


def allow_any_prompt_size(engine: InferenceEngine) -> None:
    """Lets prompts of any size be tokenized before their length is checked."""
    validator = engine._lifecycle.validator
    limits = replace(validator.model, max_prompt_bytes=None)
    engine._lifecycle.validator = replace(validator, model=limits)


def generate(engine: InferenceEngine, prompt: str, n: int = 1, **params: object):
    return asyncio.run(engine.generate(prompt, SamplingParams(**params), n))


def test_generate_returns_the_text_of_the_stream(engine):
    async def both() -> tuple[list[str], str]:
        token_ids = await engine.tokenize("the cat", LONG)
        deltas = [delta async for delta in engine.stream(token_ids, LONG)]
        assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
        assert deltas[-1].finish_reason is FinishReason.LENGTH
        assert sum(delta.num_tokens for delta in deltas) == LONG.max_tokens
        generation = await engine.generate("the cat", LONG)
        return [delta.text for delta in deltas], generation.completions[0].text

    texts, text = asyncio.run(both())
    assert "".join(texts) == text


def test_text_equals_that_of_huggingface(engine, tiny_model):
    loaded = load_model(EngineConfig(str(tiny_model("gpt2"))))
    completion = generate(engine, "the cat", max_tokens=20, temperature=0).completions[0]
    prompt = torch.tensor([loaded.tokenizer.encode_batch(["the cat"])[0].ids])
    tokens = loaded.model.generate(prompt, max_new_tokens=20, do_sample=False, eos_token_id=None)
    expected = loaded.tokenizer.decode(tokens[0, prompt.shape[1] :].tolist())
    assert completion.text.rstrip("\ufffd") == expected.rstrip("\ufffd")
    assert completion.num_tokens == 20


@pytest.mark.parametrize("seed", [5, -1, -(2**63), 2**63 - 1])
def test_sequences_of_a_prompt_use_consecutive_seeds(engine, seed):
    params = {"max_tokens": 10, "temperature": 1.5, "top_p": 1.0}
    three = generate(engine, "the", n=3, seed=seed, **params).completions
    seeds = [seed, seed + 1, seed + 2]
    if seed == 2**63 - 1:  # it wraps around to the smallest 64-bit integer
        seeds = [seed, -(2**63), -(2**63) + 1]
    alone = [generate(engine, "the", seed=start, **params).completions[0] for start in seeds]
    assert three == alone
    assert len({completion.text for completion in three}) == 3


def test_without_a_seed_texts_differ(engine):
    texts = {
        generate(engine, "the", max_tokens=20, temperature=2.0, top_p=1.0).completions[0].text
        for _ in range(3)
    }
    assert len(texts) == 3


def test_generations_of_a_batch_are_in_the_prompts_order(engine):
    prompts = ["the cat", "on", "mat and the hat"]
    params = SamplingParams(max_tokens=5, temperature=0)
    batch = asyncio.run(engine.generate_batch(prompts, params))
    assert batch == [asyncio.run(engine.generate(prompt, params)) for prompt in prompts]


def test_a_stop_text_ends_the_text_before_it(engine):
    whole = generate(engine, "the cat", max_tokens=30, temperature=0).completions[0].text
    stop = whole[5:8]
    completion = generate(
        engine, "the cat", max_tokens=30, temperature=0, stop=(stop,)
    ).completions[0]
    assert completion.text == whole[: whole.index(stop)]
    assert completion.finish_reason is FinishReason.STOP
    assert completion.num_tokens < 30


def test_text_that_spells_a_special_token_stays_text(engine):
    token_ids = asyncio.run(engine.tokenize(f"{END}<|user|>", SamplingParams(max_tokens=1)))
    tokenizer = engine._lifecycle.loaded.tokenizer
    assert tokenizer.token_to_id(END) not in token_ids
    assert tokenizer.decode(token_ids) == f"{END}<|user|>"


@pytest.mark.parametrize(
    ("num_words", "max_tokens", "remedies"),
    [
        (CONTEXT, 1, "shorten the prompt to at most 127 tokens."),
        (100, 29, "shorten the prompt to at most 99 tokens or ask for at most 28 new tokens."),
        (100, 500, "ask for at most 28 new tokens."),
        (200, 500, "shorten the prompt and ask for fewer new tokens."),
    ],
)
def test_a_prompt_beyond_the_context_is_refused_with_the_remedy(
    engine, num_words, max_tokens, remedies
):
    with pytest.raises(InvalidRequestError) as caught:
        generate(engine, " the" * num_words, max_tokens=max_tokens)
    limit = f"This model's maximum context length is {CONTEXT} tokens. "
    assert str(caught.value).startswith(limit)
    assert str(caught.value).endswith(f" new tokens are more: {remedies}")
    assert caught.value.field == (("max_tokens",) if max_tokens > CONTEXT else ("prompt",))


def test_a_prompt_too_long_for_any_tokenization_is_refused_before_it(engine):
    longest = max(len(token) for token in engine._lifecycle.loaded.tokenizer.get_vocab())
    with pytest.raises(InvalidRequestError, match=f"more than {CONTEXT * longest} fits"):
        generate(engine, "a" * (CONTEXT * longest + 1), max_tokens=1)
    with pytest.raises(InvalidRequestError, match="tokens"):
        generate(engine, "a" * (CONTEXT * longest), max_tokens=1)


def test_a_prompt_that_fills_the_context_is_served(engine):
    generation = generate(engine, " the" * 100, max_tokens=28, temperature=0)
    assert len(generation.prompt_token_ids) == 100
    assert generation.completions[0].num_tokens == 28


def test_an_empty_prompt_is_refused(engine):
    with pytest.raises(InvalidRequestError, match="at least one token"):
        generate(engine, "")


def test_no_prompt_of_a_batch_runs_when_one_is_refused(engine):
    with pytest.raises(InvalidRequestError) as caught:
        asyncio.run(engine.generate_batch(["the", " the" * 500], LONG))
    assert caught.value.field == ("prompts", 1)
    assert engine.num_live == 0


def test_a_model_refused_by_the_check_is_never_ready(tiny_model):
    engine = InferenceEngine(EngineConfig(str(tiny_model("gpt2"))))
    states = []

    def refuse(max_model_len: int) -> None:
        states.append((max_model_len, engine.state))
        raise SettingsError("no room")

    with pytest.raises(SettingsError):
        engine.load_model(refuse)
    assert states == [(CONTEXT, EngineState.LOADING)]
    assert engine.state is EngineState.LOADING


def test_the_time_limit_counts_waiting_and_running(engine):
    slow_down(engine, 0.05)
    engine._timeout_seconds = 2
    generations = asyncio.run(engine.generate_batch(["the", "cat"], LONG))
    for generation in generations:
        (completion,) = generation.completions
        assert completion.finish_reason is FinishReason.LENGTH
        assert 0 < completion.num_tokens < LONG.max_tokens
    wait_until(lambda: engine.num_live == 0, seconds=5)


def test_the_time_limit_counts_tokenization(engine):
    allow_any_prompt_size(engine)
    engine._timeout_seconds = 0.001
    with pytest.raises(GenerationTimeoutError):
        generate(engine, "the cat " * 125_000)


def leave(engine: InferenceEngine, work: Callable[[], Awaitable[object]]) -> None:
    """Starts work, cancels it while it runs, and checks that the engine is free soon after."""

    async def start_and_cancel() -> None:
        task = asyncio.ensure_future(work())
        await asyncio.to_thread(wait_until, lambda: engine.num_live > 0)
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])

    slow_down(engine, 0.02)
    asyncio.run(start_and_cancel())
    wait_until(lambda: engine.num_live == 0, seconds=1)


def test_cancelling_generate_frees_the_engine(engine):
    leave(engine, lambda: engine.generate("the", LONG, n=3))


def test_cancelling_a_batch_frees_the_engine(engine):
    leave(engine, lambda: engine.generate_batch(["the"] * 5, LONG))


def test_closing_a_stream_frees_the_engine(engine):
    async def read_some() -> None:
        stream = engine.stream(await engine.tokenize("the", LONG), LONG, n=2)
        async for delta in stream:
            assert delta.finish_reason is None
            break
        await stream.aclose()

    slow_down(engine, 0.02)
    asyncio.run(read_some())
    wait_until(lambda: engine.num_live == 0, seconds=1)


def test_the_event_loop_stays_free_while_a_megabyte_is_tokenized(engine):
    async def turns_meanwhile() -> int:
        tokenizing = asyncio.ensure_future(engine.tokenize("the cat " * 125_000, LONG))
        turns = 0
        while not tokenizing.done():
            await asyncio.sleep(0.001)
            turns += 1
        with pytest.raises(InvalidRequestError):
            await tokenizing
        return turns

    allow_any_prompt_size(engine)
    # With the GIL held, the loop would get one turn before and one after.
    assert asyncio.run(turns_meanwhile()) >= 10


def test_requests_before_the_model_is_loaded_are_refused(tiny_model):
    engine = InferenceEngine(EngineConfig(str(tiny_model("gpt2"))))
    assert engine.state is EngineState.LOADING
    with pytest.raises(EngineNotReadyError):
        generate(engine, "the")
    engine.shutdown()  # has no effect


def test_a_model_that_raises_fails_the_request_and_not_the_engine(engine):
    def fail(*args: object, **kwargs: object) -> object:
        raise RuntimeError("made to fail, with the prompt in it")

    real = engine._lifecycle.loaded.model.forward
    engine._lifecycle.loaded.model.forward = fail
    with pytest.raises(GenerationFailedError) as caught:
        generate(engine, "the")
    assert "made to fail" not in str(caught.value)
    engine._lifecycle.loaded.model.forward = real
    assert generate(engine, "the", max_tokens=3).completions[0].num_tokens == 3


def test_a_batch_fails_when_one_of_its_sequences_fails(engine):
    real = engine._lifecycle.loaded.model.forward
    (poison,) = engine._lifecycle.loaded.tokenizer.encode_batch(["!"])[0].ids

    def fail_on_poison(input_ids: torch.Tensor, **kwargs: object) -> object:
        if (input_ids == poison).any():
            raise RuntimeError("made to fail")
        return real(input_ids, **kwargs)

    engine._lifecycle.loaded.model.forward = fail_on_poison
    with pytest.raises(GenerationFailedError):
        asyncio.run(engine.generate_batch(["the", "cat!"], LONG))


def test_a_dead_engine_refuses_requests(engine):
    def die(*args: object, **kwargs: object) -> object:
        raise SystemExit("made to die")

    engine._lifecycle.loaded.model.forward = die
    with pytest.raises(EngineDeadError):
        generate(engine, "the")
    assert engine.state is EngineState.DEAD
    with pytest.raises(EngineDeadError):
        generate(engine, "the")


def test_shutdown_fails_waiting_requests(engine):
    async def shut_down_meanwhile() -> None:
        slow_down(engine, 0.02)
        task = asyncio.ensure_future(engine.generate("the", LONG))
        await asyncio.to_thread(wait_until, lambda: engine.num_live > 0)
        await asyncio.to_thread(engine.shutdown)
        with pytest.raises(EngineDeadError):
            await task

    asyncio.run(shut_down_meanwhile())


@pytest.fixture(params=["continuous", "reference"])
def start_engine(request, tiny_model) -> Iterator[Callable[..., InferenceEngine]]:
    """Starts engines of each kind; the test must leave no live sequence."""
    engines: list[InferenceEngine] = []

    def start(**options: object) -> InferenceEngine:
        config = EngineConfig(str(tiny_model()), engine=request.param, **options)
        engines.append(InferenceEngine(config))
        engines[-1].load_model()
        engines[-1]._lifecycle.loaded.eos_token_ids.clear()
        return engines[-1]

    yield start
    for engine in engines:
        wait_until(lambda engine=engine: engine.num_live == 0)
        engine.shutdown()


def test_a_hung_engine_is_dead_and_fails_all_requests(start_engine):
    engine = start_engine()
    is_held, release = threading.Event(), threading.Event()

    def hang(*args: object, **kwargs: object) -> object:
        is_held.set()
        release.wait()
        raise RuntimeError("it is over")

    async def hang_meanwhile() -> None:
        running = asyncio.ensure_future(engine.generate("the", LONG))
        await asyncio.to_thread(is_held.wait, 60)
        waiting = asyncio.ensure_future(engine.generate("the", LONG))
        await asyncio.to_thread(wait_until, lambda: engine.num_live == 2)
        async with asyncio.timeout(60):
            await engine.wait_until_dead(0.2)
            for task in (running, waiting):
                with pytest.raises(EngineDeadError):
                    await task
        assert engine.state is EngineState.DEAD
        with pytest.raises(EngineDeadError):
            await engine.generate("the", LONG)

    engine._lifecycle.loaded.model.forward = hang
    try:
        asyncio.run(hang_meanwhile())
    finally:
        release.set()


def test_a_busy_or_idle_engine_does_not_count_as_hung(start_engine):
    engine = start_engine()

    async def watch() -> None:
        watching = asyncio.ensure_future(engine.wait_until_dead(1))
        slow_down(engine, 0.1)
        await engine.generate("the", replace(LONG, max_tokens=15))
        assert engine._lifecycle.engine.seconds_in_step == 0
        await asyncio.sleep(1.5)
        assert not watching.done()
        watching.cancel()

    asyncio.run(watch())
    assert engine.state is EngineState.READY


def test_requests_beyond_the_queue_are_refused_and_leave_no_trace(start_engine):
    engine = start_engine(max_num_seqs=1, max_queue_size=1)

    async def submit_third() -> None:
        slow_down(engine, 0.01)
        token_ids = await engine.tokenize("the", LONG)
        running = asyncio.ensure_future(engine.generate("the", LONG, n=2))
        await asyncio.to_thread(wait_until, lambda: engine.num_live == 2)
        with pytest.raises(OverloadedError) as caught:
            await anext(engine.stream(token_ids, LONG))
        assert caught.value.retry_after >= 1
        assert engine.num_live == 2
        with pytest.raises(InvalidRequestError, match="3 sequences are more than"):
            await engine.generate("the", LONG, n=3)
        assert [completion.num_tokens for completion in (await running).completions] == [
            LONG.max_tokens
        ] * 2

    asyncio.run(submit_third())


def test_a_request_that_waits_too_long_is_refused(start_engine):
    engine = start_engine(max_num_seqs=1, max_queue_size=1, max_queue_seconds=0.2)

    async def wait_too_long() -> None:
        slow_down(engine, 0.02)
        running = asyncio.ensure_future(engine.generate("the", LONG))
        await asyncio.to_thread(wait_until, lambda: engine.num_live == 1)
        with pytest.raises(OverloadedError, match="waited too long"):
            await engine.generate("the", LONG)
        assert not running.done()
        assert (await running).completions[0].num_tokens == LONG.max_tokens

    asyncio.run(wait_too_long())


def test_a_cancelled_request_leaves_the_queue_while_another_runs(start_engine):
    engine = start_engine(max_num_seqs=1, max_queue_size=1)

    async def leave_the_queue() -> None:
        slow_down(engine, 0.05)
        running = asyncio.ensure_future(engine.generate("the", LONG))
        await asyncio.to_thread(wait_until, lambda: engine.num_live == 1)
        waiting = asyncio.ensure_future(engine.generate("the", LONG))
        await asyncio.to_thread(wait_until, lambda: engine.num_live == 2)
        waiting.cancel()
        await asyncio.to_thread(wait_until, lambda: engine.num_live < 2)
        assert engine.num_live == 1
        assert not running.done()
        running.cancel()

    asyncio.run(leave_the_queue())

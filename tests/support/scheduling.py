"""Shared by tests of scheduling: requests, and a scheduler with a simulated KV cache. No torch."""

import zlib
from collections import Counter, defaultdict
from collections.abc import Collection
from dataclasses import replace
from itertools import takewhile

from hypothesis import strategies as st

from src.engine.logprobs import PositionLogprobs, SampledToken, TokenLogprob
from src.engine.request import FinishReason, Priority, Request, RequestOutput
from src.engine.sampling_params import SamplingParams
from src.engine.scheduling.blocks import BlockPool
from src.engine.scheduling.scheduler import Scheduler
from src.engine.scheduling.sequence import Sequence
from src.engine.scheduling.step import ScheduledSequence, SequenceResult

EOS = 0
TOKEN = 7
BLOCK_SIZE = 4
MAX_STEPS = 128
SHARED = list(range(1, 41))


def create_request(
    request_id: str,
    num_tokens: int = 3,
    token_ids: list[int] | None = None,
    tenant: str = "",
    weight: int = 1,
    priority: Priority = Priority.DEFAULT,
    arrived_at: float | None = None,
    **params: object,
) -> Request:
    """Creates a request; prompts of different names share no prefix, unless `token_ids` do."""
    if token_ids is None:
        first = zlib.crc32(request_id.encode())
        token_ids = list(range(first, first + num_tokens))
    params = {"max_tokens": 4} | params
    request = Request(request_id, token_ids, SamplingParams(**params), tenant=tenant, weight=weight)
    arrived_at = request.arrived_at if arrived_at is None else arrived_at
    return replace(request, priority=priority, arrived_at=arrived_at)


class Simulation:
    """A scheduler with a simulated KV cache: for each key the tokens that it was computed from.

    Fails if a sequence is scheduled and its blocks do not hold the keys that they should.
    """

    def __init__(
        self,
        budget: int = 8,
        max_num_seqs: int = 4,
        num_blocks: int = 128,
        window: int | None = None,
        **options: object,
    ) -> None:
        self.pool = BlockPool(num_blocks, BLOCK_SIZE, window)
        self.scheduler = Scheduler(self.pool, max_num_seqs, budget, [EOS], **options)
        self.outputs: dict[str, list[RequestOutput]] = defaultdict(list)
        self.num_preempted = 0
        self.num_computed: Counter[str] = Counter()
        self._budget = budget
        self._cache: dict[tuple[int, int], tuple[int, ...]] = {}  # by block and offset

    def add(self, request_id: str, *args: object, **options: object) -> None:
        self.scheduler.add(create_request(request_id, *args, **options))

    def step(self, token_id: int = TOKEN, failing: Collection[str] = ()) -> dict[str, int]:
        """Runs a step in which all samples are this token, unless it is banned.

        Returns:
            The number of computed tokens of each request.
        """
        work = self.scheduler.schedule()
        self.num_preempted += work.num_preempted
        for _, blocks in work.dirty:
            for block in blocks:
                block.is_dirty = False
        assert work.num_tokens <= self._budget
        places = [(one.size > 1, one.sequence.num_computed_tokens) for one in work.scheduled]
        assert places == sorted(places)  # single tokens first, in the order of their lengths
        assert not any(one.is_dirty for item in work.scheduled for one in item.sequence.blocks)
        for one in work.scheduled:
            self._compute(one)
        going = [one for one in work.scheduled if name(one) not in failing]
        for one in work.scheduled:
            if name(one) in failing:
                self._fail(one.sequence)
        results = [self._result(one, token_id) for one in going]
        for output in self.scheduler.update(going, results):
            self.outputs[output.request_id].append(output)
        return {name(one): one.size for one in work.scheduled}

    def _compute(self, one: ScheduledSequence) -> None:
        sequence, tokens = one.sequence, [*one.sequence.token_ids, *one.draft]
        start = sequence.num_computed_tokens
        assert one.num_tokens > 0
        assert one.samples or not one.draft
        places = [(index, offset) for index in sequence.block_table for offset in range(BLOCK_SIZE)]
        window = start + 1 if self.pool.window is None else self.pool.window
        for position in range(max(0, start + 1 - window), start):
            assert self._cache[places[position]] == tuple(tokens[: position + 1])
        for position in range(start, start + one.size):
            self._cache[places[position]] = tuple(tokens[: position + 1])
        self.num_computed[name(one)] += one.size

    def _fail(self, sequence: Sequence) -> None:
        """Ends a sequence that makes the model raise, as the core does."""
        for block in sequence.blocks:
            if block.num_users == 1:
                for offset in range(BLOCK_SIZE):
                    self._cache.pop((block.index, offset), None)
        self.scheduler.fail(sequence)
        for output in self.scheduler.take_failed():
            self.outputs[output.request_id].append(output)

    def _result(self, one: ScheduledSequence, token_id: int) -> SequenceResult:
        if token_id in one.sequence.banned_token_ids():
            token_id = TOKEN
        drawn = [SampledToken(token_id, None)] * one.num_sampled
        num_right = len(list(takewhile(lambda guess: guess == token_id, one.draft)))
        logprobs = [PositionLogprobs(TokenLogprob(i, -1.0), []) for i in one.next_prompt_token_ids]
        return SequenceResult(drawn[: num_right + 1], logprobs)

    def run(self, request_id: str, token_id: int = TOKEN, **params: object) -> list[int]:
        """Runs a request to its end; returns its tokens."""
        self.add(request_id, **params)
        for _ in range(MAX_STEPS):
            if not self.scheduler.num_running + self.scheduler.num_waiting:
                break
            self.step(token_id)
        return [token for output in self.outputs[request_id] for token in output.new_token_ids]

    def reason(self, request_id: str) -> FinishReason | None:
        return self.outputs[request_id][-1].finish_reason


def name(one: ScheduledSequence) -> str:
    return one.sequence.request.request_id


@st.composite
def requests(draw: st.DrawFn, request_id: str) -> Request:
    """Draws a request; some prompts are equal or share prefixes."""
    beginning = [1000 * draw(st.integers(0, 2)) + i for i in range(draw(st.integers(0, 40)))]
    end = [zlib.crc32(request_id.encode())] * draw(st.integers(0, 6))
    max_tokens = draw(st.integers(1, 5))
    params = SamplingParams(
        max_tokens=max_tokens,
        min_tokens=draw(st.integers(0, max_tokens)),
        ignore_eos=draw(st.booleans()),
        prompt_logprobs=draw(st.sampled_from([None, None, 0])),
    )
    priority = draw(st.sampled_from(Priority))
    return Request(request_id, beginning + end or [1], params, priority=priority)


def check_blocks(pool: BlockPool, running: list[Sequence]) -> None:
    """Checks that users are counted right, and that no block is lost or in two hands."""
    users = Counter(block.index for sequence in running for block in sequence.blocks)
    blocks = {block.index: block for sequence in running for block in sequence.blocks}
    assert all(blocks[index].num_users == count for index, count in users.items())
    assert not users.keys() & pool._free.keys()
    assert len(users) + pool.num_free == pool.num_blocks
    assert not any(block.num_users for block in pool._free.values())
    cached = [block for block in pool._free.values() if block.digest is not None]
    assert pool.num_cached == len(cached)
    for block in (*pool._free.values(), *blocks.values()):
        assert block.digest is None or pool._shared[block.digest] is block
        assert not (block.is_dirty and block.digest)
    for sequence in running:
        held = sequence.block_table[sequence.num_released_blocks :]
        assert list(held) == [block.index for block in sequence.blocks]

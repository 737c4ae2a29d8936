"""Users of all kinds, so that every panel of the dashboard has data."""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx2

STORY = "Once upon a time, in a small village by the sea, there lived"
NAMES = ("a wizard", "a queen", "a baker", "a dragon", "two brothers", "an old sailor")
# Small, so that a small load shows a queue, a limit and requests that take too long.
SETTINGS = {
    "max_batch_size": 8,
    "queue_timeout_seconds": 2,
    "timeout_seconds": 8,
    "rate_limit_requests": 400,
    "rate_limit_period": 60,
}
BURST = 8  # concurrent requests, with as many sequences each
BURST_EVERY = 30  # seconds

Rest = Callable[[float], object]
"""Waits for a number of seconds, or less if the load ends."""

User = Callable[[httpx2.Client, random.Random, Rest], None]


def stream(client: httpx2.Client, draw: random.Random, rest: Rest) -> None:
    """Streams a story; many prompts begin alike."""
    body = {"prompt": f"{STORY} {draw.choice(NAMES)}", "max_length": draw.randint(30, 120)}
    client.post("/generate", json=body | {"stream": True})
    rest(draw.expovariate(1))


def batch(client: httpx2.Client, draw: random.Random, rest: Rest) -> None:
    prompts = [f"The capital of {name} is" for name in draw.sample(("France", "Italy", "Peru"), 2)]
    client.post("/generate/batch", json={"prompts": prompts, "max_length": 10})
    rest(draw.expovariate(0.5))


def choose(client: httpx2.Client, draw: random.Random, rest: Rest) -> None:
    """Requests one of a few words, which differ from answer to answer."""
    words = draw.sample(("old", "new", "small", "far", "lost", "brave"), 3)
    body = {"prompt": STORY, "max_length": 10, "structured_outputs": {"choice": words}}
    client.post("/generate", json=body)
    rest(draw.expovariate(1))


def _named(body: dict[str, object]) -> dict[str, object]:
    return {"model": "storyteller"} | body


def chat(client: httpx2.Client, draw: random.Random, rest: Rest) -> None:
    """Uses OpenAI's chat completions."""
    messages = [{"role": "user", "content": f"Tell me of {draw.choice(NAMES)}."}]
    body = _named({"messages": messages, "max_tokens": draw.randint(20, 60), "stream": True})
    client.post("/v1/chat/completions", json=body)
    rest(draw.expovariate(1))


def respond(client: httpx2.Client, draw: random.Random, rest: Rest) -> None:
    """Uses OpenAI's responses."""
    body = _named({"input": f"Who is {draw.choice(NAMES)}?", "max_output_tokens": 30})
    client.post("/v1/responses", json=body)
    rest(draw.expovariate(0.7))


def message(client: httpx2.Client, draw: random.Random, rest: Rest) -> None:
    """Uses Anthropic's messages."""
    messages = [{"role": "user", "content": f"Describe {draw.choice(NAMES)}."}]
    client.post("/v1/messages", json=_named({"messages": messages, "max_tokens": 30}))
    rest(draw.expovariate(0.7))


def complete(client: httpx2.Client, draw: random.Random, rest: Rest) -> None:
    body = _named({"prompt": f"{STORY} {draw.choice(NAMES)}", "max_tokens": 30})
    client.post("/v1/completions", json=body)
    rest(draw.expovariate(0.7))


def embed(client: httpx2.Client, draw: random.Random, rest: Rest) -> None:
    texts = [f"{STORY} {name}" for name in draw.sample(NAMES, 3)]
    client.post("/v1/embeddings", json=_named({"input": texts}))
    rest(draw.expovariate(1))


def leave(client: httpx2.Client, draw: random.Random, rest: Rest) -> None:
    """Stops reading in the middle."""
    body = {"prompt": STORY, "max_length": 200, "ignore_eos": True, "stream": True}
    with client.stream("POST", "/generate", json=body) as response:
        next(response.iter_lines())
    rest(draw.expovariate(0.3))


def err(client: httpx2.Client, draw: random.Random, rest: Rest) -> None:
    client.post("/generate", json={"prompt": STORY, "max_length": 0})
    rest(draw.expovariate(1))


def hurry(client: httpx2.Client, draw: random.Random, rest: Rest) -> None:
    """Exceeds its rate limit."""
    client.post("/generate", json={"prompt": "The capital of France is", "max_length": 1})
    rest(draw.expovariate(15))


def burst(client: httpx2.Client, draw: random.Random, rest: Rest) -> None:
    """Sends a burst: most of it expires in the queue, some exceeds the time limit."""
    rest(BURST_EVERY / 4)
    body = {"prompt": STORY, "max_length": 300, "ignore_eos": True, "num_return_sequences": BURST}
    with ThreadPoolExecutor(BURST) as pool:
        list(pool.map(lambda _: client.post("/generate", json=body), range(BURST)))
    rest(BURST_EVERY * 3 / 4)


# Users by key; users of a key share its limits.
TEAMS: dict[str, tuple[User, ...]] = {
    "readers": (stream, stream, batch, choose, complete, embed),
    "talkers": (chat, chat, respond, message),
    "crawler": (hurry,),
    "jobs": (leave, err, burst),
}


@contextlib.contextmanager
def running(url: str, keys: Mapping[str, str], seconds: float) -> Iterator[None]:
    """Puts load on a service of this machine, each user from a loopback address of its own.

    Args:
        url: URL of the service.
        keys: key of each team.
        seconds: longest duration.
    """
    deadline = time.monotonic() + seconds
    stopped = threading.Event()

    def live(team: str, user: User, number: int) -> None:
        draw = random.Random(number)  # noqa: S311 - the same users each time
        client = httpx2.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {keys[team]}"},
            transport=httpx2.HTTPTransport(local_address=f"127.0.0.{10 + number}"),
            timeout=60,
        )
        with client:
            while not stopped.is_set() and time.monotonic() < deadline:
                user(client, draw, stopped.wait)

    users = [(team, user) for team, members in TEAMS.items() for user in members]
    threads = [
        threading.Thread(target=live, args=(team, user, number))
        for number, (team, user) in enumerate(users)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join()

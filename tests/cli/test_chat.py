"""`chat` over a pipe, and its session on a terminal."""

import io
import json
from collections.abc import Iterator

import httpx2
import pytest
from rich.console import Console

from src.cli.chat import Session
from src.cli.client import Sampling
from src.errors import CommandError
from src.main import create_app
from tests.conftest import create_settings
from tests.support.servers import serve_app
from tests.support.tiny_models import END
from tests.support.tools import THINKING_TEMPLATE

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."


class Talk:
    """A session with a real server, its requests, and what it prints on a terminal."""

    def __init__(self, url: str, model: str, **options: object) -> None:
        self.requests: list[dict] = []
        self.screen = io.StringIO()
        self.client = httpx2.Client(base_url=url, event_hooks={"request": [self._record]})
        out = Console(file=self.screen, force_terminal=True, color_system="standard")
        sampling = Sampling(temperature=0, max_tokens=40)
        self.session = Session(self.client, model, sampling, out=out, **options)

    def _record(self, request: httpx2.Request) -> None:
        self.requests.append(json.loads(request.content))

    @property
    def messages(self) -> list[tuple[str, str]]:
        """Roles and texts of the last request."""
        return [(one["role"], one["content"]) for one in self.requests[-1]["messages"]]


@pytest.fixture
def talk(server) -> Iterator[Talk]:
    talk = Talk(server.url, "storyteller")
    with talk.client:
        yield talk


def test_each_line_of_a_pipe_is_answered(run, server):
    lines = f"{QUESTION}\n\n/set temperature 0\n{QUESTION}\n/quit\nnever asked\n"
    done = run("chat", "--url", server.url, "--temperature", 0, stdin=lines)
    assert done.status == 0
    assert done.out.splitlines() == [ANSWER, ANSWER]
    assert done.err.count(" tokens/s, first after ") == 2


def test_a_wrong_command_in_a_pipe_ends_it(run, server):
    done = run("chat", "--url", server.url, stdin=f"/nonsense\n{QUESTION}\n")
    assert (done.status, done.out) == (1, "")
    assert done.err == "Error: There is no command /nonsense; /help lists them.\n"


def test_the_conversation_is_sent_until_it_is_reset(talk):
    talk.session.enter(QUESTION)
    talk.session.enter("And of Italy?")
    assert talk.messages[:2] == [("user", QUESTION), ("assistant", ANSWER)]
    talk.session.enter("/reset")
    talk.session.enter(QUESTION)
    assert talk.messages == [("user", QUESTION)]


def test_the_system_prompt_comes_first_and_begins_anew(talk):
    talk.session.enter(QUESTION)
    talk.session.enter("/system You are brief.")
    talk.session.enter(QUESTION)
    assert talk.messages == [("system", "You are brief."), ("user", QUESTION)]


def test_settings_change_and_return_to_the_default(talk):
    talk.session.enter("/set temperature 0.2")
    talk.session.enter("/set max_tokens 3")
    talk.session.enter(QUESTION)
    assert talk.requests[-1]["temperature"] == 0.2
    assert talk.requests[-1]["max_tokens"] == 3
    talk.session.enter("/set max_tokens")
    talk.session.enter(QUESTION)
    assert "max_tokens" not in talk.requests[-1]


@pytest.mark.parametrize(
    "line", ["/set temperature warm", "/set tempo 1", "/sets", "/set max_tokens 0.5"]
)
def test_a_wrong_command_changes_nothing(talk, line):
    with pytest.raises(CommandError):
        talk.session.enter(line)
    talk.session.enter(QUESTION)
    assert talk.requests[-1]["temperature"] == 0


def test_a_refused_question_is_forgotten(talk):
    talk.session.enter("/set temperature 99")
    with pytest.raises(CommandError, match="temperature"):
        talk.session.enter("first")
    talk.session.enter("/set temperature 0")
    talk.session.enter(QUESTION)
    assert talk.messages == [("user", QUESTION)]


def test_thoughts_are_dim_on_a_terminal_and_absent_from_a_pipe(run, one_thread, reciting_model):
    folder = reciting_model(f"<think>\nthe cat\n</think>\n\nIt sat.{END}")
    settings = create_settings(model_name=str(folder), chat_template=THINKING_TEMPLATE)
    with serve_app(create_app(settings)) as server:
        name = str(httpx2.get(server.url + "/v1/models").json()["data"][0]["id"])
        talk = Talk(server.url, name)
        with talk.client:
            talk.session.enter("a")
            talk.session.enter("a")
        done = run("chat", "--url", server.url, "--max-tokens", 40, stdin="a\n")
    assert "\x1b[2m" in talk.screen.getvalue()
    dim = "".join(part.partition("\x1b[0m")[0] for part in talk.screen.getvalue().split("\x1b[2m"))
    assert "cat" in dim
    assert "sat" not in dim
    assert "It sat." in done.out
    assert "cat" not in done.out
    assert talk.messages[1] == ("assistant", "It sat.")


def test_a_model_cannot_steer_the_terminal(one_thread, reciting_model):
    folder = reciting_model("a\x1b[2Jb" + END)
    settings = create_settings(model_name=str(folder), chat_template=THINKING_TEMPLATE)
    with serve_app(create_app(settings)) as server:
        name = str(httpx2.get(server.url + "/v1/models").json()["data"][0]["id"])
        talk = Talk(server.url, name)
        with talk.client:
            talk.session.enter("a")
    assert "\x1b[2J" not in talk.screen.getvalue()
    assert "[2Jb" in talk.screen.getvalue()

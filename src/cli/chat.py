"""`chat`: a conversation in the terminal, or over a pipe with one question a line."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Annotated

import httpx2
import typer
from rich.console import Console

from src.cli.client import CHAT, Answer, Sampling, first_model, open_client, stream
from src.cli.options import DEFAULT_URL, ApiKey, MaxTokens, Model, Seed, Temperature, TopP, Url
from src.cli.terminal import complain, notes, output, write
from src.errors import CommandError

PROMPT = "> "
HELP = """\
/set NAME VALUE   set temperature, top_p, max_tokens, seed or reasoning_effort
/set NAME         leave it to the server; /set alone shows all
/system TEXT      set the system prompt and begin anew; /system alone shows it
/reset            forget the conversation, but not the system prompt
/help             this list
/quit             end the chat, as Ctrl-D does

Ctrl-C stops an answer; at the prompt it ends the chat."""

TYPES = {
    "temperature": float,
    "top_p": float,
    "max_tokens": int,
    "seed": int,
    "reasoning_effort": str,
}
"""Fields that `/set` knows; the server checks their bounds."""


def chat(
    url: Url = DEFAULT_URL,
    model: Model = None,
    api_key: ApiKey = None,
    system: Annotated[str | None, typer.Option(metavar="TEXT", help="System prompt.")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    reasoning_effort: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="none, low, medium or high, of models that think."),
    ] = None,
) -> None:
    """Chat with a model in the terminal; `/help` inside lists what can be set.

    A model's thoughts are dim. Over a pipe each line is a question, and thoughts are left out.
    """
    sampling = Sampling(max_tokens, temperature, top_p, seed, reasoning_effort)
    is_interactive = sys.stdin.isatty()
    with open_client(url, api_key) as client:
        session = Session(client, model or first_model(client), sampling, system)
        if is_interactive:
            notes().out(f"{session.model} at {client.base_url}; /help lists commands", style="dim")
        for line in _lines(is_interactive):
            try:
                if not session.enter(line):
                    return
            except CommandError as error:
                if not is_interactive:
                    raise
                complain(str(error))


def _lines(is_interactive: bool) -> Iterator[str]:
    """Yields the lines of standard input without their ends."""
    if not is_interactive:
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    with suppress(ImportError):  # it lets `input` edit lines and recall them
        import readline  # noqa: F401, PLC0415
    try:
        while True:
            yield input(PROMPT)
    except EOFError:
        notes().out("")
    except KeyboardInterrupt:
        notes().out("")
        raise


@dataclass(slots=True)
class Session:
    """A conversation with one model.

    Args:
        client: of the server.
        model: name of the model.
        sampling: fields of all requests.
        system: system prompt; None sends none.
        out: console of the answers.
    """

    client: httpx2.Client
    model: str
    sampling: Sampling
    system: str | None = None
    out: Console = field(default_factory=output)
    _messages: list[dict[str, str]] = field(default_factory=list)

    def enter(self, line: str) -> bool:
        """Answers a question or runs a command; returns False for the end of the chat.

        Raises:
            CommandError: the server refuses, or there is no such command.
        """
        name, _, argument = line.strip().partition(" ")
        match name:
            case "/quit" | "/exit" | "/bye":
                return False
            case "/help":
                notes().out(HELP)
            case "/reset":
                self._messages.clear()
            case "/system":
                self._change_system(argument.strip())
            case "/set":
                self._set(*argument.split(maxsplit=1))
            case _ if name.startswith("/"):
                raise CommandError(f"There is no command {name}; /help lists them.")
            case _ if line.strip():
                self._ask(line)
        return True

    def _change_system(self, text: str) -> None:
        if text:
            self.system = text
            self._messages.clear()
        else:
            notes().out(self.system or "no system prompt")

    def _set(self, name: str = "", value: str | None = None) -> None:
        """Changes a field of all later requests, or shows all fields."""
        if not name:
            for field_name, current in asdict(self.sampling).items():
                notes().out(f"{field_name} = {'the default' if current is None else current}")
            return
        if name not in TYPES:
            raise CommandError(f"There is no {name} to set; there are {', '.join(TYPES)}.")
        try:
            setattr(self.sampling, name, None if value is None else TYPES[name](value))
        except ValueError:
            raise CommandError(f"{value} is no value of {name}.") from None

    def _ask(self, question: str) -> None:
        """Streams the answer to a question; without one the question is forgotten."""
        self._messages.append({"role": "user", "content": question})
        answer = Answer.start()
        try:
            self._stream(answer)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            write(self.out, " ...\n")
        finally:
            if answer.text:
                self._messages.append({"role": "assistant", "content": answer.text})
            else:
                self._messages.pop()
        notes().out(_describe(answer), style="dim")

    def _stream(self, answer: Answer) -> None:
        system = [{"role": "system", "content": self.system}] if self.system else []
        body = {
            "model": self.model,
            "messages": system + self._messages,
            **self.sampling.fields(),
        }
        for delta in stream(self.client, CHAT, body):
            if delta.thought and self.out.is_terminal:
                write(self.out, delta.thought, "dim")
            if delta.text:
                has_thought = answer.thought and not answer.text and self.out.is_terminal
                write(self.out, "\n\n" + delta.text if has_thought else delta.text)
            answer.add(delta)
        write(self.out, "\n")


def _describe(answer: Answer) -> str:
    """Returns counts and times of an answer, in one line."""
    parts = [f"{answer.num_tokens} tokens in {max(answer.seconds, 0):.2f} s"]
    if answer.tokens_per_second is not None:
        parts.append(f"{answer.tokens_per_second:.1f} tokens/s")
    if answer.time_to_first_token is not None:
        parts.append(f"first after {answer.time_to_first_token:.2f} s")
    if answer.finish_reason == "length":
        parts.append("cut at the limit of tokens")
    return f"[{', '.join(parts)}]"

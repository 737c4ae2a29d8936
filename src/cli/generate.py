"""`generate`: the continuation of one text."""

import sys
from typing import Annotated

import httpx2
import typer

from src.cli.client import COMPLETIONS, Answer, Sampling, first_model, open_client, stream
from src.cli.options import (
    DEFAULT_URL,
    ApiKey,
    AsJson,
    MaxTokens,
    Model,
    Seed,
    Temperature,
    TopP,
    Url,
)
from src.cli.terminal import output, write


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(help="Text to continue; without it standard input is read."),
    ] = None,
    url: Url = DEFAULT_URL,
    model: Model = None,
    api_key: ApiKey = None,
    max_tokens: MaxTokens = 200,
    temperature: Temperature = None,
    top_p: TopP = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Continue a text, and print the new text as it comes.

    With `--json` it is one object at the end, with counts and times in seconds.
    """
    prompt = _read_prompt() if prompt is None else prompt
    sampling = Sampling(max_tokens, temperature, top_p, seed)
    with open_client(url, api_key) as client:
        name = model or first_model(client)
        body = {"model": name, "prompt": prompt, **sampling.fields()}
        answer = _print_answer(client, body, is_quiet=as_json)
    if as_json:
        output().print_json(data=_as_dict(name, answer), ensure_ascii=False)


def _read_prompt() -> str:
    """Returns the text of standard input without the newline that `echo` adds."""
    if sys.stdin.isatty():
        raise typer.BadParameter("give a text, or pipe one in", param_hint="PROMPT")
    return sys.stdin.read().removesuffix("\n")


def _print_answer(client: httpx2.Client, body: dict[str, object], *, is_quiet: bool) -> Answer:
    answer, out = Answer.start(), output()
    for delta in stream(client, COMPLETIONS, body):
        answer.add(delta)
        if not is_quiet:
            write(out, delta.text)
    if not is_quiet:
        write(out, "\n")
    return answer


def _as_dict(model: str, answer: Answer) -> dict[str, object]:
    return {
        "model": model,
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.num_prompt_tokens,
        "completion_tokens": answer.num_tokens,
        "time_to_first_token": answer.time_to_first_token,
        "tokens_per_second": answer.tokens_per_second,
    }

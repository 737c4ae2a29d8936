"""Options that several commands share."""

from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:8000"
URL_VARIABLE = "INFERENCE_URL"
KEY_VARIABLES = ["API_KEY", "OPENAI_API_KEY"]
SERVER = "Server"
SAMPLING = "Sampling"

Url = Annotated[
    str,
    typer.Option(
        metavar="URL",
        envvar=URL_VARIABLE,
        help="URL of the server, with or without /v1.",
        rich_help_panel=SERVER,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Name of the model; by default the first that the server lists.",
        rich_help_panel=SERVER,
    ),
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        envvar=KEY_VARIABLES,
        help="Key of the server, if it needs one.",
        rich_help_panel=SERVER,
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=1, metavar="N", help="Largest number of new tokens.", rich_help_panel=SAMPLING
    ),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="NUMBER",
        help="0 always takes the most likely token.",
        rich_help_panel=SAMPLING,
    ),
]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        metavar="NUMBER",
        help="Probability mass of nucleus sampling.",
        rich_help_panel=SAMPLING,
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(metavar="N", help="Seed of repeatable sampling.", rich_help_panel=SAMPLING),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

"""`keys`: the file of API keys of AUTH=api_key."""

from pathlib import Path
from typing import Annotated

import typer

MAX_DAYS = 36500
SCOPES = "generate, embeddings, metrics and admin, which is all"

keys_app = typer.Typer(
    help="Create, list and revoke API keys. The server reads their file again when it changes.",
    no_args_is_help=True,
)


@keys_app.callback()
def options(
    context: typer.Context,
    file: Annotated[
        Path,
        typer.Option(
            metavar="FILE", envvar="API_KEYS_FILE", help="File of the keys.", show_default=False
        ),
    ],
) -> None:
    """Reads the option that stands before a subcommand."""
    context.obj = file


@keys_app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of its owner, for logs and lists.")],
    scopes: Annotated[
        str, typer.Option(metavar="NAMES", help=f"Separated by commas: {SCOPES}.")
    ] = "generate,embeddings",
    days: Annotated[
        int | None, typer.Option(min=1, max=MAX_DAYS, metavar="N", help="Days until it expires.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(metavar="N", help="Requests in each RATE_LIMIT_PERIOD.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Tokens in each RATE_LIMIT_PERIOD.")
    ] = None,
    concurrent: Annotated[
        int | None, typer.Option(metavar="N", help="Requests at the same time.")
    ] = None,
    weight: Annotated[
        int,
        typer.Option(
            metavar="N", help="Share of the queue and of the engine, beside keys of weight 1."
        ),
    ] = 1,
) -> None:
    """Create a key and show it, once: the file keeps its SHA-256 only."""
    # Only here, as in the functions below: the module needs pydantic.
    from src.auth.key_file import create_key  # noqa: PLC0415

    limits = {"requests": requests, "tokens": tokens, "concurrent": concurrent}
    typer.echo(create_key(context.obj, name, scopes.split(","), days, limits, weight))
    typer.echo("This key is shown once; the file keeps its SHA-256 only.", err=True)


@keys_app.command("list")
def list_(context: typer.Context) -> None:
    """Print all keys: id, state, creation date, scopes, expiry, weight, limits, name."""
    from src.auth.key_file import describe, read_file  # noqa: PLC0415

    for key in read_file(context.obj).keys:
        typer.echo(describe(key))


@keys_app.command()
def revoke(
    context: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` prints it.")],
) -> None:
    """Revoke a key; its running requests continue to their end."""
    from src.auth.key_file import revoke_key  # noqa: PLC0415

    revoked = revoke_key(context.obj, key_id)
    typer.echo(f"revoked {revoked.id}: {revoked.name}")

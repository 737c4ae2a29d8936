"""`models`: the names that a server serves, and downloads from the hub."""

from dataclasses import replace
from typing import Annotated

import typer
from rich.table import Table

from src.cli.client import list_models, open_client
from src.cli.options import DEFAULT_URL, ApiKey, AsJson, Url
from src.cli.terminal import output

models_app = typer.Typer(help="List the models of a server, or download one.", no_args_is_help=True)


@models_app.command("list")
def list_(url: Url = DEFAULT_URL, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show the models of a server: their names, and their contexts in tokens."""
    with open_client(url, api_key) as client:
        models = list_models(client)
    if as_json:
        output().print_json(data=models, ensure_ascii=False)
        return
    table = Table("model", "context")
    for model in models:
        table.add_row(str(model.get("id")), str(model.get("max_model_len", "")))
    output().print(table)


@models_app.command()
def pull(
    name: Annotated[
        str,
        typer.Argument(
            help="As MODEL_NAME: a hub id, with an optional `@revision` and `:file.gguf`."
        ),
    ],
) -> None:
    """Download a model's files from the hub, as `serve` would, and print where they are.

    They go to MODEL_CACHE_DIR; HF_TOKEN opens private models. Files that are there already are
    not loaded again.
    """
    # Only here: settings need pydantic, and downloads need the hub's library.
    from src.config import load_settings  # noqa: PLC0415
    from src.engine.model.source import find_model_path  # noqa: PLC0415

    config = load_settings().engine_config()
    typer.echo(find_model_path(replace(config, model_name=name)))

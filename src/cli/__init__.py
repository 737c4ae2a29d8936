"""Command line, `python -m src`: serve, chat, generate, batch, bench, models, keys, usage."""

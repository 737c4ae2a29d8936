"""Command line: `python -m src` with serve, chat, generate, bench, models, keys and usage."""

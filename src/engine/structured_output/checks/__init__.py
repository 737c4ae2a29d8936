"""Checks and rewrites of grammars before they are compiled, in bounded time."""

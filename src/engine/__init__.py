"""The engine: token ids in, token ids out. Imports no web framework and no pydantic."""

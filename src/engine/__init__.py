"""Tokens in, tokens out. Imports no web framework, no pydantic, no prometheus."""

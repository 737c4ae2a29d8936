"""Anthropic's API: what its clients send and expect, over the same engine."""

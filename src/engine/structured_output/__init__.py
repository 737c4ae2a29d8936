"""Structured output: answers in the shape of a JSON schema, a pattern or a grammar."""

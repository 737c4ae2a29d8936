"""Conversion between text and token ids: tokenization, chat templates, detokenization."""

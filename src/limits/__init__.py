"""Limits per client and per API key: requests, tokens, concurrency; the usage log."""

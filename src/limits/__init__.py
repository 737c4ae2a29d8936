"""Limits per client and per key: requests, tokens, concurrency; the log of usage."""

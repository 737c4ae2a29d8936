"""Sampling: logits processors, top-k/top-p/min-p, and log-probabilities."""

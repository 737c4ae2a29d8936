"""Attention of a step's packed tokens over the paged KV cache."""

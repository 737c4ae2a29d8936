"""From a model's name to its forward pass: files, checks, loading, memory, attention, KV cache."""

"""The model, from MODEL_NAME to its forward pass: files, checks, memory, attention, KV cache."""

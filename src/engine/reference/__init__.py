"""HuggingFace's `generate`, one request at a time: the oracle of the tests."""

"""The reference engine: HuggingFace's `generate`, one request at a time; oracle of the tests."""

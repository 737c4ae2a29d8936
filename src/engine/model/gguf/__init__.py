"""Models in GGUF files: reader, translation to transformers' names, tokenizer."""

"""Between text and token ids: tokenization, chat templates, incremental detokenization."""

"""OpenAI's `/v1/batches`: requests of a file, answered in the background."""

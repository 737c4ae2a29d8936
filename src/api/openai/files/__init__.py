"""OpenAI's `/v1/files`: uploads for batches and fine-tuning, and outputs of batches."""

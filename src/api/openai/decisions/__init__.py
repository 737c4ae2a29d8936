"""`/v1/decisions`: typed questions about an input, answered by probabilities."""

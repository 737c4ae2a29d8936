"""Routes of rerank and score: how well documents answer a query."""

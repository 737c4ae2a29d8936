"""Files and batches: stored uploads, and work that runs in the background. Free of HTTP."""

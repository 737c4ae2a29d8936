"""Commands that measure; what they printed is in LOG.md."""

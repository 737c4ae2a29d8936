"""Lessons that run: each folder has a page with its code, and an exercise with its check."""

"""Faster layers for a CPU, which take the places of a loaded model's own."""

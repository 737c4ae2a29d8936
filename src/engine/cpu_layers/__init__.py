"""Faster layers for CPUs, which replace those of a loaded model."""

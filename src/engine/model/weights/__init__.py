"""Weights of a model: read from its files, and placed on a device."""

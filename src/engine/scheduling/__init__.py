"""Scheduling: queue, fairness, blocks of the cache, and the plan of each step. No torch."""

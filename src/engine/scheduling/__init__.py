"""Scheduling: queue, fairness, cache slots, and the plan of each step. No torch."""

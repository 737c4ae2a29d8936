"""Plans each step over sequences of token ids, slots and budgets. No torch."""

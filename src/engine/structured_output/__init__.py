"""Structured output: grammars that constrain which tokens a sequence may generate. No torch."""

"""Background responses: single requests that are answered later, and kept for a while."""

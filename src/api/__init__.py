"""HTTP routes: wire models, rendering of answers, and the table of all routes."""

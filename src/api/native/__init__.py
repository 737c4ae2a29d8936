"""The native API: /generate and the health checks."""

"""ASGI middleware around every route: request log, body limits, headers, last errors."""

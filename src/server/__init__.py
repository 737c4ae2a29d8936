"""The process: uvicorn, its workers, the start, draining and a graceful end."""

"""The asyncio side: request validation, running requests, output dispatch, engine lifecycle."""

"""The asyncio side of the engine: validation, dispatch of outputs, life of the engine."""

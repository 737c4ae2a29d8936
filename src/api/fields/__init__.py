"""Fields of requests that the APIs share: bounds, conversions to the engine's types, paths."""

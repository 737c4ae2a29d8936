"""The way from a chat request to its sequences, shared by the APIs that answer conversations."""

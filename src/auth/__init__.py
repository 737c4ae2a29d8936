"""Authentication and authorization: API keys, JSON Web Tokens, scopes."""

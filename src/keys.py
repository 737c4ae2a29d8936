"""Command line for API keys: `python -m src.keys create|list|revoke`; see auth/keys_cli.py."""

from src.auth.keys_cli import main

if __name__ == "__main__":
    main()

"""Command line of the service: `python -m src --help`; see src/cli."""

from src.cli.app import main

if __name__ == "__main__":
    main()

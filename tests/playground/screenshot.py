"""Writes docs/playground.png, the screenshot of README.md: `make playground-screenshot`."""

import tempfile
from pathlib import Path

from src.main import create_app
from tests.conftest import create_settings
from tests.playground.test_browser import browse
from tests.support.servers import ROOT, serve_app

SCREENSHOT = ROOT / "docs" / "playground.png"


def main() -> None:
    app = create_app(create_settings())
    with tempfile.TemporaryDirectory() as folder, serve_app(app) as server:
        browse("screenshot", "chromium", Path(folder), server.url, SCREENSHOT=str(SCREENSHOT))


if __name__ == "__main__":
    main()

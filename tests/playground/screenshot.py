"""Takes screenshots of the playground: `make playground-screenshot`.

Each view in light and dark goes into a folder, the first argument; README.md's three into docs/.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from src.main import create_app
from tests.conftest import create_settings
from tests.playground.test_browser import browse
from tests.support.servers import ROOT, serve_app

CHOSEN = {
    "tokens-light.png": "playground.png",
    "engine-dark.png": "playground-engine.png",
    "chat-light.png": "playground-chat.png",
}
"""Screenshots that the documentation shows, and their names in docs/."""


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    app = create_app(create_settings())
    with tempfile.TemporaryDirectory() as profile, serve_app(app) as server:
        browse("screenshot", "chromium", Path(profile), server.url, SCREENSHOTS=str(folder))
    for name, documented in CHOSEN.items():
        shutil.copyfile(folder / name, ROOT / "docs" / documented)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())

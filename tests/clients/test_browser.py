"""The documentation in a real browser: Swagger UI with keys and tokens, ReDoc, other origins."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.auth.test_jwt import AUDIENCE, ISSUER, pem, sign
from tests.support.keys import bearer, create_key
from tests.support.servers import ROOT, LocalServer, free_port

BROWSERS = ("chromium", "google-chrome", "chromium-browser")
SCRIPT = ROOT / "tests" / "clients" / "browse_docs.mjs"


@pytest.fixture
def browser() -> str:
    """CI installs one, and playwright; elsewhere a test without them is skipped."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None or not (ROOT / ".clients" / "node" / ".installed").exists():
        message = "needs Chromium (Debian's package of that name) and `make clients`"
        assert "CI" not in os.environ, message
        pytest.skip(message)
    return found


def credentials(auth: str, folder: Path) -> tuple[str, dict[str, object]]:
    """Creates valid credentials; returns them and the settings of a service that accepts them."""
    if auth == "api_key":
        file = folder / "keys.json"
        return create_key(file, "reader", "--scopes", "generate,metrics"), {"api_keys_file": file}
    private_key = rsa.generate_private_key(65537, 2048)
    (folder / "public.pem").write_text(pem(private_key))
    names = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
    return sign(private_key), {"jwt_key_file": folder / "public.pem"} | names


@pytest.mark.parametrize("auth", ["api_key", "jwt"])
def test_the_documentation_works_in_a_browser(start_server, browser, tmp_path, auth):
    key, settings = credentials(auth, tmp_path)
    port = free_port()
    server: LocalServer = start_server(
        auth=auth, cors_origins=f"http://127.0.0.1:{port}", **settings
    )
    server.headers = bearer(key)
    done = subprocess.run(
        ["node", "--input-type=module"],
        input=SCRIPT.read_text(),
        cwd=ROOT / ".clients" / "node",  # imports are looked up there
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "SERVER_URL": server.url,
            "KEY": key,
            "BROWSER": browser,
            "PAGE_PORT": str(port),
        },
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr

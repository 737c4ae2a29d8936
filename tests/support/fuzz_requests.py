"""Coverage-guided fuzzing of request bodies: `python -m tests.support.fuzz_requests --seconds 60`.

atheris mutates bodies by the code that they reach, beginning with the documented examples. The app
is the real one, from its outermost middleware to the check of every field. No model is loaded, so a
valid request gets 503. On an unexpected status the process fails and leaves the body in a file
`crash-...`, which can be passed to it again.

`make fuzz` installs atheris, which nothing else needs.
"""

import argparse
import asyncio
import json
import logging
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["src", "fastapi", "starlette", "json"]):
    from src.main import create_app
    from tests.conftest import create_settings

EXPECTED = {200, 400, 404, 413, 415, 422, 503}
OPERATION = "post"


class AdmissionController:
    """Hands bodies to the app as a server does, and looks at the answers."""

    def __init__(self) -> None:
        settings = create_settings(rate_limit_requests=10**9, chat_template="{{ messages }}")
        self._app = create_app(settings)
        logging.disable(logging.CRITICAL)
        self._loop = asyncio.new_event_loop()
        paths = self._app.openapi()["paths"]
        self.paths = [path for path in sorted(paths) if OPERATION in paths[path]]
        self._schemas = self._app.openapi()["components"]["schemas"]

    def seeds(self) -> list[bytes]:
        """A body of each route, after the byte that stands for the route."""
        return [
            bytes([index]) + json.dumps(self._example(path)).encode()
            for index, path in enumerate(self.paths)
        ]

    def _example(self, path: str) -> Any:
        operation = self._app.openapi()["paths"][path][OPERATION]
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = self._schemas[reference.rpartition("/")[2]]
        return next(iter(schema.get("examples", [])), dict.fromkeys(schema["properties"]))

    def try_one(self, data: bytes) -> None:
        """Sends one body; the entry point of atheris."""
        path = self.paths[data[0] % len(self.paths)] if data else self.paths[0]
        status = self._loop.run_until_complete(self._status(path, data[1:]))
        assert status in EXPECTED, f"{path} answers {status}"

    async def _status(self, path: str, body: bytes) -> int:
        status = 0

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            nonlocal status
            status = message.get("status", status)

        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": OPERATION.upper(),
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        await self._app(scope, receive, send)
        return status


def main() -> None:
    parser = argparse.ArgumentParser(description="Looks for bodies that break the admission.")
    parser.add_argument("--seconds", type=int, default=60, help="how long")
    parser.add_argument("files", nargs="*", help="bodies to try, and no others")
    arguments = parser.parse_args()
    admission = AdmissionController()
    with tempfile.TemporaryDirectory() as folder:
        for index, seed in enumerate(admission.seeds()):
            Path(folder, str(index)).write_bytes(seed)
        options = arguments.files or [f"-max_total_time={arguments.seconds}", folder]
        atheris.Setup([sys.argv[0], "-max_len=4096", "-len_control=0", *options], admission.try_one)
        atheris.Fuzz()  # which ends the process


if __name__ == "__main__":
    main()

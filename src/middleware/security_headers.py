"""Security headers of every answer: no MIME sniffing, caching, framing or scripts.

Pages of the documentation may run scripts of this server, and their inline scripts by hash. These
pages contain no input of a client.
"""

import base64
import hashlib
import re
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from src.config import Settings

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",  # as frame-ancestors, for older browsers
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
PAGES = frozenset({"/docs", "/docs/oauth2-redirect", "/redoc"})
PAGE_FILES = "/static-offline-docs/"
"""Files of these pages; browsers may cache them, as they are the same for all users."""

PLAYGROUND = "/"
PLAYGROUND_FILES = "/playground/"
"""Files of the playground; their route decides on caching."""

PAGE_POLICY = (
    "default-src 'none'; script-src 'self'{hashes}; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none';"
    " form-action 'none'; frame-ancestors 'none'"
)
PLAYGROUND_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types dompurify"
)
"""Policy of the playground, which shows text of models: HTML is set through DOMPurify alone."""

SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


EXPOSED = (
    "X-Request-ID",
    "Request-Id",
    "Retry-After",
    "RateLimit",
    "RateLimit-Policy",
    "Server-Timing",
    "WWW-Authenticate",
)
"""Headers of an answer that a page's script may read (CORS)."""


def cors_options(settings: Settings) -> dict[str, Any]:
    """Returns the arguments of Starlette's CORSMiddleware for pages of CORS_ORIGINS.

    A page's script may send any header, such as one with an API key. Credentials that a browser
    adds itself (cookies, passwords) are not allowed; no route reads them.
    """
    return {
        "allow_origins": settings.cors_origin_list,
        "allow_methods": ("GET", "POST", "DELETE"),
        "allow_headers": ("*",),
        "allow_credentials": False,
        "expose_headers": EXPOSED,
    }


class SecurityHeadersMiddleware:
    """Adds the headers to every answer, errors and streams included.

    Args:
        app: the app inside.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        page = _Page(send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                cache = headers.get("Cache-Control")
                headers.update(HEADERS)
                if scope["path"] == PLAYGROUND:
                    headers["Content-Security-Policy"] = PLAYGROUND_POLICY
                elif scope["path"].startswith(PAGE_FILES):
                    del headers["Cache-Control"]
                elif scope["path"].startswith(PLAYGROUND_FILES) and cache is not None:
                    headers["Cache-Control"] = cache
            await send(message)

        is_page = scope["path"] in PAGES
        await self._app(scope, receive, page.send if is_page else send_with_headers)


class _Page:
    """Delays an answer's head until its body is known, for the hashes of its inline scripts.

    Args:
        send: of the answer.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._head: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._head = message
            return
        if self._head is not None:
            policy = PAGE_POLICY.format(hashes=_hashes(message.get("body", b"")))
            headers = MutableHeaders(scope=self._head)
            headers.update(HEADERS | {"Content-Security-Policy": policy})
            await self._send(self._head)
            self._head = None
        await self._send(message)


def _hashes(page: bytes) -> str:
    digests = [hashlib.sha256(script).digest() for script in SCRIPT.findall(page)]
    return "".join(f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

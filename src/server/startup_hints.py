"""Log lines once the service is ready: requests to try, the documentation, how to stop it."""

import json
import logging
import shlex

from src.config import Settings
from src.inference import InferenceEngine

logger = logging.getLogger(__name__)

PROMPT = {"prompt": "Once upon a time", "max_length": 50}
QUESTION = {"role": "user", "content": "What is the capital of France?"}
KEY_HEADER = ' -H "Authorization: Bearer $API_KEY"'

# Names to print for addresses; nothing is bound to them here.
LOCAL = dict.fromkeys(("0.0.0.0", "127.0.0.1", "::", "::1"), "localhost")  # noqa: S104 # nosec


def local_url(settings: Settings) -> str | None:
    """Returns the URL for users on this machine; None if the system chooses the port."""
    if settings.port == 0:
        return None
    host = LOCAL.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def log_hints(url: str, engine: InferenceEngine, settings: Settings) -> None:
    """Logs commands for a user on this machine.

    Args:
        url: of the service, without a path.
        engine: with its model loaded.
        settings: decide about the API key in the requests.
    """
    headers = "" if settings.auth == "none" else KEY_HEADER
    logger.info("try it: %s", _curl(f"{url}/generate", headers, PROMPT))
    if engine.codec.chat_template is not None:
        body = {"model": engine.model_name, "messages": [QUESTION]}
        logger.info("chat: %s", _curl(f"{url}/v1/chat/completions", headers, body))
    logger.info("documentation: %s/docs", url)
    logger.info("to stop the service: Ctrl+C")


def _curl(url: str, headers: str, body: object) -> str:
    data = shlex.quote(json.dumps(body))
    return f"curl -s {url} -H 'Content-Type: application/json'{headers} -d {data}"

"""Failures of servers and connections as sentences for a person at a terminal."""

from typing import Any

import httpx2

from src.errors import CommandError

MAX_LENGTH = 500  # characters of a server's own message


def answer_failure(response: httpx2.Response) -> CommandError:
    """Returns the failure of an answer, which has been read."""
    message = _message_of(response)
    match response.status_code:
        case 401 if "Authorization" in response.request.headers:
            text = f"The server does not accept this API key: {message}"
        case 401:
            text = "The server needs an API key: set API_KEY, or pass --api-key."
        case 404 if "model" in message.lower():
            text = f"{message} `models list` shows the names of its models."
        case 404:
            url = response.request.url
            text = f"There is no {url.path} at {url.host}: it may be no OpenAI-compatible server."
        case 429:
            text = f"The server accepts no more requests at the moment: {message}"
        case 503:
            text = f"The server cannot answer at the moment: {message}"
        case status:
            text = f"The server answered with status {status}: {message}"
    return CommandError(text + _when_to_retry(response))


def stream_failure(event: dict[str, Any]) -> CommandError:
    """Returns the failure that an event reports in the middle of an answer."""
    return CommandError(f"The server failed during the answer: {_text_of(event)}")


def transport_failure(error: Exception, url: str) -> CommandError:
    """Returns the failure of a connection."""
    match error:
        case httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            text = f"{url} is no URL of a server, such as http://127.0.0.1:8000."
        case httpx2.ConnectError() | httpx2.ConnectTimeout():
            text = f"No server answers at {url}. `python -m src serve` starts one on this machine."
        case httpx2.TimeoutException():
            text = f"The server at {url} has been silent for too long."
        case httpx2.RemoteProtocolError() | httpx2.ReadError():
            text = f"The server at {url} closed the connection before its answer was complete."
        case _:
            text = f"The connection to {url} failed: {str(error) or type(error).__name__}."
    return CommandError(text)


def _message_of(response: httpx2.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return _shortened(response.text or response.reason_phrase)
    return _text_of(body if isinstance(body, dict) else {"error": body})


def _text_of(body: dict[str, Any]) -> str:
    """Returns the message of an error's body: OpenAI's, FastAPI's, or whatever it is."""
    error = body.get("error", body.get("detail", body))
    message = error.get("message", error) if isinstance(error, dict) else error
    return _shortened(str(message))


def _shortened(text: str) -> str:
    """Returns the text on one line, with a full stop at its end."""
    line = " ".join(text.split())[:MAX_LENGTH].rstrip(".")
    return f"{line}."


def _when_to_retry(response: httpx2.Response) -> str:
    seconds = response.headers.get("Retry-After", "")
    if not seconds.isdigit():
        return ""
    return f" Try again in {seconds} {'second' if seconds == '1' else 'seconds'}."

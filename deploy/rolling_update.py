"""Updates two servers behind nginx one after the other while clients stream through it.

    .venv/bin/python -m deploy.rolling_update

This is docs/deployment.md's rolling update on one machine. A server is taken out of nginx, gets
SIGTERM, finishes running requests, is started again, and returns when it is ready. Needs nginx on
the PATH. The exit status is 1 if a request failed or a stream broke.
"""

import argparse
import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import httpx2

ROOT = Path(__file__).parent.parent
NGINX = ROOT / "deploy" / "nginx" / "nginx.conf"
PORTS = (8101, 8102)
HEARD_SECONDS = 2  # seconds until nginx' old workers accept no more requests
REQUEST = {"prompt": "Once upon a time", "ignore_eos": True}
SETTINGS = {
    "HOST": "127.0.0.1",
    "MODEL_NAME": "storyteller",
    "RATE_LIMIT_REQUESTS": "1000000",
    "SHUTDOWN_GRACE_SECONDS": "70",
    "FORWARDED_ALLOW_IPS": "127.0.0.1",
    "LOG_LEVEL": "ERROR",
    "OMP_NUM_THREADS": "1",
}


class Servers:
    """The servers, and the nginx in front of them.

    Args:
        folder: folder for nginx' files.
        port: port of nginx.
        ports: ports of the servers.
        settings: settings of the servers, beside SETTINGS.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        ports: Sequence[int] = PORTS,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._ports = ports
        self._settings = SETTINGS | dict(settings)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        config = NGINX.read_text().replace("listen 8080;", f"listen 127.0.0.1:{port};")
        (folder / "nginx.conf").write_text(config.replace("/tmp/", f"{folder}/"))  # noqa: S108

    async def start_all(self) -> None:
        for port in self._ports:
            self.start(port)
        for port in self._ports:
            await until_ready(port)
        self._name(out=None)
        self._nginx()

    def stop_all(self) -> None:
        self._nginx("-s", "stop")
        for port in self._processes:
            self.kill(port)

    def kill(self, port: int) -> None:
        """Kills a server; returns when its process is gone."""
        self._processes[port].kill()
        self._processes[port].wait()

    async def update(self, port: int) -> int:
        """Replaces a server; returns the exit status of the old one."""
        self._name(out=port)
        self._nginx("-s", "reload")
        await asyncio.sleep(HEARD_SECONDS)
        old = self._processes[port]
        old.send_signal(signal.SIGTERM)
        status = await asyncio.to_thread(old.wait)
        self.start(port)
        await until_ready(port)
        self._name(out=None)
        self._nginx("-s", "reload")
        return status

    def start(self, port: int) -> None:
        self._processes[port] = subprocess.Popen(
            [sys.executable, "-m", "src.main"],
            cwd=ROOT,
            env=os.environ | self._settings | {"PORT": str(port)},
        )

    def _name(self, out: int | None) -> None:
        options = "max_fails=1 fail_timeout=5s"  # as in upstream.conf
        lines = (
            f"server 127.0.0.1:{port} {'down' if port == out else options};\n"
            for port in self._ports
        )
        (self._folder / "upstream.conf").write_text("".join(lines))

    def _nginx(self, *arguments: str) -> None:
        config = str(self._folder / "nginx.conf")
        command = ["nginx", "-p", str(self._folder), "-c", config, *arguments]
        subprocess.run(command, check=True)  # noqa: S603


async def until_ready(port: int) -> None:
    async with httpx2.AsyncClient() as client:
        for _ in range(600):
            try:
                answer = await client.get(f"http://127.0.0.1:{port}/health/ready")
                if answer.status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            await asyncio.sleep(0.2)
    raise TimeoutError(f"the server on port {port} did not become ready")


async def _ask_until(stop: asyncio.Event, url: str, index: int, counts: Counter[str]) -> None:
    """One client: requests in turn, alternating streams and whole answers."""
    async with httpx2.AsyncClient(base_url=url, timeout=120) as client:
        while not stop.is_set():
            is_stream = (index + counts.total()) % 3 != 0
            body = REQUEST | {"max_length": 30 + 90 * (index % 4), "stream": is_stream}
            try:
                answer = await client.post("/generate", json=body)
                problem = _problem(answer, body["max_length"])
            except httpx2.TransportError as error:
                problem = repr(error)
            counts[problem or ("streams" if is_stream else "answers")] += 1


def _problem(answer: httpx2.Response, num_tokens: object) -> str | None:
    """Returns the fault of an answer, None without one."""
    if answer.status_code != 200:
        return f"{answer.status_code} {answer.text[:200]}"
    last: dict[str, object]
    if answer.headers["content-type"].startswith("text/event-stream"):
        *_, event, done = answer.text.strip().split("\n\n")
        if done != "data: [DONE]":
            return f"a stream ended with {done[:200]}"
        last = json.loads(event.removeprefix("data: "))
    else:
        last = answer.json()["generated"][0]
    return None if last["tokens"] == num_tokens else f"an answer of {last['tokens']} tokens"


async def run(num_clients: int, num_rounds: int, port: int) -> bool:
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = Servers(folder, port)
        stack.callback(servers.stop_all)
        await servers.start_all()
        stop = asyncio.Event()
        clients = [
            asyncio.create_task(_ask_until(stop, servers.url, index, counts))
            for index in range(num_clients)
        ]
        await asyncio.sleep(3)
        for server in PORTS * num_rounds:
            begin, before = time.monotonic(), counts.total()
            status = await servers.update(server)
            seconds = time.monotonic() - begin
            _say(
                f"{server}: old one ended with {status}, new one ready after {seconds:.0f} s;"
                f" {counts.total() - before} requests meanwhile"
            )
            counts["servers that exited with an error"] += status != 0
        await asyncio.sleep(3)
        stop.set()
        await asyncio.gather(*clients)
    return _report(+counts)


def _report(counts: Counter[str]) -> bool:
    num_good = counts.pop("streams", 0), counts.pop("answers", 0)
    _say(f"{num_good[0]} streams and {num_good[1]} whole answers came complete")
    _say(f"{counts.total()} failed")
    for problem, number in counts.items():
        _say(f"  {number} x {problem}")
    return not counts and all(num_good)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=8, help="concurrent clients")
    parser.add_argument("--rounds", type=int, default=1, help="replacements of each server")
    parser.add_argument("--port", type=int, default=8100, help="port of nginx")
    options = parser.parse_args()
    if shutil.which("nginx") is None:
        sys.exit("nginx is not on the PATH; Debian's package is nginx-light")
    return not asyncio.run(run(options.clients, options.rounds, options.port))


if __name__ == "__main__":
    sys.exit(main())

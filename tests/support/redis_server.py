"""A Redis of a test's own, and a way to it on which answers are late or get lost."""

import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry


class Way:
    """The way to a Redis, on which answers take as long as a test wants, or get lost."""

    def __init__(self, port: int) -> None:
        self._to = port
        self.delay: float | None = 0  # seconds; None: answers get lost
        self.asked = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                redis = socket.create_connection(("127.0.0.1", self._to))
                for one, other in ((client, redis), (redis, client)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        is_answer = one.getpeername()[1] == self._to
        with suppress(OSError), one, other:
            while data := one.recv(2**16):
                if not is_answer:
                    self.asked += data
                elif self.delay is None:
                    continue
                else:
                    time.sleep(self.delay)
                other.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@dataclass
class Redis:
    """A Redis of this test, that can be ended and started again."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        again = Retry(ConstantBackoff(0.05), 200)
        with redis.Redis(port=self.port, retry=again) as client:
            client.ping()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

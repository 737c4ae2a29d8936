"""A Redis for one test, and a proxy that delays or drops its answers."""

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


class RedisProxy:
    """TCP proxy to a Redis that delays answers, or drops them."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.delay: float | None = 0  # of answers, in seconds; None drops them
        self.delayed = b""  # part of the commands with such an answer
        self.commands = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                redis = socket.create_connection(("127.0.0.1", self._port))
                commands: list[bytes] = []
                for source, sink in ((client, redis), (redis, client)):
                    arguments = (source, sink, commands)
                    threading.Thread(target=self._copy, args=arguments, daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket, commands: list[bytes]) -> None:
        with suppress(OSError), source, sink:
            is_answer = source.getpeername()[1] == self._port
            while data := source.recv(2**16):
                delay = self.delay if is_answer and self.delayed in commands[-1] else 0
                if not is_answer:
                    commands.append(data)
                    self.commands += data
                if delay is not None:
                    time.sleep(delay)
                    sink.sendall(data)
            sink.shutdown(socket.SHUT_RDWR)  # wakes the thread of the other direction

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@dataclass
class Redis:
    """Redis server that a test can stop and start again."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=subprocess.DEVNULL)
        retry = Retry(ConstantBackoff(0.05), 200)
        with redis.Redis(port=self.port, retry=retry) as client:
            client.ping()

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

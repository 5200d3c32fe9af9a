"""Model servers for tests: real ones as processes of their own, and small ones that misbehave on demand."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
VLLM = ROOT / "build" / "vllm" / "bin" / "python"  # see docs/served.md
TRANSFORMERS = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"
START_S = 300.0


class Server:
    """A real server: its process, and where it listens."""

    def __init__(self, command: list[str], log: Path, environment: dict[str, str]):
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that its children can be killed with it
                env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment},
            )

    def wait_for(self, url: str) -> None:
        """Until it answers at ``url``."""
        end = time.monotonic() + START_S
        while self.process.poll() is None and time.monotonic() < end:
            try:
                urllib.request.urlopen(url, timeout=5.0).close()
            except OSError:
                time.sleep(0.2)
            else:
                return
        pytest.fail(f"the server did not start:\n{self.log.read_text(errors='replace')[-3000:]}")

    def kill(self) -> None:
        """End it without a word, as a crash does."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def transformers_serve(checkpoint: Path, folder: Path) -> Iterator[tuple[Server, str]]:
    """`transformers serve` in float32, and the name of its model; it knows no log-probabilities."""
    port = free_port()
    options = [str(checkpoint), "--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    (folder / "hub").mkdir()  # an empty cache: the server lists what is in it
    server = Server([sys.executable, "-c", TRANSFORMERS, "serve", *options], folder / "log", {"HF_HOME": str(folder)})
    try:
        server.wait_for(f"http://127.0.0.1:{port}/health")
        yield server, f"http://127.0.0.1:{port}#{checkpoint}"
    finally:
        server.kill()


@contextmanager
def vllm_serve(checkpoint: Path, folder: Path) -> Iterator[tuple[Server, str]]:
    """vLLM in float32, and the name of its model, which is the only one."""
    port = free_port()
    options = ["--model", str(checkpoint), "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    options += ["--max-model-len", "2048", "--host", "127.0.0.1", "--port", str(port)]
    server = Server(
        [str(VLLM), "-m", "vllm.entrypoints.openai.api_server", *options],
        folder / "log",
        {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_NO_USAGE_STATS": "1"},
    )
    try:
        server.wait_for(f"http://127.0.0.1:{port}/health")
        yield server, f"http://127.0.0.1:{port}"
    finally:
        server.kill()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Echo:
    """A server that answers each question with its own text; tests replace `chat` to see it fail."""

    def __init__(self) -> None:
        self.models: list[dict[str, str]] = [{"id": "echo"}]
        self.requests: list[dict[str, Any]] = []  # of chats, as they came
        self.keys: set[str | None] = set()  # Authorization headers
        self.sockets: list[socket.socket] = []  # of all connections so far
        self.url = ""
        self.trickles = False  # all is sent a byte each half second, headers and all
        self.trickling = threading.Event()  # somebody waits for that

    def chat(self, request: dict[str, Any]) -> Reply:
        """Status, body and headers of the answer to a request; None breaks the connection instead."""
        return said(text_of(request))

    def hang_up(self) -> None:
        """End all connections."""
        for connection in self.sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


Reply = tuple[int, Any, dict[str, str]] | None


def said(text: str, logprobs: tuple[float, ...] = (-0.5, -0.25)) -> Reply:
    """An answer as OpenAI's format has it."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return 200, {"choices": [choice | {"logprobs": {"content": [{"logprob": p} for p in logprobs]}}]}, {}


def refused(status: int, message: str = "", **headers: str) -> Reply:
    """An error as OpenAI's format has it."""
    return status, {"error": {"message": message, "code": status}}, headers


def text_of(request: dict[str, Any]) -> str:
    """The question in a request."""
    return request["messages"][0]["content"][-1]["text"]


@contextmanager
def serving(echo: Echo) -> Iterator[Echo]:
    """``echo`` behind a port, over HTTP/1.1 with connections that stay open."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16

        def setup(self) -> None:
            super().setup()
            echo.sockets.append(self.connection)

        def do_GET(self) -> None:
            is_there = self.path == "/v1/models"
            self._send((200, {"data": echo.models}, {}) if is_there else refused(404, "Not Found"))

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            echo.requests.append(request)
            echo.keys.add(self.headers["Authorization"])
            is_there = self.path == "/v1/chat/completions"
            self._send(echo.chat(request) if is_there else refused(404, "Not Found"))

        def _send(self, reply: Reply) -> None:
            self.close_connection = reply is None
            if reply is None:
                return
            status, body, headers = reply
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            if echo.trickles:
                self.wfile = io.BytesIO()
            with suppress(OSError):  # a client that does not wait for its answer
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(content)
                if echo.trickles:
                    self._trickle()
                self.wfile.flush()
                self.close_connection = "Content-Length" in headers  # not its true length: no more can follow

        def _trickle(self) -> None:
            echo.trickling.set()
            self.close_connection = True
            for byte in self.wfile.getvalue():  # type: ignore[attr-defined]
                if not echo.trickles:
                    break
                self.connection.sendall(bytes([byte]))
                time.sleep(0.5)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        echo.url = f"http://127.0.0.1:{server.server_port}"
        yield echo
        server.shutdown()

"""HTTP to one model server: connections that stay open, retries, limits of time and size, and errors for people."""

from __future__ import annotations

import io
import json
import math
import os
import random
import socket
import time
from collections import deque
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Any
from urllib.parse import urlsplit

from vlm3_ros.vlm.cancel import Cancel
from vlm3_ros.vlm.interface import ModelError

KEY = "VLM3_API_KEY"  # environment variable with the key that the server asks for, if it does
CONNECT_S = 3.0
ANSWER_S = 60.0  # for a request with all its retries, however slowly its answer trickles in
MOST_BYTES = 4 << 20  # of an answer with its headers: 10,000 tokens with their log-probabilities take half of it
WAITS_S = (0.2, 0.5, 1.0, 2.0)  # before the second and each further try
LONGEST_WAIT_S = 10.0  # whatever a server asks for by Retry-After
SHORTEST_KEY = 6  # characters that are a secret, and not the word "key" or a placeholder
BUSY = (429, 500, 502, 503, 504)  # statuses that may pass
BROKEN = (ConnectionError, IncompleteRead)  # so may these


class TimeUp(Exception):
    """The time for a request ended before its answer came."""


class Refused(ModelError):
    """The server took the request and said no."""

    def __init__(self, text: str, status: int):
        super().__init__(text)
        self.status = status


class Client:
    """Requests to an OpenAI-compatible server at ``url``, for any number of threads.

    ``url`` is http(s)://host[:port][/path], with or without the /v1 at its end. Raises ModelError if it is not.
    ``cancel`` ends requests that are under way: they raise Cancelled.
    """

    def __init__(self, url: str, cancel: Cancel | None = None):
        parts = urlsplit(url)
        try:
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ModelError(f"{url} is no address of a server: {error}") from error
        if not self._host:
            raise ModelError(f"{url} is no address of a server: expected http://host:port#model")
        self.url = url
        self._cancel = cancel or Cancel()
        self._path = parts.path.rstrip("/").removesuffix("/v1") + "/v1"
        self._connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        self._key = os.environ.get(KEY, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ModelError(f"the environment variable {KEY} holds characters that no key can have")
        authorization = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._headers = {"Content-Type": "application/json"} | authorization
        self._idle: deque[HTTPConnection] = deque()

    def close(self) -> None:
        """Close the connections that no thread uses."""
        while self._idle:
            self._idle.pop().close()

    def get(self, path: str) -> Any:
        """The JSON at ``path`` (behind /v1). Raises ModelError."""
        return self._request("GET", path, None, math.inf)

    def post(self, path: str, content: Any, deadline: float = math.inf) -> Any:
        """The JSON in answer to JSON. Raises ModelError, and TimeUp at ``deadline`` (of the monotonic clock)."""
        return self._request("POST", path, json.dumps(content).encode(), deadline)

    def without_key(self, text: str) -> str:
        """A text that a server sent, without the key in it: some repeat what they were sent."""
        return text.replace(self._key, "***") if len(self._key) >= SHORTEST_KEY else text

    def _request(self, method: str, path: str, body: bytes | None, deadline: float) -> Any:
        trouble: ModelError
        waits = iter(WAITS_S)
        end = min(deadline, time.monotonic() + ANSWER_S)
        while True:
            retry_after = 0.0
            try:
                status, retry_after, answer = self._exchange(method, path, body, end)
                if status == 200:
                    return self._json(answer)
                trouble, may_pass = self._refusal(status, answer), status in BUSY
            except (OSError, HTTPException, ValueError) as error:  # a name that is none, a TLS socket hung up
                if isinstance(error, TimeoutError) and time.monotonic() >= deadline:
                    raise TimeUp from error
                trouble, may_pass = self._failure(error), isinstance(error, BROKEN)
            wait = next(waits, None)
            if wait is None or not may_pass:
                raise trouble
            pause = max(wait * random.uniform(0.75, 1.25), min(retry_after, LONGEST_WAIT_S))
            if time.monotonic() + pause >= end:  # a dead server must not pass for a busy one
                raise TimeUp if end == deadline and isinstance(trouble, Refused) else trouble
            self._cancel.wait(pause)

    def _exchange(self, method: str, path: str, body: bytes | None, end: float) -> tuple[int, float, bytes]:
        """Status, seconds that the server asks to wait, and content of one answer.

        An open connection is taken if there is one; if the server has closed it meanwhile, another one at once.
        """
        try:
            connection, is_new = self._idle.pop(), False
        except IndexError:
            connection, is_new = self._connect(self._host, self._port, timeout=CONNECT_S), True
        try:
            with self._cancel.calling(lambda: _hang_up(connection)):
                if is_new:
                    connection.connect()
                    self._cancel.check()  # it may have been set while there was nothing to hang up
                response = self._respond(connection, method, path, body, end)
                answer = response.status, _retry_after(response), _content(response)
        except (OSError, HTTPException, ValueError) as error:
            connection.close()
            self._cancel.check()
            if is_new or not isinstance(error, ConnectionError):
                raise
            return self._exchange(method, path, body, end)
        self._cancel.check()
        if not response.will_close:
            self._idle.append(connection)
        return answer

    def _respond(
        self, connection: HTTPConnection, method: str, path: str, body: bytes | None, end: float
    ) -> HTTPResponse:
        """Send a request; what is read of the response is bounded in time and size."""
        connection.sock.settimeout(max(end - time.monotonic(), 0.001))
        connection.response_class = lambda sock, *args, **options: HTTPResponse(  # type: ignore[assignment]
            _Bounded(sock, end),  # type: ignore[arg-type]
            *args,
            **options,
        )
        connection.request(method, self._path + path, body, self._headers)
        return connection.getresponse()

    def _failure(self, error: Exception) -> ModelError:
        reason = self.without_key(str(error)) or type(error).__name__
        if isinstance(error, TimeoutError):
            return ModelError(f"{self.url} did not answer in time ({reason}): is it overloaded, or out of reach?")
        if isinstance(error, BROKEN):
            return ModelError(f"{self.url} does not answer ({reason}): is the server running, and at this address?")
        return ModelError(f"{self.url} cannot be talked to ({reason}): is this the address of the server?")

    def _json(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except (ValueError, RecursionError) as error:
            excerpt = _excerpt(self.without_key(content.decode(errors="replace")))
            raise ModelError(
                f"{self.url} answers, but not with JSON ({excerpt}): is this an OpenAI-compatible server?"
            ) from error

    def _refusal(self, status: int, content: bytes) -> Refused:
        said = _said(self.without_key(content.decode(errors="replace")))
        if status in (401, 403):
            how = "has another one" if "Authorization" in self._headers else "is not set"
            return Refused(f"{self.url} wants a key ({status}); the environment variable {KEY} {how}: {said}", status)
        return Refused(f"{self.url} refuses ({status}): {said}", status)


class _Bounded(io.RawIOBase):
    """What comes from a socket until ``end`` (of the monotonic clock), and MOST_BYTES of it at most.

    A socket's own time-out begins anew with each byte.
    """

    def __init__(self, sock: socket.socket, end: float):
        self._sock, self._end, self._left = sock, end, MOST_BYTES
        self._raw = sock.makefile("rb", buffering=0)  # keeps the socket open until it is read to its end

    def makefile(self, mode: str) -> io.BufferedReader:
        """What an HTTPResponse asks a socket for."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left_s = self._end - time.monotonic()
        if left_s <= 0.0:
            raise TimeoutError("timed out")
        self._sock.settimeout(left_s)
        count = self._raw.readinto(buffer) or 0
        self._left -= count
        if self._left < 0:
            raise HTTPException(f"it answers with more than {MOST_BYTES >> 20} MiB")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def _content(response: HTTPResponse) -> bytes:
    """All of it, piece by piece: what a header says of its length may be any number."""
    content = b"".join(iter(lambda: response.read(1 << 16), b""))
    if response.length:
        raise IncompleteRead(content, response.length)
    return content


def _hang_up(connection: HTTPConnection) -> None:
    """End a connection under whoever reads from it."""
    if (sock := connection.sock) is not None:  # its reader may set it to None at any moment
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def _retry_after(response: HTTPResponse) -> float:
    """Seconds; 0 where the server names none (or a date, which takes two clocks to agree)."""
    value = response.getheader("Retry-After") or ""
    return float(value) if value.isdecimal() else 0.0


def _said(content: str) -> str:
    """The message in an error's JSON, wherever servers put it."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return _excerpt(content)
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and name in body:
            body = body[name]
    return _excerpt(body if isinstance(body, str) else content)


def _excerpt(content: str) -> str:
    text = " ".join(content.split())
    return text[:300] or "nothing"

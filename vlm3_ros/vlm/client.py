"""HTTP to one model server: connections that stay open, retries, time-outs, and errors for people."""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections import deque
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection, IncompleteRead
from typing import Any
from urllib.parse import urlsplit

from vlm3_ros.vlm.interface import ModelError

KEY = "VLM3_API_KEY"  # environment variable with the key that the server asks for, if it does
CONNECT_S = 3.0
ANSWER_S = 60.0
WAITS_S = (0.2, 0.5, 1.0, 2.0)  # before the second and each further try
LONGEST_WAIT_S = 10.0  # whatever a server asks for by Retry-After
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
    """

    def __init__(self, url: str):
        parts = urlsplit(url)
        try:
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError as error:
            raise ModelError(f"{url} is no address of a server: {error}") from error
        if not self._host:
            raise ModelError(f"{url} is no address of a server: expected http://host:port#model")
        self.url = url
        self._path = parts.path.rstrip("/").removesuffix("/v1") + "/v1"
        self._connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        key = os.environ.get(KEY, "")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
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

    def _request(self, method: str, path: str, body: bytes | None, deadline: float) -> Any:
        trouble: ModelError
        waits = iter(WAITS_S)
        while True:
            retry_after = 0.0
            try:
                status, retry_after, answer = self._exchange(method, path, body, deadline)
                if status == 200:
                    return self._json(answer)
                trouble, may_pass = self._refusal(status, answer), status in BUSY
            except (OSError, HTTPException) as error:
                trouble, may_pass = self._failure(error), isinstance(error, BROKEN)
            wait = next(waits, None)
            if wait is None or not may_pass:
                raise trouble
            pause = max(wait * random.uniform(0.75, 1.25), min(retry_after, LONGEST_WAIT_S))
            if time.monotonic() + pause >= deadline:  # a dead server must not pass for a busy one
                raise TimeUp if isinstance(trouble, Refused) else trouble
            time.sleep(pause)

    def _exchange(self, method: str, path: str, body: bytes | None, deadline: float) -> tuple[int, float, bytes]:
        """Status, seconds that the server asks to wait, and content of one answer.

        An open connection is taken if there is one; if the server has closed it meanwhile, another one at once.
        """
        try:
            connection, is_new = self._idle.pop(), False
        except IndexError:
            connection, is_new = self._connect(self._host, self._port, timeout=CONNECT_S), True
            connection.connect()
        connection.sock.settimeout(min(ANSWER_S, max(deadline - time.monotonic(), 0.001)))
        try:
            connection.request(method, self._path + path, body, self._headers)
            response = connection.getresponse()
            answer = response.status, _retry_after(response), response.read()
        except (OSError, HTTPException) as error:
            connection.close()
            if isinstance(error, TimeoutError) and time.monotonic() >= deadline:
                raise TimeUp from error
            if is_new or not isinstance(error, ConnectionError):
                raise
            return self._exchange(method, path, body, deadline)
        if not response.will_close:
            self._idle.append(connection)
        return answer

    def _failure(self, error: Exception) -> ModelError:
        reason = str(error) or type(error).__name__
        if isinstance(error, TimeoutError):
            return ModelError(f"{self.url} did not answer in time ({reason}): is it overloaded, or out of reach?")
        if isinstance(error, BROKEN):
            return ModelError(f"{self.url} does not answer ({reason}): is the server running, and at this address?")
        return ModelError(f"{self.url} cannot be talked to ({reason}): is this the address of the server?")

    def _json(self, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError as error:
            raise ModelError(
                f"{self.url} answers, but not with JSON ({_excerpt(content)}): is this an OpenAI-compatible server?"
            ) from error

    def _refusal(self, status: int, content: bytes) -> Refused:
        if status in (401, 403):
            how = "has another one" if "Authorization" in self._headers else "is not set"
            return Refused(
                f"{self.url} wants a key ({status}); the environment variable {KEY} {how}: {_said(content)}", status
            )
        return Refused(f"{self.url} refuses ({status}): {_said(content)}", status)


def _retry_after(response: HTTPResponse) -> float:
    """Seconds; 0 where the server names none (or a date, which takes two clocks to agree)."""
    value = response.getheader("Retry-After") or ""
    return float(value) if value.isdecimal() else 0.0


def _said(content: bytes) -> str:
    """The message in an error's JSON, wherever servers put it."""
    try:
        body = json.loads(content)
    except ValueError:
        return _excerpt(content)
    for name in ("error", "message", "detail"):
        if isinstance(body, dict) and name in body:
            body = body[name]
    return body if isinstance(body, str) else _excerpt(content)


def _excerpt(content: bytes) -> str:
    text = " ".join(content.decode(errors="replace").split())
    return text[:300] or "nothing"

"""Damaged answers of a model server, over HTTP from a real one on this machine."""

from __future__ import annotations

import json
import math
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fuzz.values import mutated_bytes, mutated_json
from vlm3_ros.tasks import depth
from vlm3_ros.vlm import Answer, ModelError, Picture
from vlm3_ros.vlm.served import ServedSource

PICTURE = Picture(np.full((64, 64, 3), 128, np.uint8), (64, 64))
QUESTIONS = depth.questions([(10, 20), (30, 40)])
MODELS: dict[str, Any] = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "vllm"}]}
CHAT: dict[str, Any] = {
    "id": "chat-1",
    "object": "chat.completion",
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "<answer> 2.00 meters </answer>", "reasoning_content": None},
            "logprobs": {"content": [{"token": "2", "logprob": -0.5, "bytes": [50], "top_logprobs": []}]},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18},
}


@dataclass(frozen=True)
class Mutant:
    """What a server says; the damaged thing comes when it is opened or only when it is asked about a picture."""

    name: str
    models: bytes
    chat: bytes
    is_early: bool


def mutants(seed: int, folder: Path) -> Iterator[Mutant]:
    """Mutants without end, the same for the same seed."""
    rng = random.Random(seed)
    while True:
        models, chat = json.dumps(MODELS).encode(), json.dumps(CHAT).encode()
        what = rng.choices(("chat", "chat bytes", "models", "models bytes"), (70, 15, 10, 5))[0]
        content: Any = CHAT if what.startswith("chat") else MODELS
        names = []
        for _ in range(rng.choice((1, 1, 2, 3))):
            content, name = mutated_json(content, rng)
            names.append(name)
        damaged = json.dumps(content).encode()
        if what.endswith("bytes"):
            damaged, name = mutated_bytes(damaged, rng, len(damaged))
            names.append(name)
        is_chat = what.startswith("chat")
        yield Mutant(
            f"{what}: {'; '.join(names)}",
            models if is_chat else damaged,
            damaged if is_chat else chat,
            rng.random() < 0.5,
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mutant: Mutant

    def do_GET(self) -> None:
        self._send(self.mutant.models)

    def do_POST(self) -> None:
        question = self.rfile.read(int(self.headers["Content-Length"]))
        is_greeting = b"Hello" in question
        whole = json.dumps(CHAT).encode()
        self._send(whole if is_greeting and not self.mutant.is_early else self.mutant.chat)

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@cache
def _url() -> str:
    """Where the one server of this process listens."""
    _Handler.wbufsize = 1 << 16
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def attempt(mutant: Mutant) -> str | None:
    """Open a model and ask; what came out that is no typed error and no answer."""
    _Handler.mutant = mutant
    try:
        model = ServedSource().open(_url())
        with model.look([PICTURE]) as view:
            answers = view.ask(QUESTIONS)
        model.close()
    except ModelError:
        return None
    wrong = [answer for answer in answers if not _is_answer(answer)]
    return f"answers {str(wrong)[:300]}" if wrong else None


def _is_answer(answer: Answer | None) -> bool:
    if answer is None or type(answer.text) is not str or type(answer.tokens) is not int or answer.tokens < 0:
        return False
    return math.isnan(answer.probability) or 0.0 <= answer.probability <= 1.0

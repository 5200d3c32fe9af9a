"""Models behind an OpenAI-compatible server (vLLM, SGLang): the same look and ask, on any number of machines.

Every question is a request of its own, the pictures first and the text behind them, so that all share what the server
keeps of the start of prompts (prefix caching) and run there together (continuous batching).
"""

from __future__ import annotations

import base64
import hashlib
import logging
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from vlm3_ros.tasks import Question
from vlm3_ros.vlm.cancel import Cancel
from vlm3_ros.vlm.client import Client, Refused, TimeUp
from vlm3_ros.vlm.interface import Answer, ModelError, Picture
from vlm3_ros.vlm.jpeg import encode

log = logging.getLogger(__name__)

IN_FLIGHT = 64  # requests at a time: what fills a server's batch, and no queue worth mentioning behind it

ROUNDING = 1e-3  # log-probabilities of 0 may come out above it by so much

Part = dict[str, Any]  # of a chat message: a picture or a text


class ServedSource:
    """A `Source` of models by ``http://host:port#model``; ``#model`` may be left out where a server has only one.

    ``in_flight`` bounds how many questions are asked at a time; 0 stands for `IN_FLIGHT`. ``cancel`` ends requests.
    """

    def __init__(self, in_flight: int = 0, cancel: Cancel | None = None):
        self._in_flight = in_flight or IN_FLIGHT
        self._cancel = cancel or Cancel()
        self._seen: set[str] = set()

    def memory_bytes(self, name: str) -> int:
        """0: it lives elsewhere. Raises ModelError where its server does not answer for it, unless it once did."""
        if name not in self._seen:
            self.open(name).close()
        return 0

    def free_bytes(self) -> int:
        return 0

    def image_scale(self, name: str) -> float:
        return 1.0

    def open(self, name: str) -> ServedVLM:
        url, _, model = name.partition("#")
        served = ServedVLM(Client(url, self._cancel), model, self._in_flight, self._cancel)
        self._seen.add(name)
        return served


class ServedVLM:
    """A `VLM` on a server. Raises ModelError unless the server answers a question of one word when this is made."""

    def __init__(self, client: Client, model: str = "", in_flight: int = IN_FLIGHT, cancel: Cancel | None = None):
        self._client = client
        self.in_flight = in_flight
        self.cancel = cancel or Cancel()
        owners = self._owners()
        self._model = model or self._only(owners)
        self.keeps_pictures = owners.get(self._model) == "vllm"
        answer = self.answer([{"type": "text", "text": "Hello"}], 1)
        if math.isnan(answer.probability):
            log.warning("%s gives no log-probabilities: how sure its answers are stays unknown", client.url)

    @contextmanager
    def look(self, pictures: Sequence[Picture]) -> Iterator[ServedView]:
        yield ServedView(self, [encode(picture) for picture in pictures])

    def close(self) -> None:
        self._client.close()

    def answer(self, content: Sequence[Part], max_tokens: int, deadline: float = math.inf) -> Answer:
        """The answer to one user message. Raises ModelError, and TimeUp at ``deadline`` (of the monotonic clock)."""
        request = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "top_p": 1,
            "logprobs": True,
        }
        try:
            reply = self._client.post("/chat/completions", request, deadline)
        except Refused as refusal:
            if refusal.status != 404:
                raise
            served = ", ".join(self._owners()) or "nothing that it lists"
            raise ModelError(f"{refusal} It serves: {served}.") from refusal
        try:
            answer = _read(reply)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{self._client.url} answers, but not in the form of OpenAI's chat completions"
            ) from error
        return replace(answer, text=self._client.without_key(answer.text))

    def _owners(self) -> dict[str, str]:
        """Who offers each of the listed models; empty where the server lists none."""
        try:
            listed = self._client.get("/models")["data"]
            return {model["id"]: model.get("owned_by", "") for model in listed if isinstance(model["id"], str)}
        except (Refused, KeyError, TypeError, AttributeError):
            return {}

    def _only(self, owners: dict[str, str]) -> str:
        if len(owners) != 1:
            raise ModelError(
                f"{self._client.url} serves {', '.join(owners) or 'no model that it lists'}: "
                f"say which one is meant, as in {self._client.url}#{next(iter(owners), 'model')}"
            )
        return next(iter(owners))


class ServedView:
    """Pictures that go along with each question, or by name where the server keeps them."""

    def __init__(self, served: ServedVLM, jpegs: Sequence[bytes]):
        self._served = served
        self._is_cached = False  # the server has answered about these pictures
        self._is_kept = served.keeps_pictures
        self._whole: list[Part] = []
        self._named: list[Part] = []
        for jpeg in jpegs:
            url = "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
            name = {"uuid": hashlib.sha256(jpeg).hexdigest()} if served.keeps_pictures else {}
            self._whole.append({"type": "image_url", "image_url": {"url": url}, **name})
            self._named.append({"type": "image_url", "image_url": None, **name})

    def ask(self, questions: Sequence[Question], budget_s: float | None = None) -> list[Answer | None]:
        deadline = math.inf if budget_s is None else time.monotonic() + budget_s
        alone = 0 if self._is_cached else 1  # the first question computes what all others share
        answers = [self._ask(question, deadline) for question in questions[:alone]]
        errors: list[ModelError] = []

        def ask(question: Question) -> Answer | None:
            """None, at once, for what is still waiting when another one has failed."""
            try:
                return None if errors else self._ask(question, deadline)
            except ModelError as error:
                errors.append(error)
                return None

        with ThreadPoolExecutor(self._served.in_flight) as pool:
            try:
                answers += pool.map(ask, questions[alone:])
            except KeyboardInterrupt:  # the pool would wait for all that is in flight
                self._served.cancel.set()
                raise
        if errors:
            raise errors[0]
        return answers

    def _ask(self, question: Question, deadline: float) -> Answer | None:
        if time.monotonic() >= deadline:
            return None
        try:
            if self._is_cached and self._is_kept:
                try:
                    return self._answer(self._named, question, deadline)
                except Refused:  # forgotten meanwhile, or another machine answers
                    self._is_kept = False
            answer = self._answer(self._whole, question, deadline)
        except TimeUp:
            return None
        self._is_cached = True
        return answer

    def _answer(self, pictures: list[Part], question: Question, deadline: float) -> Answer:
        return self._served.answer(
            [*pictures, {"type": "text", "text": question.text}], question.max_tokens, deadline
        )


def _read(reply: Any) -> Answer:
    """One choice with its log-probabilities; a probability of NaN where the server gives none, or what is none.

    Raises KeyError, IndexError, TypeError or AttributeError where the reply has another form.
    """
    choice = reply["choices"][0]
    content = (choice.get("logprobs") or {}).get("content") or []
    logs = [token["logprob"] for token in content]
    text, probability = _text(choice["message"]), _probability(logs)
    used = (reply.get("usage") or {}).get("completion_tokens")
    tokens = len(logs) or (used if type(used) is int and used >= 0 else 0)
    is_cut = choice.get("finish_reason") == "length"
    pieces = () if math.isnan(probability) else _pieces(text, content)
    return Answer(text, probability, tokens=tokens, is_cut=is_cut, pieces=pieces)


def _pieces(text: str, content: list[Any]) -> tuple[tuple[str, float], ...]:
    """The tokens of a text with their log-probabilities; none where a server names them by their numbers."""
    pieces = tuple((str(token.get("token") or ""), min(0.0, token["logprob"])) for token in content)
    return pieces if "".join(piece for piece, _ in pieces).startswith(text) else ()


def _text(message: Any) -> str:
    """What a message says: a text, or a list of parts of which some are.

    Servers that take the reasoning out of an answer leave nothing where it was cut before its end; then the text is
    what it is without them, a think block that does not end.
    """
    content = message["content"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    thought = message.get("reasoning_content") or message.get("reasoning")
    if not content and isinstance(thought, str):
        return f"<think>{thought}"
    if not isinstance(content, str | None):
        raise TypeError(f"a message's content is of type {type(content).__name__}")
    return content or ""


def _probability(logs: list[Any]) -> float:
    """Of all tokens together, in [0, 1]; NaN where there are none, or one that is no log-probability."""
    if not logs or not all(type(log) in (int, float) and log <= ROUNDING for log in logs):
        return math.nan
    return math.exp(min(0.0, sum(logs)))

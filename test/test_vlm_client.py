"""Served models behind servers that are hard to live with."""

from __future__ import annotations

import base64
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np
import pytest
from servers import ROOT, Echo, Reply, free_port, refused, said, serving, text_of

from vlm3_ros.config import Config
from vlm3_ros.tasks import Question
from vlm3_ros.tasks.answers import Grammar, Words
from vlm3_ros.vlm import Answer, Cancel, Cancelled, ModelError, Picture
from vlm3_ros.vlm.factory import models_for
from vlm3_ros.vlm.served import ServedSource

PICTURE = Picture(np.full((48, 64, 3), 128, np.uint8), (64, 32))


def numbered(count: int) -> list[Question]:
    """Questions that can be told apart."""
    return [Question(f"number {i}", Grammar((Words(),)), 8) for i in range(count)]


@pytest.fixture
def echo() -> Iterator[Echo]:
    with serving(Echo()) as server:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short waits between tries."""
    monkeypatch.setattr("vlm3_ros.vlm.client.WAITS_S", (0.01, 0.02, 0.04, 0.08))


def ask(echo: Echo, count: int, budget_s: float | None = None, in_flight: int = 0) -> list[Answer | None]:
    """Answers to ``count`` questions about one picture."""
    with ServedSource(in_flight).open(echo.url).look([PICTURE]) as view:
        return view.ask(numbered(count), budget_s)


def sometimes(count: int, reply: Reply, echo: Echo) -> Callable[[dict[str, Any]], Reply]:
    """A `chat` that gives ``reply`` to the first ``count`` questions after the greeting."""
    usual, left = echo.chat, iter(range(count))

    def chat(request: dict[str, Any]) -> Reply:
        return usual(request) if text_of(request) == "Hello" or next(left, None) is None else reply

    return chat


@pytest.mark.parametrize(("reason", "is_cut"), [("length", True), ("stop", False), (None, False)])
def test_answer_that_the_limit_ended(echo: Echo, reason: str | None, is_cut: bool) -> None:
    usual = echo.chat

    def chat(request: dict[str, Any]) -> Reply:
        status, body, headers = usual(request)
        body["choices"][0]["finish_reason"] = reason
        return status, body, headers

    echo.chat = chat  # type: ignore[method-assign]
    with ServedSource().open(f"{echo.url}/v1#echo").look([PICTURE]) as view:
        (answer,) = view.ask(numbered(1))
    assert answer is not None
    assert answer.is_cut is is_cut


def test_request_and_answer(echo: Echo) -> None:
    with ServedSource().open(f"{echo.url}/v1#echo").look([PICTURE, PICTURE]) as view:
        (answer,) = view.ask(numbered(1))
    assert answer == Answer("number 0", pytest.approx(math.exp(-0.75)), tokens=2)
    request = echo.requests[-1]
    first, second, text = request["messages"][0]["content"]
    assert first == second
    kind, _, data = first["image_url"]["url"].partition(",")
    assert kind == "data:image/jpeg;base64"
    assert cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR).shape == (32, 64, 3)
    assert text == {"type": "text", "text": "number 0"}
    assert {key: request[key] for key in ("model", "max_tokens", "temperature", "logprobs")} == {
        "model": "echo",
        "max_tokens": 8,
        "temperature": 0,
        "logprobs": True,
    }


def test_answers_keep_the_order_and_connections_their_number(echo: Echo) -> None:
    now = most = 0
    lock = threading.Lock()
    delays = np.random.default_rng(0).uniform(0.0, 0.02, 60)

    def chat(request: dict[str, Any]) -> Reply:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(delays[len(text_of(request)) % 7])
        with lock:
            now -= 1
        return said(text_of(request))

    echo.chat = chat  # type: ignore[method-assign]
    answers = ask(echo, 60, in_flight=5)
    assert [answer.text for answer in answers if answer] == [f"number {i}" for i in range(60)]
    assert 1 < most <= 5
    assert len(echo.sockets) <= 5


def test_first_question_goes_alone(echo: Echo) -> None:
    started: list[str] = []
    finished: list[str] = []
    early: list[bool] = []

    def chat(request: dict[str, Any]) -> Reply:
        started.append(text_of(request))
        early.append(len(started) > 2 and len(finished) < 2)  # before the greeting and the first question are done
        time.sleep(0.05)
        finished.append(text_of(request))
        return said(text_of(request))

    echo.chat = chat  # type: ignore[method-assign]
    ask(echo, 8)
    assert started[:2] == ["Hello", "number 0"]
    assert not any(early)


@pytest.mark.parametrize("reply", [refused(429), refused(503, "starting"), refused(500), None], ids=str)
def test_passing_trouble_is_retried(echo: Echo, reply: Reply) -> None:
    echo.chat = sometimes(4, reply, echo)  # type: ignore[method-assign]
    assert [answer.text for answer in ask(echo, 12) if answer] == [f"number {i}" for i in range(12)]


def test_server_says_how_long_to_wait(echo: Echo) -> None:
    echo.chat = sometimes(1, refused(429, Retry_After="1"), echo)  # type: ignore[method-assign]
    start = time.monotonic()
    ask(echo, 1)
    assert 1.0 <= time.monotonic() - start < 2.0


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (refused(500, "engine dead"), r"refuses \(500\): engine dead"),
        (refused(400, "maximum context length is 4096 tokens"), r"refuses \(400\): maximum context length is 4096"),
        ((413, b"<html>Too Large</html>", {}), r"refuses \(413\): <html>Too Large"),
        ((422, {"detail": "no images"}, {}), r"refuses \(422\): no images"),
        ((307, b"", {"Location": "/elsewhere"}), r"refuses \(307\): nothing"),
        (refused(404, "no such model"), r"no such model.*It serves: echo\."),
        (refused(401, "bad key"), r"wants a key \(401\).*VLM3_API_KEY is not set: bad key"),
        ((200, b"<html>Welcome</html>", {}), r"not with JSON \(<html>Welcome</html>\).*OpenAI-compatible"),
        ((200, {"hello": "world"}, {}), "not in the form of OpenAI's chat completions"),
        ((200, [], {}), "not in the form of OpenAI's chat completions"),
        ((200, {"choices": [{"message": None}]}, {}), "not in the form of OpenAI's chat completions"),
        (None, r"does not answer \(Remote end closed connection.*is the server running"),
    ],
)
def test_lasting_trouble_is_an_error(echo: Echo, reply: Reply, message: str) -> None:
    echo.chat = sometimes(10**9, reply, echo)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=message) as error:
        ask(echo, 4)
    assert echo.url in str(error.value)


def test_answer_cut_short_is_retried(echo: Echo) -> None:
    status, body, _ = said("number 0")
    half = json.dumps(body).encode()
    echo.chat = sometimes(1, (status, half[:9], {"Content-Length": str(len(half))}), echo)  # type: ignore
    assert [answer.text for answer in ask(echo, 1) if answer] == ["number 0"]


def test_error_ends_all_questions(echo: Echo) -> None:
    usual = echo.chat
    echo.chat = lambda request: (  # type: ignore[method-assign]
        usual(request) if text_of(request) in ("Hello", "number 0") else refused(400, "no")
    )
    with pytest.raises(ModelError, match="no"):
        ask(echo, 100, in_flight=4)
    assert len(echo.requests) <= 2 + 4


def test_no_time_asks_nothing(echo: Echo) -> None:
    assert ask(echo, 3, budget_s=0.0) == [None, None, None]
    assert [text_of(request) for request in echo.requests] == ["Hello"]


def test_budget_ends_slow_answers(echo: Echo) -> None:
    slow = threading.Event()

    def chat(request: dict[str, Any]) -> Reply:
        if text_of(request) == "number 3":
            slow.wait(10.0)
        return said(text_of(request))

    echo.chat = chat  # type: ignore[method-assign]
    start = time.monotonic()
    answers = ask(echo, 6, budget_s=0.5)
    took = time.monotonic() - start
    slow.set()
    assert took < 1.0
    assert [answer and answer.text for answer in answers] == [None if i == 3 else f"number {i}" for i in range(6)]


@pytest.mark.parametrize(("reply", "is_error"), [(refused(503), False), (None, True)])
def test_budget_ends_retries(echo: Echo, monkeypatch: pytest.MonkeyPatch, reply: Reply, is_error: bool) -> None:
    """A busy server leaves questions unanswered; a dead one is an error even so."""
    monkeypatch.setattr("vlm3_ros.vlm.client.WAITS_S", (0.1, 30.0))
    echo.chat = sometimes(10**9, reply, echo)  # type: ignore[method-assign]
    start = time.monotonic()
    if is_error:
        with pytest.raises(ModelError, match="does not answer"):
            ask(echo, 3, budget_s=0.5)
    else:
        assert ask(echo, 3, budget_s=0.5) == [None, None, None]
    assert time.monotonic() - start < 2.0


def test_server_that_hangs_is_an_error(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm3_ros.vlm.client.ANSWER_S", 0.3)
    hung = threading.Event()

    def chat(request: dict[str, Any]) -> Reply:
        if text_of(request) != "Hello":
            hung.wait(10.0)
        return said(text_of(request))

    echo.chat = chat  # type: ignore[method-assign]
    with pytest.raises(ModelError, match=r"did not answer in time \(timed out\)"):
        ask(echo, 1)
    hung.set()


def test_server_that_trickles_is_an_error(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps no request alive beyond its time."""
    served = ServedSource().open(echo.url)
    monkeypatch.setattr("vlm3_ros.vlm.client.ANSWER_S", 1.0)
    echo.trickles = True
    start = time.monotonic()
    with served.look([PICTURE]) as view, pytest.raises(ModelError, match=r"did not answer in time \(timed out\)"):
        view.ask(numbered(3))
    assert time.monotonic() - start < 3.0
    with served.look([PICTURE]) as view:
        assert view.ask(numbered(3), budget_s=0.7) == [None, None, None]
    assert time.monotonic() - start < 5.0
    echo.trickles = False


@pytest.mark.parametrize(
    ("before", "headers"),
    [
        (b"", {}),
        (b"", {"Content-Length": "999999999999"}),
        (b"ffffffffff\r\n", {"Transfer_Encoding": "chunked"}),
    ],
    ids=["true length", "false length", "false length of a chunk"],
)
def test_answer_without_bounds_is_not_read_to_its_end(echo: Echo, before: bytes, headers: dict[str, str]) -> None:
    body = before + b"x" * (8 << 20)
    echo.chat = sometimes(9, (200, body, headers), echo)  # type: ignore[method-assign]
    with pytest.raises(ModelError, match="answers with more than 4 MiB"):
        ask(echo, 1)


@pytest.mark.parametrize("trouble", ["trickles", "hangs", "busy"])
def test_cancel_ends_requests_at_once(echo: Echo, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    monkeypatch.setattr("vlm3_ros.vlm.client.WAITS_S", (30.0,))
    cancel, hung, waiting = Cancel(), threading.Event(), echo.trickling
    usual = echo.chat

    def chat(request: dict[str, Any]) -> Reply:
        if text_of(request) in ("Hello", "number 0"):
            return usual(request)
        waiting.set()
        if trouble == "hangs":
            hung.wait(10.0)
        echo.trickles = trouble == "trickles"
        return refused(503) if trouble == "busy" else usual(request)

    echo.chat = chat  # type: ignore[method-assign]
    source = ServedSource(cancel=cancel)
    canceller = threading.Thread(target=lambda: (waiting.wait(10.0), time.sleep(0.3), cancel.set()))
    canceller.start()
    start = time.monotonic()
    with source.open(echo.url).look([PICTURE]) as view:
        with pytest.raises(Cancelled):
            view.ask(numbered(40))
        assert time.monotonic() - start < 3.0
        canceller.join()
        echo.trickles, echo.chat = False, usual  # type: ignore[method-assign]
        with pytest.raises(Cancelled):
            view.ask(numbered(1))
        cancel.clear()
        assert None not in view.ask(numbered(2))
    hung.set()


def test_connections_closed_while_idle_are_replaced(echo: Echo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vlm3_ros.vlm.client.WAITS_S", ())  # no retries: a closed connection is no trouble
    with ServedSource().open(echo.url).look([PICTURE]) as view:
        view.ask(numbered(8))
        echo.hang_up()
        assert None not in view.ask(numbered(8))


def test_pictures_that_the_server_keeps_are_sent_once(echo: Echo) -> None:
    echo.models = [{"id": "echo", "owned_by": "vllm"}]
    assert None not in ask(echo, 8)
    sent = [request["messages"][0]["content"][0] for request in echo.requests[1:]]
    assert [bool(picture["image_url"]) for picture in sent] == [True] + [False] * 7
    assert len({picture["uuid"] for picture in sent}) == 1


def test_pictures_that_the_server_forgot_are_sent_again(echo: Echo) -> None:
    echo.models = [{"id": "echo", "owned_by": "vllm"}]

    def chat(request: dict[str, Any]) -> Reply:
        first = request["messages"][0]["content"][0]
        return refused(400, "cache miss") if first.get("uuid") and not first["image_url"] else said(text_of(request))

    echo.chat = chat  # type: ignore[method-assign]
    with ServedSource(in_flight=1).open(echo.url).look([PICTURE]) as view:
        assert [answer.text for answer in view.ask(numbered(4)) if answer] == [f"number {i}" for i in range(4)]
    assert len(echo.requests) == 1 + 4 + 1


@pytest.mark.parametrize("key", ["", "secret"])
def test_key_comes_from_the_environment(echo: Echo, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("VLM3_API_KEY", key)
    ask(echo, 1)
    assert echo.keys == {f"Bearer {key}" if key else None}


def test_no_probability_without_logprobs(echo: Echo, caplog: pytest.LogCaptureFixture) -> None:
    echo.chat = lambda request: said(text_of(request), ())  # type: ignore[method-assign]
    (answer,) = ask(echo, 1)
    assert answer is not None
    assert math.isnan(answer.probability)
    assert "gives no log-probabilities" in caplog.text


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], r"serves no model that it lists: say which one is meant, as in http.*#model"),
        ([{"id": "a"}, {"id": "b"}], r"serves a, b: say which one is meant, as in http.*#a"),
    ],
)
def test_model_may_be_left_out_only_where_there_is_one(
    echo: Echo, models: list[dict[str, str]], message: str
) -> None:
    echo.models = models
    with pytest.raises(ModelError, match=message):
        ServedSource().memory_bytes(echo.url)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("http:///#model", "no address of a server"),
        ("http://host:port#model", "no address of a server"),
        ("http://no-such-host.invalid", "cannot be talked to"),
        ("https://127.0.0.1:{echo}", "cannot be talked to"),
        ("http://127.0.0.1:{free}#model", "does not answer.*refused.*is the server running"),
    ],
)
def test_wrong_address(echo: Echo, name: str, message: str) -> None:
    name = name.format(echo=echo.url.rpartition(":")[2], free=free_port())
    with pytest.raises(ModelError, match=message):
        ServedSource().memory_bytes(name)


def test_node_with_served_models_needs_no_torch(echo: Echo) -> None:
    code = f"""
import sys
from vlm3_ros.config import Config
from vlm3_ros.vlm.factory import models_for
names = ("depth", "pose", "grounding", "objects", "matching")
models = models_for(Config().updated({{f"vlm.checkpoint.{{name}}": "{echo.url}" for name in names}}))
assert [status.name for status in models.status()] == ["{echo.url}"]
assert "torch" not in sys.modules
"""
    environment = {name: value for name, value in os.environ.items() if name != "VLM3_PLUGINS"}
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, check=True, timeout=60.0)


def test_names_without_a_scheme_are_local() -> None:
    with pytest.raises(ModelError, match=r"the checkpoint folder .* does not exist"):
        models_for(Config().updated({"vlm.checkpoint.depth": "localhost:8000#model", "node.tasks": ["depth"]}))


def reply_of(**message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"role": "assistant", **message}}]}


def logged(*logs: Any) -> dict[str, Any]:
    content = {"content": [{"logprob": log} for log in logs]}
    return {"choices": [{"message": {"content": "2.00"}, "logprobs": content}]}


@pytest.mark.parametrize(
    ("body", "text", "probability", "tokens"),
    [
        (reply_of(content=[{"type": "text", "text": "2."}, {"type": "text", "text": "00"}]), "2.00", math.nan, 0),
        (
            reply_of(content=[{"type": "reasoning", "text": "x"}, {"type": "text", "text": "2.00"}]),
            "2.00",
            math.nan,
            0,
        ),
        (reply_of(content=None, reasoning_content="so far"), "<think>so far", math.nan, 0),
        (reply_of(content=None), "", math.nan, 0),
        ({**reply_of(content="2"), "usage": {"completion_tokens": "abc"}}, "2", math.nan, 0),
        ({**reply_of(content="2"), "usage": {"completion_tokens": None}}, "2", math.nan, 0),
        ({**reply_of(content="2"), "usage": {"completion_tokens": 7}}, "2", math.nan, 7),
        (logged(-0.5, 0.0), "2.00", math.exp(-0.5), 2),
        (logged(1e-6), "2.00", 1.0, 1),
        (logged(-math.inf), "2.00", 0.0, 1),
        *((logged(-0.5, log), "2.00", math.nan, 2) for log in (0.7, 1e9, math.inf, math.nan, "0", None, True, [])),
    ],
)
def test_unusual_answers_are_read_or_their_probability_is_not_known(echo: Echo, body, text, probability, tokens):
    echo.chat = lambda request: (200, body, {})  # type: ignore[method-assign]
    (answer,) = ask(echo, 1)
    assert answer == Answer(text, pytest.approx(probability, nan_ok=True), tokens=tokens)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"choices": ' + b"[" * 100_000,
        reply_of(content=3),
        reply_of(content={"text": "2"}),
        reply_of(content=["2.00"]),
        reply_of(content=[{"type": "text", "text": 2}]),
        reply_of(),
        {"choices": []},
        {"choices": None},
        {"choices": [{"message": {"content": "2"}, "logprobs": {"content": [3]}}]},
        {"choices": [{"message": {"content": "2"}, "logprobs": 3}]},
        {**reply_of(content="2"), "usage": 3},
        [],
        None,
    ],
)
def test_answers_of_another_form_are_errors_for_people(echo: Echo, body: Any) -> None:
    usual = echo.chat
    for early in (True, False):
        echo.chat = lambda request: (  # type: ignore[method-assign]
            (200, body, {}) if early or text_of(request) != "Hello" else usual(request)  # noqa: B023
        )
        with pytest.raises(ModelError, match=r"not in the form|not with JSON"):
            ask(echo, 2)


@pytest.mark.parametrize("status", [200, 400, 401, 500])
@pytest.mark.parametrize("form", ["json", "text", "answer"])
def test_a_key_that_a_server_repeats_is_shown_to_nobody(echo: Echo, monkeypatch, status: int, form: str) -> None:
    key = "sk-" + "0123456789abcdef" * 16
    monkeypatch.setenv("VLM3_API_KEY", key)

    def chat(request: dict[str, Any]) -> Reply:
        text = "x" * 200 + f" Incorrect API key provided: {key}."
        if form == "answer":
            return status, reply_of(content=text), {}
        return status, text.encode() if form == "text" else {"error": {"message": text}}, {}

    echo.chat = chat  # type: ignore[method-assign]
    try:
        (answer,) = ask(echo, 1)
        shown = repr(answer)
    except ModelError as error:
        shown = f"{error} {error.__cause__}"
    assert key[:10] not in shown


def test_a_key_with_a_line_break_is_not_shown_by_an_error(echo: Echo, monkeypatch) -> None:
    monkeypatch.setenv("VLM3_API_KEY", "secret-of-mine\nX-Other: 1")
    with pytest.raises(ModelError, match="no key can have") as raised:
        ask(echo, 1)
    assert "secret" not in str(raised.value)

"""Served models: real servers on random checkpoints, and the pictures that they get."""

from __future__ import annotations

import importlib.util
import math
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import checkpoints
import cv2
import numpy as np
import pytest
import torch
from servers import VLLM, Server, transformers_serve, vllm_serve
from torch.nn import functional as F

from vlm3_ros.tasks import Question, depth, pose
from vlm3_ros.tasks.answers import without_think
from vlm3_ros.vlm import ModelError, Picture
from vlm3_ros.vlm.engine import Engine
from vlm3_ros.vlm.jpeg import encode, resized
from vlm3_ros.vlm.loading import load
from vlm3_ros.vlm.served import ServedSource, ServedVLM

SIZE = (384, 320)  # Qwen's processor leaves pictures of 64 tokens and more as they are


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> np.ndarray:
    """Soft blobs of colour: RGB that JPEG does not change beyond recognition."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    return cv2.resize(noise, size, interpolation=cv2.INTER_LINEAR)


PICTURES = (Picture(scene(1), SIZE), Picture(scene(2), SIZE))
POSES = [replace(question, max_tokens=64) for question in pose.QUESTIONS]
DEPTHS = depth.questions([(x, y) for x in (7, 350, 1999) for y in (0, 42, 900, 1500)])


@dataclass
class Served:
    """A real server and the model behind it."""

    kind: str
    server: Server
    name: str
    checkpoint: Path


@pytest.fixture(
    scope="module", params=["transformers", pytest.param("vllm", marks=[pytest.mark.slow, pytest.mark.timeout(1200)])]
)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Each kind of server with a checkpoint that answers depth questions in their form, and others with garbage."""
    kind = request.param
    if kind == "vllm" and not VLLM.exists():
        pytest.skip(f"vLLM is not at {VLLM} (docs/served.md says how to get it there)")
    if kind == "transformers" and not all(map(importlib.util.find_spec, ("fastapi", "uvicorn", "openai"))):
        pytest.skip("`transformers serve` needs the packages fastapi, uvicorn and openai")
    folder = tmp_path_factory.mktemp(kind)
    checkpoint = checkpoints.make(folder / "checkpoint", checkpoints.WIDE)
    lengths = np.random.default_rng(0).uniform(0.5, 20.0, len(DEPTHS))
    dialogues = [(question.text, depth.answer(metres)) for question, metres in zip(DEPTHS, lengths, strict=True)]
    checkpoints.plant(checkpoint, dialogues, PICTURES[0])
    checkpoints.without_torchvision(checkpoint)
    start = {"transformers": transformers_serve, "vllm": vllm_serve}[kind]
    with start(checkpoint, folder) as (server, name):
        yield Served(kind, server, name, checkpoint)


@pytest.fixture(scope="module")
def model(served: Served) -> Iterator[ServedVLM]:
    source = ServedSource()
    assert source.memory_bytes(served.name) == 0
    vlm = source.open(served.name)
    yield vlm
    vlm.close()


@pytest.fixture(scope="module")
def local(served: Served) -> Engine:
    """The same checkpoint in this process."""
    return Engine(load(str(served.checkpoint), device="cpu", precision="fp32"), distributions=False)


def as_sent(picture: Picture) -> Picture:
    """What is left of a picture after JPEG."""
    pixels = cv2.imdecode(np.frombuffer(encode(picture), np.uint8), cv2.IMREAD_COLOR)
    return Picture(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), picture.size)


@pytest.mark.parametrize(
    ("pictures", "questions"),
    [(PICTURES[:1], DEPTHS), (PICTURES, POSES)],
    ids=["depth", "pose"],
)
def test_real_server_answers_as_the_local_engine(
    served: Served, model: ServedVLM, local: Engine, pictures: tuple[Picture, ...], questions: list[Question]
) -> None:
    with model.look(pictures) as view:
        answers = view.ask(questions)
    with local.look([as_sent(picture) for picture in pictures]) as view:
        expected = view.ask(questions)
    shown = str if served.kind == "vllm" else lambda text: without_think(text).strip()  # transformers sets it apart
    assert [(shown(a.text), a.tokens) for a in answers] == [(shown(a.text), a.tokens) for a in expected]
    if served.kind == "vllm":
        assert [math.log(a.probability) for a in answers] == pytest.approx(
            [math.log(a.probability) for a in expected], abs=1e-3
        )
    else:
        assert all(math.isnan(a.probability) for a in answers)
    if questions is DEPTHS:
        assert all(isinstance(depth.parse(a.text), float) for a in answers)
        assert len({a.text for a in answers}) > 1


def test_real_server_refuses_another_model(served: Served) -> None:
    address = served.name.partition("#")[0]
    with pytest.raises(ModelError, match="no-such-model.*" + ("It serves: tiny" if served.kind == "vllm" else "")):
        ServedSource().memory_bytes(f"{address}#no-such-model")


def test_real_server_keeps_what_fits_the_budget(served: Served) -> None:
    many = depth.questions((x, y) for x in range(30) for y in range(30))
    with ServedSource(in_flight=2).open(served.name).look(PICTURES[:1]) as view:
        view.ask(many[:1])
        start = time.monotonic()
        answers = view.ask(many, budget_s=2.0)
        took = time.monotonic() - start
    assert took < 2.5
    assert answers[0] is not None
    assert answers[-1] is None


def test_vllm_keeps_the_prefix_and_the_pictures(served: Served, model: ServedVLM) -> None:
    if served.kind != "vllm":
        pytest.skip("only vLLM counts these")
    large = Picture(scene(3), (640, 512))  # 320 tokens; vLLM on a CPU caches blocks of 128

    def counts() -> dict[str, float]:
        with urllib.request.urlopen(served.name + "/metrics") as page:
            found = re.findall(r"vllm:(\w+_cache_\w+)_total\{.*\} (\S+)", page.read().decode())
        return {name: float(count) for name, count in found}

    before = counts()
    with model.look([large]) as view:
        view.ask(DEPTHS)
    grown = {name: count - before[name] for name, count in counts().items()}
    assert grown["prefix_cache_hits"] >= 256 * (len(DEPTHS) - 1)
    assert grown["mm_cache_hits"] == len(DEPTHS) - 1


def test_vllm_says_what_is_too_long(served: Served, model: ServedVLM) -> None:
    if served.kind != "vllm":
        pytest.skip("only vLLM was given a limit")
    with model.look([Picture(scene(3), (2048, 1536))]) as view, pytest.raises(ModelError, match="2048"):
        view.ask(DEPTHS)


def test_real_server_dies(served: Served, model: ServedVLM) -> None:
    """Last of those that need it."""
    killer = threading.Timer(0.5, served.server.kill)
    with model.look(PICTURES[:1]) as view:
        killer.start()
        start = time.monotonic()
        with pytest.raises(ModelError, match=r"does not answer \(.*refused.*\): is the server running"):
            view.ask(depth.questions((x, 7) for x in range(400)))
    assert time.monotonic() - start < 10.0


@pytest.mark.parametrize("size", [(640, 480), (1216, 832), (320, 224), (64, 96), (32, 800)])
def test_resized_as_for_local_models(size: tuple[int, int], rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (480, 640, 3), np.uint8)
    tensor = torch.as_tensor(pixels).permute(2, 0, 1)[None].float()
    expected = F.interpolate(tensor, size[::-1], mode="bicubic", antialias=True, align_corners=False)[0]
    difference = np.abs(resized(pixels, size) - expected.clamp(0.0, 255.0).permute(1, 2, 0).numpy())
    assert difference.max() < 0.52  # rounding


def test_jpeg_keeps_what_a_camera_shows() -> None:
    picture = Picture(scene(5), SIZE)
    error = as_sent(picture).pixels.astype(int) - resized(picture.pixels, SIZE)
    assert np.abs(error).mean() < 1.0

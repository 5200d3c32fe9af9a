"""Damaged checkpoint folders: files that lack, are cut or flipped, and small files with values of other kinds."""

from __future__ import annotations

import json
import math
import random
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "test")) if path not in sys.path]

import checkpoints  # noqa: E402

from benchmarks.fuzz.values import mutated_bytes, mutated_json  # noqa: E402
from vlm3_ros.tasks import depth  # noqa: E402
from vlm3_ros.vlm import ModelError, Picture  # noqa: E402
from vlm3_ros.vlm.checkpoint import inspect  # noqa: E402
from vlm3_ros.vlm.local import LocalSource  # noqa: E402

JSON = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
    "tokenizer.json",
)
LARGE = ("tokenizer.json", "model.safetensors")
TEMPLATES = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{{ 'x' * 3000000 }}",
    "{{ raise_exception('no') }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ messages[0].content[9].text }}",
    "{{ 1 / 0 }}",
)
NAMES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "trainer_state.json",
    "model.safetensors.index.json",
    "chat_template.json",
    "processor_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "video_preprocessor_config.json",
)
PICTURE = Picture(np.full((64, 64, 3), 128, np.uint8), (64, 64))
QUESTIONS = depth.questions([(10, 20), (30, 40)])


@dataclass(frozen=True)
class Mutant:
    """A checkpoint folder of which something is wrong."""

    name: str
    folder: Path


def mutants(seed: int, folder: Path) -> Iterator[Mutant]:
    """Mutants without end, the same for the same seed; each is gone when the next one is made."""
    rng = random.Random(seed)
    whole = checkpoints.make(folder / "whole", checkpoints.Size(layers=2, vision_layers=2, deepstack=(0,)))
    while True:
        here = folder / "mutant"
        shutil.rmtree(here, ignore_errors=True)
        here.mkdir()
        for file in whole.iterdir():
            (here / file.name).hardlink_to(file)
        names = [_damage(here, rng) for _ in range(rng.choice((1, 1, 1, 2, 3)))]
        yield Mutant("; ".join(names), here)


def _damage(folder: Path, rng: random.Random) -> str:
    kind = rng.choices(("json", "bytes", "header", "remove", "add", "template", "weights"), (50, 12, 12, 5, 8, 5, 8))[
        0
    ]
    if kind == "json":
        name = rng.choice(JSON)
        try:
            content, how = mutated_json(json.loads((folder / name).read_bytes()), rng)
        except (OSError, ValueError, RecursionError):  # damaged already
            return "nothing"
        _replace(folder / name, json.dumps(content).encode())
        return f"{name}: {how}"
    if kind == "remove":
        name = rng.choice(sorted(path.name for path in folder.iterdir()) or ["none"])
        (folder / name).unlink(missing_ok=True)
        return f"without {name}"
    if kind == "add":
        name = rng.choice(NAMES)
        content = rng.choice(
            (b"", b"{}", b"[]", b"null", b'{"weight_map": {"a": "b"}}', b'{"chat_template": ["x"]}', b"x y")
        )
        _replace(folder / name, content)
        return f"{name} is {content.decode()}"
    if kind == "template":
        template = rng.choice(TEMPLATES)
        _replace(folder / "chat_template.jinja", template.encode())
        return f"template {template}"
    name = (
        "model.safetensors" if kind in ("header", "weights") else rng.choice((*JSON, *LARGE, "chat_template.jinja"))
    )
    if not (folder / name).is_file():
        return "nothing"
    content = bytearray((folder / name).read_bytes())
    if kind == "weights":
        values = np.frombuffer(content, np.float32, offset=len(content) % 4 + len(content) // 2 // 4 * 4).copy()
        values[rng.randrange(len(values))] = rng.choice((math.nan, math.inf, 3e38, -3e38))
        _replace(folder / name, bytes(content[: -values.nbytes]) + values.tobytes())
        return "a weight of another kind"
    within = 12_000 if kind == "header" else len(content)
    changed, how = mutated_bytes(bytes(content), rng, within)
    _replace(folder / name, changed)
    return f"{name}: {how}"


def _replace(file: Path, content: bytes) -> None:
    """Write a new file: the old one is a link."""
    file.unlink(missing_ok=True)
    file.write_bytes(content)


def attempt(mutant: Mutant) -> str | None:
    """Inspect, load and ask; what came out that is no typed error and no answer."""
    source = LocalSource("cpu")
    try:
        inspect(str(mutant.folder))
        source.memory_bytes(str(mutant.folder))
        source.image_scale(str(mutant.folder))
    except ModelError:
        return None
    try:
        model = source.open(str(mutant.folder))
    except ModelError:
        return None
    try:
        with model.look([PICTURE]) as view:
            answers = view.ask(QUESTIONS)
    except ModelError:
        return None
    except Exception as error:  # what is not noticed when it is opened
        return f"asking: {type(error).__name__}: {error}"
    finally:
        model.close()
    wrong: list[Any] = [
        answer for answer in answers if answer is None or answer.probability < 0.0 or answer.probability > 1.0
    ]
    return f"answers {wrong}" if wrong else None

"""What the engine saves: one generate per question against shared prefix, templates and distributions, as JSON.

python benchmarks/engine.py [--size mid] [--questions 64 256] [--rounds 3]                     on a CPU, one thread
python benchmarks/engine.py --size 4b --precision nf4 --questions 48 192 768                   on a GPU

The checkpoint is random, of the true architecture, with a head fitted so that it answers depth questions in the form
of the protocol; its numbers mean nothing. It is made once, under build/. The modes take turns within each round, and
what is reported is the median over rounds. Work is counted from the model's sizes: FLOP of all matrix products; the
roofline time is what they, and reading the weights once a pass, take at the speeds measured on this machine.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

import checkpoints  # noqa: E402

from vlm3_ros.tasks import Question, depth  # noqa: E402
from vlm3_ros.vlm import VLM, Picture  # noqa: E402
from vlm3_ros.vlm.engine import Engine  # noqa: E402
from vlm3_ros.vlm.loading import load, pick_device  # noqa: E402
from vlm3_ros.vlm.reference import Reference  # noqa: E402

SIZES = {
    "tiny": checkpoints.WIDE,
    "mid": checkpoints.MID,  # 8 layers, 318 M parameters
    "4b": replace(checkpoints.FULL_4B, tied=False),  # an untied head (0.4 G more) can be fitted without the rest
}
VOCABULARY = 151936
RNG = np.random.default_rng(0)


def picture(width: int, height: int) -> Picture:
    """A smooth random picture of that many pixels."""
    return Picture(RNG.integers(0, 255, (height // 32, width // 32, 3), dtype=np.uint8), (width, height))


def questions(count: int) -> list[Question]:
    """Depth questions about random pixels."""
    return depth.questions(RNG.integers(0, depth.BINS, (count, 2)))


def checkpoint_folder(size: str, shown: Picture, device: str) -> Path:
    """The fitted checkpoint, made where it is not there yet."""
    folder = ROOT / "build" / "benchmark" / size
    if not (folder / "fitted").is_file():
        checkpoints.make(folder, SIZES[size], 0, checkpoints.qwen3_tokenizer(), VOCABULARY)
        dialogues = [(q.text, depth.answer(checkpoints.easy_metres(RNG))) for q in questions(96)]
        on_gpu = pick_device(device).type == "cuda"
        checkpoints.plant(folder, dialogues, shown, device, "bf16" if on_gpu else "fp32")
        (folder / "fitted").touch()
    return folder


# ---------------------------------------------------------------------------------------------------------- work


@dataclass(frozen=True)
class Work:
    """FLOP of a model's matrix products."""

    config: Any  # transformers' Qwen3VLConfig
    image_tokens: int

    def look(self) -> float:
        """The vision tower on one picture."""
        v = self.config.vision_config
        patches = 4 * self.image_tokens
        block = 4 * v.hidden_size**2 + 2 * v.hidden_size * v.intermediate_size
        merger = (4 * v.hidden_size) ** 2 + 4 * v.hidden_size * v.out_hidden_size
        mergers = (1 + len(v.deepstack_visual_indexes)) * merger * self.image_tokens
        return 2 * (block * patches * v.depth + mergers) + 4 * patches**2 * v.hidden_size * v.depth

    def tokens(self, count: float, context: float) -> float:
        """The language model's layers on tokens that each see ``context`` tokens."""
        t = self.config.text_config
        attention = 4 * context * t.num_attention_heads * t.head_dim * t.num_hidden_layers
        return count * (2 * checkpoints_linear(t) + attention)

    def head(self, count: float) -> float:
        """The head on tokens."""
        t = self.config.text_config
        return 2.0 * count * t.hidden_size * t.vocab_size


def checkpoints_linear(text: Any) -> int:
    """Weights of the language model's layers."""
    from vlm3_ros.vlm.checkpoint import _text_linear_parameters

    return _text_linear_parameters(text.to_dict())

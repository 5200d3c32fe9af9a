"""How many questions go through the model at a time: as many as memory, time and experience allow."""

from __future__ import annotations

import logging
import math

import torch

from vlm3_ros.vlm.interface import NO_MEMORY, ModelError
from vlm3_ros.vlm.language import LanguageModel
from vlm3_ros.vlm.memory import free_bytes

log = logging.getLogger(__name__)

MOST = 128  # about 10,000 tokens a pass: every GPU is busy with that, and more only takes memory
RECOVER, MOST_PATIENCE = 16, 4096  # chunks that must fit before more questions are tried at a time
SHARE = 0.6  # of the free memory; the rest is for what the allocator cannot use


class Chunks:
    """Chunk sizes for one model; ``limit`` 0 stands for as many as free memory allows, up to MOST."""

    def __init__(self, language: LanguageModel, limit: int = 0):
        self._language = language
        self._limit = self._most = limit or MOST
        self._from_memory = not limit
        self._fitted, self._patience = 0, RECOVER  # chunks since the limit last changed, and how many before it grows

    def size(self, left: int, own_tokens: int) -> int:
        """How many of ``left`` questions to take next, each with so many own tokens; the last chunk is no stub."""
        most = self._limit
        if self._from_memory:
            room = SHARE * free_bytes(self._language.device) / question_bytes(self._language, own_tokens)
            most = max(1, min(most, int(room)))
        return math.ceil(left / math.ceil(left / most))

    def fitted(self, count: int) -> None:
        """A chunk of so many was answered: after many of the present limit half as many more are tried again.

        What took the memory may be gone. But each failure doubles how many chunks that takes.
        """
        if 2 * count <= self._limit or self._limit == self._most:  # few say nothing; equal chunks are below the limit
            return
        self._fitted += 1
        if self._fitted >= self._patience:
            self._limit, self._fitted = min(self._most, math.ceil(1.5 * self._limit)), 0
            log.info("%d questions at a time are tried again", self._limit)

    def shrink(self, failed: int) -> None:
        """Take half of what did not fit. Raises ModelError where that was a single question."""
        if failed == 1:
            raise ModelError(
                "out of memory with a single question: use precision nf4, lower camera.max_tokens, or unload other "
                "programs from this device"
            )
        self._limit, self._fitted = failed // 2, 0
        self._patience = min(2 * self._patience, MOST_PATIENCE)
        log.warning("out of memory with %d questions at a time: %d for now", failed, self._limit)
        if self._language.device.type == "cuda":
            torch.cuda.empty_cache()


def question_bytes(language: LanguageModel, own_tokens: int) -> int:
    """Memory a question takes while it is answered: its keys and values, and one layer's activations."""
    item = language.dtype.itemsize
    channels = language.heads * language.head_dim
    stored = 2 * len(language.layers) * language.kv_heads * language.head_dim * item
    working = item * (6 * language.hidden + 3 * language.intermediate + 4 * channels) + 4 * 3 * channels
    return own_tokens * (stored + working)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, on a GPU or on a CPU (whose allocator has no error type of its own)."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in NO_MEMORY)

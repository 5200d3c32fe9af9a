"""Where training data come from: groups of frames of one scene with what is true of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from vlm3_ros.learn.sample import Known


@dataclass
class Group:
    """A few frames of one scene, and which of them see enough of the same to be asked about together."""

    scene: str
    frames: list[Known] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)  # indices into ``frames``
    left_out: Counter[str] = field(default_factory=Counter)  # frames and pairs that were not good enough, by reason


class Groups(Protocol):
    """A source of training data, the same at every reading."""

    @property
    def name(self) -> str:
        """Letters, digits, - and _."""

    def __len__(self) -> int: ...

    def group(self, index: int) -> Group:
        """One group; groups can be had in any order, from any process."""

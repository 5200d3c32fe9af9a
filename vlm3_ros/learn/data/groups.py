"""Where training data come from: groups of frames of one scene with what is true of them."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

from vlm3_ros.learn.data.sample import Known

MIN_COVISIBLE = 0.25  # pairs that share less are outside the protocol's range
NO_OVERLAP = "pair without overlap"  # reason to leave a pair out


@dataclass
class Group:
    """A few frames of one scene, and which of them see enough of the same to be asked about together."""

    scene: str
    frames: list[Known] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)  # indices into ``frames``
    left_out: Counter[str] = field(default_factory=Counter)  # what was not good enough in it, by reason


class Groups(Protocol):
    """A source of training data, the same at every reading; it is sent to other processes."""

    @property
    def name(self) -> str:
        """Letters, digits, - and _."""

    @property
    def description(self) -> dict[str, Any]:
        """All that decides what is in it, as JSON has it."""

    @property
    def left_out(self) -> Counter[str]:
        """Frames and pairs that came into no group, by reason."""

    def __len__(self) -> int: ...

    def group(self, index: int) -> Group:
        """One group; groups can be had in any order, from any process."""


class Several:
    """Sources one after the other, as one."""

    name = "several"

    def __init__(self, sources: Sequence[Groups]):
        self._sources = sources
        self._ends = list(accumulate(map(len, sources)))

    @property
    def description(self) -> dict[str, Any]:
        return {"sources": [source.description for source in self._sources]}

    @property
    def left_out(self) -> Counter[str]:
        return sum((source.left_out for source in self._sources), Counter())

    def __len__(self) -> int:
        return self._ends[-1]

    def group(self, index: int) -> Group:
        which = bisect.bisect_right(self._ends, index)
        return self._sources[which].group(index - (self._ends[which - 1] if which else 0))

"""Several data sets as one to learn from, by weight, and what is held out of them.

seed: 0                      # another one draws in another order
sources:
  - data: sim                # a folder made by `vlm3 data build`, relative to this file
    weight: 3                # of all draws, in proportion to the others; 1 where it is not given
    held_out: [room0009*]    # scenes, by name or pattern: evaluated on, never trained on
  - data: kitchen
  - data: office
    held_out: ["*"]          # the whole data set
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vlm3_ros.learn.data.sample import Sample
from vlm3_ros.learn.data.shards import DataError, DataSet


@dataclass(frozen=True, eq=False)
class Part:
    """A data set and its share in a mixture."""

    data: DataSet
    weight: float
    held_out: tuple[str, ...]  # scenes

    @property
    def train(self) -> list[int]:
        """The samples to train on, by their index."""
        return [i for scene, indices in self.data.scenes.items() if scene not in self.held_out for i in indices]

    @property
    def test(self) -> list[int]:
        """The samples that are held out, by their index."""
        return [i for scene in self.held_out for i in self.data.scenes[scene]]


class Mixture:
    """What a mixture file says. Raises DataError where it cannot be used, or where what is held out is trained on."""

    def __init__(self, path: Path):
        content = _read(path)
        self.path, self.seed = path, int(content.get("seed", 0))
        self.sources = [_source(path, entry) for entry in content["sources"]]
        _same(path, "image_scale", [source.data.image_scale for source in self.sources])
        _same(path, "depth.answer", [source.data.manifest["amounts"]["ray"] for source in self.sources])
        _refuse_leaks(self.sources)

    def train(self, epoch: int = 0, length: int | None = None) -> Drawn:
        """Samples to train on in random order, another one each epoch; as many as there are, or ``length``."""
        return Drawn(
            [(source.data, source.train, source.weight) for source in self.sources], [self.seed, epoch], length
        )

    @property
    def held_out(self) -> Listed:
        """All samples that are held out, in their order."""
        return Listed([(source.data, source.test) for source in self.sources])

    @property
    def image_scale(self) -> float:
        """The fraction of the protocol's image sizes that all of it was made for."""
        return self.sources[0].data.image_scale


class Listed:
    """Some samples of several data sets, one data set after the other."""

    def __init__(self, parts: Sequence[tuple[DataSet, Sequence[int]]]):
        self._parts = parts
        self._ends = list(accumulate(len(indices) for _, indices in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        which = bisect_right(self._ends, index)
        data, indices = self._parts[which]
        return data[indices[index - self._ends[which]]]


class Drawn:
    """Samples drawn from several data sets by weight, in an order that the seed decides.

    Each data set gives exactly its share of the draws, to the nearest whole number; within a data set each sample is
    drawn as often as any other, or once more.
    """

    def __init__(
        self, parts: Sequence[tuple[DataSet, Sequence[int], float]], seed: Sequence[int], length: int | None = None
    ):
        parts = [part for part in parts if len(part[1])]
        self._data = [data for data, _, _ in parts]
        rng = np.random.default_rng(seed)
        length = sum(len(indices) for _, indices, _ in parts) if length is None else length
        counts = _shares(length, [weight for _, _, weight in parts])
        draws = [_cycled(indices, count, rng) for (_, indices, _), count in zip(parts, counts, strict=True)]
        pairs = [np.column_stack([np.full(len(drawn), i), drawn]) for i, drawn in enumerate(draws)]
        self._order = rng.permutation(np.concatenate(pairs)) if pairs else np.zeros((0, 2), int)  # data set, sample

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Sample:
        which, sample = self._order[index].tolist()
        return self._data[which][sample]


def _shares(length: int, weights: Sequence[float]) -> list[int]:
    """``length`` as whole numbers in proportion to ``weights`` (largest remainders)."""
    exact = length * np.array(weights) / sum(weights)
    counts = np.floor(exact).astype(int)
    counts[np.argsort(counts - exact, kind="stable")[: length - counts.sum()]] += 1
    return counts.tolist()


def _cycled(indices: Sequence[int], count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` of the indices: all of them in random order, again and again."""
    rounds = [rng.permutation(np.asarray(indices)) for _ in range(-(-count // len(indices)))]
    return np.concatenate([*rounds, np.zeros(0, int)])[:count].astype(int)


# ------------------------------------------------------------------------------------------------- reading the file


def _read(path: Path) -> dict[str, Any]:
    try:
        content = YAML(typ="safe").load(path)
    except (OSError, YAMLError) as error:
        raise DataError(f"{path} cannot be read as a mixture: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("sources"), list) or not content["sources"]:
        raise DataError(f"{path} is no mixture: it needs a list `sources`, each with the folder of its `data`")
    _refuse_unknown(path, content, {"seed", "sources"})
    return content


def _source(path: Path, entry: Any) -> Part:
    if not isinstance(entry, dict) or not isinstance(entry.get("data"), str):
        raise DataError(f"{path}: each of the sources needs the folder of its `data`, this one has none: {entry}")
    _refuse_unknown(path, entry, {"data", "weight", "held_out"})
    data, weight, patterns = DataSet(path.parent / entry["data"]), entry.get("weight", 1), entry.get("held_out", [])
    if not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise DataError(f"{path}: the weight of {entry['data']} must be a number above 0, not {weight!r}")
    if not isinstance(patterns, list):
        raise DataError(f"{path}: held_out of {entry['data']} must be a list of scenes, not {patterns!r}")
    unused = [p for p in patterns if not any(fnmatchcase(scene, str(p)) for scene in data.scenes)]
    if unused:
        some = ", ".join(sorted(data.scenes)[:5])
        raise DataError(f"{path}: {entry['data']} has no scene {', '.join(map(str, unused))}; it has {some}, …")
    return Part(data, weight, tuple(s for s in data.scenes if any(fnmatchcase(s, str(p)) for p in patterns)))


def _refuse_unknown(path: Path, entry: dict[str, Any], known: set[str]) -> None:
    if unknown := entry.keys() - known:
        raise DataError(
            f"{path} has {', '.join(map(repr, unknown))}; what may be there is {', '.join(sorted(known))}"
        )


def _same(path: Path, what: str, values: Sequence[object]) -> None:
    if len(set(values)) > 1:
        raise DataError(f"the data sets of {path} were built with different {what}: {values}; build them alike")


# --------------------------------------------------------------------------------------------------------- leaks


def _refuse_leaks(sources: Iterable[Part]) -> None:
    """Raise DataError where a scene, or a picture in whatever recording, is both trained on and held out."""
    scenes: dict[bool, dict[str, str]] = {False: {}, True: {}}  # by whether held out: scene, and where it is
    pictures: dict[bool, dict[str, str]] = {False: {}, True: {}}
    for source in sources:
        shown = source.data.pictures
        for scene in source.data.scenes:
            held_out, where = scene in source.held_out, f"scene {scene!r} of {source.data.folder}"
            scenes[held_out][scene] = where
            pictures[held_out].update(dict.fromkeys(shown[scene], where))
    for what, found in (("a scene", scenes), ("a picture", pictures)):
        both = found[False].keys() & found[True].keys()
        if both:
            first = min(both)
            raise DataError(
                f"{what} is both trained on and held out ({len(both)} in all): {found[False][first]} is trained on, "
                f"{found[True][first]} is held out; hold out both or none"
            )

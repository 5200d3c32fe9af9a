"""Several data sets as one to learn from, by weight, and what is held out of them.

sources:
  - data: sim                # a folder made by `vlm3 data build`, relative to this file
    weight: 3                # how often it is drawn from, in proportion to the others; 1 where it is not given
    held_out: [room0009*]    # scenes, by name or pattern: evaluated on, never trained on
  - data: kitchen
  - data: office
    held_out: ["*"]          # the whole data set
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from vlm3_ros.learn.data.shards import MANIFEST, DataError, DataSet


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
        self.path = path
        self.sources = [_source(path, entry) for entry in content["sources"]]
        _same(path, "image_scale", [source.data.image_scale for source in self.sources])
        _same(path, "depth.answer", [source.data.manifest["amounts"]["ray"] for source in self.sources])
        _refuse_leaks(self.sources)

    @property
    def image_scale(self) -> float:
        """Fraction of the protocol's image sizes at which its pictures are to be seen."""
        return self.sources[0].data.image_scale

    @property
    def fingerprint(self) -> str:
        """Tells what is in the file and the data sets from what was there under the same names at another time."""
        digest = hashlib.sha256(self.path.read_bytes())
        for source in self.sources:
            digest.update((source.data.folder / MANIFEST).read_bytes())
        return digest.hexdigest()[:16]


# ------------------------------------------------------------------------------------------------- reading the file


def _read(path: Path) -> dict[str, Any]:
    try:
        content = YAML(typ="safe").load(path)
    except (OSError, YAMLError) as error:
        raise DataError(f"{path} cannot be read as a mixture: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("sources"), list) or not content["sources"]:
        raise DataError(f"{path} is no mixture: it needs a list `sources`, each with the folder of its `data`")
    _refuse_unknown(path, content, {"sources"})
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

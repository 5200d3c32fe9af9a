"""Training data on disk: tar files of records, each a few images of one scene with all samples made from them.

    data/sim/manifest.json        what it is, what is in it and what was left out, and a list of the records
    data/sim/shard-00000.tar      <record>.0.jpg, <record>.1.jpg, …, <record>.json.gz

A shard appears under its name when it is whole, so an interrupted build goes on with the shards that are missing. The
tar files follow WebDataset's naming and can be read with any tool.
"""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vlm3_ros import image_files
from vlm3_ros.learn.data.sample import Exchange, Facts, Sample
from vlm3_ros.vlm import Picture

JPEG_QUALITY = 95
MANIFEST = "manifest.json"
OF_SIZE = {"objects", "pose"}  # tasks whose answers are right at one size of a picture only
FORMAT = 3  # of what is written; 1 asked for all names in one question, 2 also for those of which too little shows

FAULTS = (EOFError, LookupError, OSError, RecursionError, TypeError, ValueError, tarfile.TarError, zlib.error)


class DataError(Exception):
    """Training data cannot be read or made; the message says why and what to do."""


@dataclass(frozen=True, eq=False)
class Record:
    """Samples that share images."""

    key: str
    images: Sequence[np.ndarray]  # uint8 [h, w, 3] RGB
    samples: Sequence[Sample]  # of pictures whose pixels are among ``images``


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.tar"


def write_shard(path: Path, records: Iterable[Record]) -> None:
    """Write a whole shard or none."""
    partial = path.with_suffix(".partial")
    with tarfile.open(partial, "w") as tar:
        for record in records:
            for i, image in enumerate(record.images):
                done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
                if not done:
                    raise DataError(f"{record.key}: image {i} cannot be encoded")
                _add(tar, f"{record.key}.{i}.jpg", data.tobytes())
            text = json.dumps(_description(record), ensure_ascii=False, separators=(",", ":"))
            _add(tar, f"{record.key}.json.gz", gzip.compress(text.encode(), 6, mtime=0))
    partial.rename(path)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # no time, no owner: the same data make the same file
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _description(record: Record) -> dict[str, Any]:
    numbers = {id(image): i for i, image in enumerate(record.images)}
    return {
        "samples": [
            {
                "key": sample.key,
                "scene": sample.scene,
                "pictures": [[numbers[id(p.pixels)], list(p.size)] for p in sample.pictures],
                "exchanges": [[e.task, e.question, e.answer] for e in sample.exchanges],
            }
            for sample in record.samples
        ]
    }


class DataSet:
    """The samples of a data set folder, in the order in which they were written. Raises DataError."""

    def __init__(self, folder: Path):
        self.folder = folder
        try:
            self.manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
            shards = [_Shard(folder / name) for name in self.manifest["shards"]]
            if self.manifest.get("format") != FORMAT:
                raise DataError(f"{folder} was made by another version of `vlm3 data build`: build it again")
            self._records = [(shard, record) for shard in shards for record in self._described(shard)]
            self._ends = list(accumulate(record["samples"] for _, record in self._records))
        except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
            raise DataError(f"{folder} is no training data made by `vlm3 data build`: {error}") from error

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Sample:
        shard, record, number = self._at(index)
        return shard.sample(record, number)

    def facts(self, index: int) -> Facts:
        """What all samples of its record say about the pictures of one."""
        shard, record, number = self._at(index)
        return shard.facts(record, number)

    def _at(self, index: int) -> tuple[_Shard, str, int]:
        """Where a sample is: shard, key of the record, its number in that."""
        index = range(len(self))[index]
        which = bisect_right(self._ends, index)
        shard, record = self._records[which]
        return shard, record["key"], index - (self._ends[which] - record["samples"])

    def exchanges(self) -> Iterator[tuple[Exchange, ...]]:
        """Those of each sample in turn, without its pictures, which take the time."""
        for shard, record in self._records:
            yield from (shard.exchanges(record["key"], i) for i in range(record["samples"]))

    def __iter__(self) -> Iterator[Sample]:
        return (self[i] for i in range(len(self)))

    @cached_property
    def tasks(self) -> list[frozenset[str]]:
        """The tasks of the questions of each sample."""
        return [frozenset(tasks) for _, record in self._records for tasks in record["tasks"]]

    @property
    def image_scale(self) -> float:
        """The fraction of the protocol's image sizes that it was made for."""
        return float(self.manifest["image_scale"])

    @cached_property
    def scenes(self) -> dict[str, list[int]]:
        """The samples of each scene, by their index."""
        found: dict[str, list[int]] = {}
        for (_, record), end in zip(self._records, self._ends, strict=True):
            found.setdefault(record["scene"], []).extend(range(end - record["samples"], end))
        return found

    @property
    def pictures(self) -> dict[str, set[str]]:
        """The fingerprints of the pictures of each scene."""
        found: dict[str, set[str]] = {}
        for _, record in self._records:
            found.setdefault(record["scene"], set()).update(record["pictures"])
        return found

    def _described(self, shard: _Shard) -> list[dict[str, Any]]:
        """What the manifest says of each record of a shard."""
        shard.path.stat()  # a shard that is missing is missed now, not in the middle of a training
        records = self.manifest["records"][shard.path.name]
        for record in records:
            kinds = {"key": str, "samples": int, "scene": str, "tasks": list, "pictures": list}
            if wrong := [name for name, kind in kinds.items() if not isinstance(record[name], kind)]:
                raise ValueError(f"{', '.join(wrong)} of a record of {shard.path.name} in the manifest")
        return records


def _images(pictures: list[list[Any]]) -> list[int]:
    """The numbers in their record of the images that pictures are made of."""
    return [number for number, _ in pictures]


class _Shard:
    """One tar file, read record by record wherever asked."""

    def __init__(self, path: Path):
        self.path = path

    def sample(self, record: str, index: int) -> Sample:
        with self._said():
            entry = self._record(record)[index]
            return Sample(
                entry["key"],
                entry["scene"],
                tuple(Picture(self._image(f"{record}.{i}.jpg"), (w, h)) for i, (w, h) in entry["pictures"]),
                self.exchanges(record, index),
            )

    def exchanges(self, record: str, index: int) -> tuple[Exchange, ...]:
        with self._said():
            return tuple(Exchange(*exchange) for exchange in self._record(record)[index]["exchanges"])

    def facts(self, record: str, index: int) -> Facts:
        with self._said():
            pictures = self._record(record)[index]["pictures"]
            together = self._about(record, pictures) if len(pictures) > 1 else ()
            alone = tuple(self._about(record, [picture]) for picture in pictures)
            return Facts(alone, tuple(self._scale(record, picture) for picture in pictures), together)

    @contextmanager
    def _said(self) -> Iterator[None]:
        """What a damaged file leads to, as a DataError."""
        try:
            yield
        except DataError:
            raise
        except FAULTS as error:
            raise DataError(
                f"{self.path} is damaged ({type(error).__name__}: {error}): build the data set again"
            ) from error

    def _about(self, record: str, pictures: list[list[Any]]) -> tuple[Exchange, ...]:
        """What samples that show just the images of these pictures ask."""
        found: list[Exchange] = []
        for number, entry in enumerate(self._record(record)):
            if _images(entry["pictures"]) == _images(pictures):
                asked = self.exchanges(record, number)
                found += [e for e in asked if e.task not in OF_SIZE or entry["pictures"] == pictures]
        return tuple(found)

    def _scale(self, record: str, picture: list[Any]) -> float:
        """The width of a picture as a fraction of that at which the depths of its image are asked."""
        for entry in self._record(record):
            if _images(entry["pictures"]) == [picture[0]] and any(task == "depth" for task, *_ in entry["exchanges"]):
                return picture[1][0] / entry["pictures"][0][1][0]
        return 1.0

    @lru_cache(maxsize=8)  # noqa: B019  (as many shards as a data set has, and they live as long)
    def _record(self, key: str) -> list[dict[str, Any]]:
        return json.loads(gzip.decompress(self._read(f"{key}.json.gz")))["samples"]

    @cached_property
    def _members(self) -> dict[str, tuple[int, int]]:
        """Where in the file the data of each member begins, and how many bytes it has."""
        with tarfile.open(self.path) as tar:
            return {entry.name: (entry.offset_data, entry.size) for entry in tar}

    def _image(self, name: str) -> np.ndarray:
        return cv2.cvtColor(image_files.pixels(self._read(name)), cv2.COLOR_BGR2RGB)

    def _read(self, name: str) -> bytes:
        offset, size = self._members[name]
        with self.path.open("rb") as file:
            file.seek(offset)
            return file.read(size)

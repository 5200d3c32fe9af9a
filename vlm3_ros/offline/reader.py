"""The messages of a ROS 2 bag: what is damaged or not understood is said, and the rest is read.

Messages are read as the types that Jazzy has, not as the definitions in the bag: the few types read here are the same
in every distribution of ROS 2, and so a broken or unknown definition of another topic does no harm.
"""

from __future__ import annotations

import logging
import struct
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlm3_ros.offline import compression, pieces
from vlm3_ros.offline.db3_reader import Db3Reader
from vlm3_ros.offline.mcap_reader import Declared, McapReader
from vlm3_ros.offline.sources import FrameError, SourceError, stamps_or_times
from vlm3_ros.offline.types import typestore

log = logging.getLogger(__name__)

Place = tuple[int, Any]  # where a message is: number of the file, and place in that


class BagReader:
    """A bag: a folder with or without metadata.yaml, or a single file; compressed as it may be."""

    def __init__(self, path: Path):
        """Raises SourceError where nothing can be read."""
        self.path = path
        self._unpacked = TemporaryDirectory(prefix="vlm3_ros-")  # of files that were compressed as a whole
        self.topics: dict[str, str] = {}  # name: type
        self.counts: dict[str, int] = defaultdict(int)
        self._files: list[McapReader | Db3Reader] = []
        self._channels: list[dict[str, set[int]]] = []  # numbers in each file by topic
        self._first: dict[str, Any] = {}
        left_out: dict[str, list[str]] = defaultdict(list)  # topics by the reason
        refused = [why for files in pieces.of_bag(path) if (why := self._open_any(files, left_out))]
        reasons = refused + [f"left out: {', '.join(topics)}: {why}" for why, topics in left_out.items()]
        if not self.topics:
            raise SourceError(f"nothing of the bag {path} can be read: {'; '.join(reasons) or 'it has no topic'}")
        for reason in reasons:
            log.warning("%s: %s", path, reason)

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()
        self._unpacked.cleanup()

    def raw(self, topic: str) -> Iterator[tuple[int, Place, bytes]]:
        """Time of recording in nanoseconds, place and serialized message, in the order of the files."""
        for number, (file, channels) in enumerate(zip(self._files, self._channels, strict=True)):
            if wanted := channels.get(topic):
                for time, place, data in file.messages(wanted):
                    with suppress(ValueError):  # said where the message itself is wanted
                        data = compression.message(data)
                    yield time, (number, place), data

    def messages(self, topic: str) -> Iterator[tuple[int, Any]]:
        """Time of recording in nanoseconds and message; those that cannot be read are left out, and counted."""
        reasons: list[str] = []
        for time, _, raw in self.raw(topic):
            try:
                yield time, self._message(topic, raw)
            except FrameError as error:
                reasons.append(str(error))
        if reasons:
            log.warning("%d messages of %s are left out, the first because: %s", len(reasons), topic, reasons[0])

    def first(self, topic: str) -> Any:
        """The first message of a topic that can be read. Raises FrameError."""
        error = FrameError(f"{topic} holds no message that can be read")
        if topic not in self._first:
            for _, _, raw in self.raw(topic):
                try:
                    self._first[topic] = self._message(topic, raw)
                    break
                except FrameError as reason:
                    error = reason
            else:
                raise error
        return self._first[topic]

    def message(self, topic: str, place: Place) -> Any:
        """The message at a place. Raises FrameError."""
        number, where = place
        try:
            raw = self._files[number].read(where)
        except (ValueError, OSError) as error:
            raise FrameError(f"a message of {topic} cannot be read: {error}") from error
        return self._message(topic, raw)

    def of_type(self, *kinds: str) -> list[str]:
        """The topics of a type that hold any message."""
        return sorted(topic for topic, kind in self.topics.items() if kind in kinds and self.counts[topic])

    def _message(self, topic: str, raw: bytes) -> Any:
        kind = self.topics[topic]
        if kind not in typestore().fielddefs:
            raise FrameError(f"{topic} has messages of type {kind}, which cannot be read")
        try:
            return typestore().deserialize_cdr(compression.message(raw), kind)
        except Exception as error:  # whatever random bytes do to the generated code
            raise FrameError(f"a message of {topic} is broken: {type(error).__name__}: {error}") from error

    def _open_any(self, files: Sequence[Path], left_out: dict[str, list[str]]) -> str:
        """Take the first of files that hold the same in which there is anything; returns why there is none."""
        why = ""
        for file in files:
            try:
                opened = self._opened(file)
            except Exception as error:  # databases and struct raise what they like on broken files
                why = f"{file.name} cannot be read: {error or type(error).__name__}"
                continue
            if opened.declared:
                self._take(opened, left_out)
                if len(files) > 1:
                    others = ", ".join(other.name for other in files if other != file)
                    log.warning("%s is read and not %s: both hold the same", file, others)
                return ""
            opened.close()
            why = f"{file.name} cannot be read: no topic is in it"
        return why

    def _take(self, file: McapReader | Db3Reader, left_out: dict[str, list[str]]) -> None:
        """Add the topics of a file; ``left_out`` gets those that are not understood, and why."""
        self._files.append(file)
        self._channels.append(defaultdict(set))
        for number, channel in file.declared.items():
            why = _not_understood(channel)
            if not why and self.topics.setdefault(channel.topic, kind := _full_name(channel.kind)) != kind:
                why = f"some of its messages are of type {kind}, not {self.topics[channel.topic]}"
            if why:
                left_out[why].append(f"{channel.topic or 'a topic without a name'} ({channel.count} messages)")
            else:
                self._channels[-1][channel.topic].add(number)
                self.counts[channel.topic] += channel.count

    def _opened(self, file: Path) -> McapReader | Db3Reader:
        if refusal := pieces.refusal(file):
            raise SourceError(refusal)
        kind = pieces.nature(file)
        if kind == "zstd":
            target = Path(self._unpacked.name) / pieces.unpacked(file.name)
            if complaint := compression.unpack(file, target):
                log.warning("%s is damaged: %s", file, complaint)
            return self._opened(target)
        return Db3Reader(file) if (kind or file.suffix.lower().lstrip(".")) == "db3" else McapReader(file)


class Series:
    """The messages with a header of one topic in the order of their stamps; cheapest one after the other."""

    def __init__(self, bag: BagReader, topic: str):
        self._bag, self.topic = bag, topic
        headed = [(time, _header_stamp(raw), place) for time, place, raw in bag.raw(topic)]
        stamps, unstamped = stamps_or_times([stamp for _, stamp, _ in headed], [time for time, *_ in headed])
        recorded = [(time, stamp, place) for (time, _, place), stamp in zip(headed, stamps, strict=True)]
        if unstamped:
            log.warning("%d messages of %s have no stamp: the time of recording is taken for it", unstamped, topic)
        recorded.sort(key=lambda entry: entry[0])
        if late := sum(after[1] < before[1] for before, after in pairwise(recorded)):
            log.warning("%d messages of %s have an older stamp than the one before: put in order", late, topic)
        recorded.sort(key=lambda entry: entry[1])
        self.stamps = [stamp for _, stamp, _ in recorded]  # nanoseconds
        self._places = [place for *_, place in recorded]

    def __getitem__(self, index: int) -> Any:
        """A message. Raises FrameError."""
        return self._bag.message(self.topic, self._places[index])


def _header_stamp(raw: bytes) -> int | None:
    """The stamp in nanoseconds of a serialized message that begins with a header; None of one too short for that."""
    if len(raw) < 12 or raw[0]:
        return None
    sec, nanosec = struct.unpack_from("<iI" if raw[1] & 1 else ">iI", raw, 4)
    return sec * 10**9 + nanosec


def _full_name(kind: str) -> str:
    """Some tools leave the middle out: sensor_msgs/Image."""
    package, *_, name = kind.split("/")
    return f"{package}/msg/{name}"


def _not_understood(channel: Declared) -> str:
    """Why the messages of a channel are none that can be read; nothing where they may be."""
    if channel.encoding == "ros1":
        return f"messages of ROS 1; convert the .bag that they come from: {pieces.CONVERT}"
    if channel.encoding != "cdr":
        return f"encoded as {channel.encoding!r}, not as the cdr of ROS 2"
    parts = channel.kind.split("/")
    return "" if len(parts) in (2, 3) and all(parts) else f"the type {channel.kind!r} is none of ROS 2"

"""The folder of a run: a bag that grows frame by frame, and tables beside it.

What a frame gave goes into the bag at once, with a note of everything that is needed to go on. So a run that was
killed at any moment goes on with the frame after the last whole one, and ends with the messages of an uninterrupted
run. Only the computing times in the notes differ.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from vlm3_ros.offline.mcap import LockedError, McapWriter, kept
from vlm3_ros.offline.sources import seconds
from vlm3_ros.offline.tum import trajectory_text
from vlm3_ros.offline.types import typestore


class RunError(Exception):
    """A run cannot be made or gone on with; the message says why and what to do."""


@dataclass(frozen=True)
class State:
    """What perception remembers after a frame; frames by their index in the source."""

    previous: int | None = None  # the last perceived frame
    keyframe: int | None = None
    keyframe_pose: tuple[list, list] | None = None  # T [4, 4] and covariance [6, 6]
    failures: int = 0  # frames in a row without a pose


@dataclass(frozen=True)
class Record:
    """What is known about a frame beside its messages."""

    stamp: int
    error: str = ""  # why the frame was not perceived
    pose: list[list[float]] | None = None  # [4, 4] odom ← camera
    asked: int = 0  # questions
    refused: dict[str, int] = field(default_factory=dict)  # answers without a value, by reason
    example: str = ""  # the beginning of one of them
    has_value: bool = True  # something that was asked
    seconds: dict[str, float] = field(default_factory=dict)  # by stage


class Results:
    """A folder with run.json and a growing bag, and in the end trajectory.txt and frames.csv."""

    def __init__(self, folder: Path, description: dict[str, Any], topics: Mapping[str, str]):
        """Begin a run, or go on with the one of the same ``description``. Raises RunError for another one.

        ``topics`` are those that any frame may have messages of, with their types.
        """
        self.folder = folder
        self.bag = folder / "bag"
        self._metadata = self.bag / "metadata.yaml"
        self._topics = topics
        about = folder / "run.json"
        before = read_description(folder) if about.exists() else description
        if differing := ", ".join(_differing(before, description)):
            raise RunError(f"{folder} holds a run with other {differing}: choose another --out, or delete it")
        try:
            self.bag.mkdir(parents=True, exist_ok=True)
            write_whole(about, json.dumps(description, indent=2).encode())
        except OSError as error:
            raise RunError(f"{folder} cannot be written to ({error}): choose another --out") from error
        self.perceived = self.lost = 0  # frames
        self.first_error = ""
        self.asked, self.refused, self.example = 0, Counter[str](), ""  # as of a Record, of all frames
        self.has_value = False  # something of any frame
        self.state = State()
        self._file = self.bag / "bag.mcap"
        if not self.finished:
            try:
                self._writer = McapWriter(self._file, topics, typestore())
            except LockedError as error:
                raise RunError(f"another `vlm3 run` is writing to {folder}: wait for it, or stop it") from error
        for record, state in self._notes():
            self._count(record)
            self.state = state

    @property
    def finished(self) -> bool:
        """Whether the bag is complete: its metadata are the last thing to be written."""
        return self._metadata.exists()

    def add(self, record: Record, messages: Mapping[str, memoryview], state: State) -> None:
        """Keep what the next frame gave: its serialized messages by topic."""
        note = json.dumps({"record": asdict(record), "state": asdict(state)})
        self._writer.add(record.stamp, messages, note)
        self._count(record)

    def records(self) -> Iterator[Record]:
        """What is known about all frames; read from the bag again, so that memory does not grow with them."""
        return (record for record, _ in self._notes())

    def finish(self) -> None:
        """Complete the bag and write the tables."""
        self._writer.finish()
        write_whole(self.folder / "trajectory.txt", _trajectory(self.records()).encode())
        write_whole(self.folder / "frames.csv", *_table(self.records))
        write_whole(self._metadata, self._bag_metadata().encode())

    def close(self) -> None:
        """Leave the run as it is; another process may go on with it."""
        if not self.finished:
            self._writer.close()

    def _notes(self) -> Iterator[tuple[Record, State]]:
        """What was written beside each frame. Raises RunError."""
        for frame in kept(self._file):
            try:
                note = json.loads(frame.note)
                yield Record(**note["record"]), State(**note["state"])
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise RunError(
                    f"{self._file} is damaged, so that it cannot be gone on with: choose another --out, or delete "
                    f"{self.folder} ({error})"
                ) from error

    def _count(self, record: Record) -> None:
        if record.error:
            self.first_error = self.first_error or record.error
            self.lost += 1
        else:
            self.perceived += 1
            self.has_value |= record.has_value
        self.asked += record.asked
        self.refused.update(record.refused)
        self.example = self.example or record.example

    def _bag_metadata(self) -> str:
        """metadata.yaml of rosbag2, version 9."""
        (first, last), counts, store = self._writer.span, self._writer.counts, typestore()
        span = {
            "starting_time": {"nanoseconds_since_epoch": first},
            "duration": {"nanoseconds": last - first},
            "message_count": sum(counts.values()),
        }
        topics = [
            {
                "topic_metadata": {
                    "name": topic,
                    "type": kind,
                    "serialization_format": "cdr",
                    "offered_qos_profiles": [],
                    "type_description_hash": store.hash_rihs01(kind),
                },
                "message_count": counts[topic],
            }
            for topic, kind in self._topics.items()
        ]
        information = {
            "version": 9,
            "storage_identifier": "mcap",
            "relative_file_paths": ["bag.mcap"],
            **span,
            "topics_with_message_count": topics,
            "compression_format": "",
            "compression_mode": "",
            "files": [{"path": "bag.mcap", **span}],
            "custom_data": None,
            "ros_distro": "jazzy",
        }
        text, yaml = StringIO(), YAML(typ="safe")
        yaml.default_flow_style = False
        yaml.dump({"rosbag2_bagfile_information": information}, text)
        return text.getvalue()


def read_description(folder: Path) -> dict[str, Any]:
    """What run.json says. Raises RunError."""
    try:
        return json.loads((folder / "run.json").read_text())
    except (OSError, ValueError) as error:
        raise RunError(f"{folder} is no folder that `vlm3 run` has written: {error}") from error


def _differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """What is not the same in two descriptions, with both values, down to the single setting."""
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict) and old != new:
            yield f"{key} ({', '.join(_differing(old, new))})"
        elif old != new:
            yield f"{key}: {old} there, {new} now"


def write_whole(path: Path, *parts: bytes) -> None:
    """Write a file so that it is there whole or not at all, whenever the process is killed."""
    unfinished = path.with_name(path.name + ".part")
    with unfinished.open("wb") as file:
        file.writelines(parts)
    os.replace(unfinished, path)


def write_json(path: Path, content: Any) -> None:
    """Write a file of numbers, whole or not at all; JSON has no infinity and no NaN: null."""
    write_whole(path, json.dumps(_finite(content), indent=2).encode())


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _trajectory(records: Iterable[Record]) -> str:
    return trajectory_text((record.stamp, np.array(record.pose)) for record in records if record.pose is not None)


def _table(records: Callable[[], Iterable[Record]]) -> Iterator[bytes]:
    """A line with the stages of any record, and one for each record."""
    stages = sorted({stage for record in records() for stage in record.seconds})
    yield (",".join(["stamp", *(f"{stage}_s" for stage in stages), "asked", "refused", "error"]) + "\n").encode()
    for record in records():
        times = [f"{record.seconds[stage]:.6f}" if stage in record.seconds else "" for stage in stages]
        counts = [str(record.asked), str(sum(record.refused.values()))]
        error = '"' + record.error.replace('"', '""') + '"' if record.error else ""
        yield (",".join([seconds(record.stamp), *times, *counts, error]) + "\n").encode()

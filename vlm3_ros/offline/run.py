"""Every frame of a recording through the node's perception; what it gave becomes a bag with the node's topics."""

from __future__ import annotations

import logging
from bisect import bisect_left
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vlm3_ros.config import Config
from vlm3_ros.geometry.frames import BODY_OPTICAL, bare, in_odom
from vlm3_ros.geometry.motion import Odometry, Pose
from vlm3_ros.offline.progress import Progress
from vlm3_ros.offline.results import Record, Results, RunError, State, write_whole
from vlm3_ros.offline.sources import FrameError, Source
from vlm3_ros.offline.types import new, typestore
from vlm3_ros.packing import TOPICS, Packer
from vlm3_ros.perception import Perception, Scene
from vlm3_ros.perception.pipeline import Memory
from vlm3_ros.perception.pose import Track
from vlm3_ros.tasks.answers import EXAMPLE
from vlm3_ros.vlm import ModelError
from vlm3_ros.vlm.models import Models

log = logging.getLogger(__name__)

PACKER = Packer(new)
FAULTS = 5  # equal ones in a row, before anything was perceived, are not the frames' own


def output_topics(config: Config) -> dict[str, str]:
    """Full names and types of the topics that a run with these settings writes."""
    topics = {f"/{name}": topic.type for name, topic in TOPICS.items() if topic.task in config.node.tasks}
    if "pose" in config.node.tasks and config.pose.publish_tf:
        topics["/tf"] = "tf2_msgs/msg/TFMessage"
    return topics


class Run:
    """One run over a source. What interrupts it, be it a kill or a ModelError, leaves a run that can go on."""

    def __init__(self, source: Source, config: Config, models: Models, results: Results, depth_png: bool = False):
        self._source, self._config, self._results = source, config, results
        self._depth_png = results.folder / "depth" if depth_png else None
        self._said: set[str] = set()
        self._doubtful: list[tuple[Record, State]] = []  # first frames, if they ended in faults of this program
        self._perception = Perception(config, models)
        self._base = bare(config.pose.base_frame) or source.root()
        self._T_base_camera = source.mount(self._base) if self._base else None

    def __call__(self) -> None:
        """Perceive all frames that are not done yet, and complete the bag.

        Raises ModelError, and RunError where faults of this program let nothing be perceived; the frames that ended
        in them are not written then, and the same command tries them again.
        """
        done, total = self._results.perceived + self._results.lost, len(self._source.stamps)
        self._resume(self._results.state)
        with Progress(done, total, self._results.folder.name) as progress:
            for index in range(done, total):
                self._frame(index)
                progress(index + 1)
        if self._doubtful:
            raise RunError(f"nothing could be perceived, the first because: {self._doubtful[0][0].error}")
        self._results.finish()

    def _frame(self, index: int) -> None:
        """Perceive a frame and keep what it gave, or why it gave nothing: it must not stop the others.

        Faults of this program wait until a perceived frame shows that they come from some frames only.
        """
        try:
            record, messages = self._perceived(index)
        except ModelError:
            raise
        except FrameError as error:
            record, messages = self._left_out(index, str(error)), {}
            is_doubtful = bool(self._doubtful)  # frames are kept in their order
        except Exception as error:
            record, messages = self._left_out(index, f"{type(error).__name__}: {error}", error), {}
            is_doubtful = not self._results.perceived
        else:
            is_doubtful = False
        if is_doubtful:
            self._doubt(record)
            return
        for waiting, state in self._doubtful:
            self._results.add(waiting, {}, state)
        self._doubtful.clear()
        self._results.add(record, messages, self._state())

    def _doubt(self, record: Record) -> None:
        self._doubtful.append((record, self._state()))
        last = {waiting.error for waiting, _ in self._doubtful[-FAULTS:]}
        if len(self._doubtful) >= FAULTS and len(last) == 1:
            raise RunError(f"nothing could be perceived, {FAULTS} frames in a row because: {record.error}")

    def _perceived(self, index: int) -> tuple[Record, dict[str, memoryview]]:
        stamp = self._source.stamps[index]
        is_tracked = self._perception.memory("").track is not None  # a first pose is not asked
        scene = self._perception.perceive(self._source.frame(index), self._config.node.tasks)
        pose = None if scene.pose is None else self._in_odom(scene.pose)
        if self._depth_png is not None and scene.depth is not None:
            _write_depth(self._depth_png / f"{stamp}.png", scene.depth.map.depth)
        record = Record(
            stamp,
            pose=None if pose is None else pose.T.tolist(),
            asked=scene.tally.asked,
            refused={reason.value: count for reason, count in scene.tally.refused.items()},
            example=scene.tally.examples[0].text[: 2 * EXAMPLE] if scene.tally.examples else "",
            has_value=not scene.tally.asked or _has_value(scene, is_tracked),
            seconds=dict(scene.tally.seconds),
        )
        return record, self._packed(scene, pose)

    def _left_out(self, index: int, reason: str, fault: Exception | None = None) -> Record:
        """Said once for each reason: frames.csv has it for every frame."""
        if reason not in self._said:
            log.warning("frame %d is left out: %s", index, reason, exc_info=fault)
        self._said.add(reason)
        return Record(self._source.stamps[index], reason)

    def _packed(self, scene: Scene, pose: Pose | None) -> dict[str, memoryview]:
        """The serialized messages of a scene, by full topic name."""
        found = dict(PACKER.scene(scene, self._config.cloud, lambda topic: True))
        if pose is not None:
            head = PACKER.header(scene.frame, bare(self._config.pose.odom_frame))
            found["camera_pose"] = PACKER.pose(head, pose)
            child = bare(self._base or scene.frame.frame_id)
            if self._config.pose.publish_tf and child:
                T = pose.T if self._T_base_camera is None else pose.T @ np.linalg.inv(self._T_base_camera)
                found["tf"] = PACKER.transforms(PACKER.transform(head, child, T))
        return {f"/{topic}": _serialized(message) for topic, message in found.items()}

    def _in_odom(self, pose: Pose) -> Pose:
        return in_odom(pose, BODY_OPTICAL if self._T_base_camera is None else self._T_base_camera)

    # ------------------------------------------------------------------------------------ stopping and going on

    def _state(self) -> State:
        """What perception remembers now."""
        memory = self._perception.memory("")
        previous, track = self._index(memory.previous), memory.track
        if track is None:
            return State(previous)
        pose = track.odometry.keyframe
        kept = (pose.T.tolist(), pose.covariance.tolist())
        return State(previous, self._index(track.keyframe), kept, track.failures)

    def _resume(self, state: State) -> None:
        """Let perception remember what it did then."""
        track = None
        if state.keyframe is not None and state.keyframe_pose is not None:
            T, covariance = map(np.array, state.keyframe_pose)
            track = Track(self._source.frame(state.keyframe), Odometry(Pose(T, covariance)), state.failures)
        previous = None if state.previous is None else self._source.frame(state.previous)
        self._perception.resume("", Memory(previous, track))

    def _index(self, frame: Any) -> int | None:
        return None if frame is None else bisect_left(self._source.stamps, frame.stamp)


def _has_value(scene: Scene, is_tracked: bool) -> bool:
    """Whether anything that was asked about a frame is known: an empty list of objects is, NaN everywhere is not."""
    numbers = [scene.depth.samples.z] if scene.depth else []
    numbers += [scene.matches.pixels] if scene.matches else []
    is_known = any(np.isfinite(values).any() for values in numbers)
    return is_known or scene.objects is not None or (scene.pose is not None and is_tracked)


def _serialized(message: Any) -> memoryview:
    return typestore().serialize_cdr(message, message.__msgtype__)


def _write_depth(path: Path, depth: np.ndarray) -> None:
    """Depth [height, width] in metres as a PNG file of 16 bit millimetres (REP 118), 0 unknown or beyond 65.5 m."""
    path.parent.mkdir(exist_ok=True)
    millimetres = np.nan_to_num(depth * 1000.0).round()
    millimetres = np.where(millimetres <= np.iinfo(np.uint16).max, millimetres, 0.0).astype(np.uint16)
    _, data = cv2.imencode(".png", millimetres)
    write_whole(path, data.tobytes())

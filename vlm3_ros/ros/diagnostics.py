"""What the node says about itself once a second on /diagnostics."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import QoSProfile

from vlm3_ros.perception import Scene
from vlm3_ros.ros.parameters import OVERRIDABLE
from vlm3_ros.ros.stream import Stream
from vlm3_ros.vlm.models import Models, ModelStatus

STATE, BUSY = "state", "busy"  # of the node itself: its state in the lifecycle, and whether it has something to do
RECENT_S = 10.0  # a trouble is what a camera reports for this long
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


@dataclass
class _Record:
    """Counts that several threads may change and read."""

    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, kind: str) -> None:
        """One more of a kind."""
        with self.lock:
            setattr(self, kind, getattr(self, kind) + 1)


@dataclass
class NodeRecord(_Record):
    """What happened to a node since it was started, for all cameras. Safe to use from several threads."""

    cancelled: int = 0  # frames given up because the node was deactivated
    answered: int = 0  # questions of ~/ask
    refused: int = 0  # likewise: no answer, but why
    forgotten: int = 0  # parents in /tf that fell silent


@dataclass
class CameraRecord(_Record):
    """What happened to the frames of one camera since the node was activated. Safe to use from several threads."""

    perceived: int = 0
    refused: int = 0  # frames that could not be used: image, calibration
    failed: int = 0  # frames on which a model or the code failed
    failed_tasks: Counter[str] = field(default_factory=Counter)  # by task, on frames of which others were perceived
    late: int = 0  # frames not newer than one already seen
    resets: int = 0  # jumps back in time
    pauses: int = 0  # new starts of the odometry because nobody had used the pose for a while
    losses: int = 0  # of tracking
    lost: bool = False  # no pose since the last of them
    poses: int = 0
    asked: int = 0
    left_out: int = 0  # questions for which the time budget was too short
    refused_answers: Counter[str] = field(default_factory=Counter)
    stage_ms: dict[str, float] = field(default_factory=dict)
    age_ms: float = 0.0  # of the last frame, from its stamp to its outputs
    trouble: str = ""  # the last one
    trouble_level: bytes = OK
    trouble_time: float = 0.0

    def add(self, scene: Scene, failed: Collection[str], age_ms: float) -> None:
        """Count a perceived frame and the tasks that failed on it."""
        with self.lock:
            self.perceived += 1
            self.poses += scene.pose is not None
            self.failed_tasks.update(list(failed))
            self.asked += scene.tally.asked
            self.left_out += scene.tally.left_out
            self.refused_answers.update({reason.value: n for reason, n in scene.tally.refused.items()})
            self.stage_ms.update({stage: seconds * 1e3 for stage, seconds in scene.tally.seconds.items()})
            self.age_ms = age_ms

    def note(self, level: bytes, text: str, kind: str = "") -> None:
        """What is wrong with a frame; one that gave nothing is counted as ``refused``, ``failed`` or ``late``."""
        if kind:
            self.count(kind)
        with self.lock:
            self.trouble, self.trouble_level, self.trouble_time = text, level, time.monotonic()


class Reporter:
    """Publishes the state of the node, of each camera and of each model."""

    def __init__(self, node: Node):
        self._node = node
        self._publisher = node.create_publisher(
            DiagnosticArray, "/diagnostics", QoSProfile(depth=10), qos_overriding_options=OVERRIDABLE
        )
        self._counts: dict[str, tuple[float, float]] = {}  # name: (count, time) at the last report

    def publish(
        self,
        state: str,
        fault: str,
        warning: str,
        busy: bool,
        record: NodeRecord,
        cameras: Sequence[tuple[Stream, CameraRecord]],
        models: Models | None,
        camera_timeout_s: float,
    ) -> None:
        """One message; ``fault`` says why the node is not configured, ``warning`` what holds it up.

        ``busy`` is whether it is at work.
        """
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        name = self._node.get_fully_qualified_name()
        free = models.free_bytes() if models else None
        with record.lock:
            values = {
                STATE: state,
                BUSY: busy,
                "memory free (GB)": "" if free is None else free / 1e9,
                "frames cancelled": record.cancelled,
                "questions answered": record.answered,
                "questions refused": record.refused,
                "parents forgotten": record.forgotten,
            }
        level = ERROR if fault else WARN if warning else OK
        message.status = [_status(name, level, fault or warning or state, values)]
        for stream, of_camera in cameras:
            level, text = _camera_health(stream, of_camera, camera_timeout_s)
            about = f"{name}: camera {stream.name or stream.image_topic}"
            message.status.append(_status(about, level, text, self._camera_values(stream, of_camera)))
        for model in models.status() if models else ():
            text = "loaded" if model.loaded else "not loaded"
            message.status.append(_status(f"{name}: model {model.name}", OK, text, self._model_values(model)))
        self._publisher.publish(message)

    def _camera_values(self, stream: Stream, record: CameraRecord) -> dict[str, object]:
        with record.lock:
            return {
                "images in": stream.received,
                "images/s in": self._rate(f"{stream.name} in", stream.received),
                "frames perceived": record.perceived,
                "frames/s out": self._rate(f"{stream.name} out", record.perceived),
                "dropped for a newer one": stream.dropped,
                "refused": record.refused,
                "failed": record.failed,
                **{f"failed {task}": count for task, count in record.failed_tasks.items()},
                "late": record.late,
                "time jumps": record.resets,
                "odometry pauses": record.pauses,
                "tracking losses": record.losses,
                "poses": record.poses,
                "age of the last frame (ms)": record.age_ms,
                "questions": record.asked,
                "questions left out": record.left_out,
                "questions/s": self._rate(f"{stream.name} questions", record.asked),
                **{f"{stage} (ms)": ms for stage, ms in record.stage_ms.items()},
                **{f"answers {reason}": count for reason, count in record.refused_answers.items()},
                "last error": record.trouble,
            }

    def _model_values(self, model: ModelStatus) -> dict[str, object]:
        return {
            "tasks": ", ".join(model.tasks),
            "memory (GB)": model.memory_bytes / 1e9,
            "loads": model.loads,
            "looks": model.looks,
            "questions": model.questions,
            "tokens": model.tokens,
            "tokens/s": self._rate(f"tokens {model.name}", model.tokens),
        }

    def _rate(self, name: str, count: float) -> float:
        """Growth per second of a count since the last report."""
        now = time.monotonic()
        before, then = self._counts.get(name, (count, now))
        self._counts[name] = count, now
        # Counts start again at 0 when the node is activated again.
        return max(0.0, count - before) / (now - then) if now > then else 0.0


def _camera_health(stream: Stream, record: CameraRecord, timeout_s: float) -> tuple[bytes, str]:
    silent = time.monotonic() - stream.last_arrival
    with record.lock:
        if record.trouble and time.monotonic() - record.trouble_time < RECENT_S:
            return record.trouble_level, record.trouble
    if stream.lacks_calibration:
        return ERROR, stream.without_calibration
    if silent > timeout_s:
        return WARN, f"no image on {stream.image_topic} for {silent:.0f} s"
    if record.lost:
        return WARN, "tracking is lost: the answers about the camera's motion are refused"
    return OK, "receiving images"


def _status(name: str, level: bytes, message: str, values: Mapping[str, object]) -> DiagnosticStatus:
    shown = [
        KeyValue(key=key, value=f"{value:.3g}" if isinstance(value, float) else str(value))
        for key, value in values.items()
    ]
    return DiagnosticStatus(level=level, name=name, message=message, values=shown)

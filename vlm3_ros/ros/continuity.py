"""Whether the frames of a camera follow one another: late ones, jumps back in time, pauses and lost tracking."""

from __future__ import annotations

from collections.abc import Collection

from rclpy.node import Node

from vlm3_ros.perception import Perception
from vlm3_ros.ros import diagnostics
from vlm3_ros.ros.diagnostics import CameraRecord
from vlm3_ros.ros.logging import Occasionally

JUMP_NS = 10**9  # a stamp this much older than the last one is a jump back in time, not a late frame


class Continuity:
    """Lets `Perception` forget a camera where its frames do not hang together, and says and counts every break."""

    def __init__(self, node: Node, perception: Perception):
        self._perception = perception
        self._occasionally = Occasionally(node)
        self._last_stamp: dict[str, int] = {}
        self._tracked: set[str] = set()  # cameras whose odometry has begun

    def in_order(self, name: str, topic: str, stamp: int, record: CameraRecord) -> bool:
        """Whether a frame is newer than the last one; a jump back in time starts the camera anew."""
        last = self._last_stamp.get(name, stamp - 1)
        if last - JUMP_NS < stamp <= last:
            text = f"camera {name!r}: a frame is left out, {_late(stamp, last, topic)}"
            record.note(diagnostics.WARN, text, "late")
            self._occasionally.warn(text)
            return False
        if stamp <= last:
            record.count("resets")
            self._occasionally.warn(
                f"camera {name!r}: time jumped back by {(last - stamp) / 1e9:.1f} s (a bag that starts over?); "
                "odometry and matching start anew"
            )
            self._perception.forget(name)
            self._tracked.discard(name)
        self._last_stamp[name] = stamp
        return True

    def mind_gaps(self, name: str, wanted: Collection[str], record: CameraRecord) -> None:
        """Forget a camera of which nobody wants anything; say where odometry starts anew because of a pause."""
        if "pose" in wanted and name in self._tracked and self._perception.memory(name).track is None:
            self._tracked.remove(name)
            record.count("pauses")
            self._occasionally.warn(f"camera {name!r}: nobody used its pose for a while; odometry starts anew")
        if not wanted:
            self._perception.forget(name)

    def watch_track(self, name: str, lost_after: int, record: CameraRecord) -> None:
        """Say and count where tracking was lost with the last frame."""
        track = self._perception.memory(name).track
        if track is not None:
            self._tracked.add(name)
        lost = track is not None and track.lost
        if lost and not record.lost:
            record.count("losses")
            self._occasionally.warn(
                f"camera {name!r}: tracking is lost, {lost_after} frames in a row gave no pose; the path goes on "
                "from the last keyframe, and its covariance says that the way since is not known"
            )
        with record.lock:
            record.lost = lost


def _late(stamp: int, last: int, topic: str) -> str:
    """What is wrong with a stamp that is not newer than the last one."""
    if stamp < last:
        return f"its stamp is {(last - stamp) / 1e9:.3f} s before that of the last one"
    if stamp == 0:
        return f"its stamp is 0 like that of the last one: whoever publishes {topic} does not stamp the images"
    return f"it has the stamp of the last one: are there two publishers on {topic}, or does one repeat itself?"

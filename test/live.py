"""The node under test and the other side of its topics: a camera, a listener and an operator, over real DDS."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import doubles
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import Log
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros import answered_by
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from vlm3_ros.ros.lifecycle import Vlm3Node

FRAME = "optical"
SIZE = (64, 48)
DEADLINE_S = 30.0
SECOND = 10**9
FAST = {"depth.points": 12, "objects.points": 16}  # enough for a wall

_names = itertools.count()


def unique_namespace() -> str:
    """A namespace that no other test uses."""
    return f"/test_{next(_names)}"


def header(stamp: int, frame_id: str = FRAME) -> Header:
    """A header with a stamp in nanoseconds."""
    message = Header(frame_id=frame_id)
    message.stamp.sec, message.stamp.nanosec = divmod(stamp, SECOND)
    return message


def stamp(message: Any) -> int:
    """The stamp of a message with a header, in nanoseconds."""
    return message.header.stamp.sec * SECOND + message.header.stamp.nanosec


def picture(level: int = 100, size: tuple[int, int] = SIZE, ahead: int = 100) -> np.ndarray:
    """RGB [height, width, 3] of one colour: how far the wall is, and how far the camera has moved (see doubles)."""
    return np.full((size[1], size[0], 3), (level, ahead, 0), np.uint8)


def image(stamp: int, pixels: np.ndarray | None = None, **fields: Any) -> Image:
    """An rgb8 image; ``fields`` replace what it would rightly hold."""
    pixels = picture() if pixels is None else pixels
    height, width = pixels.shape[:2]
    values = {
        "header": header(stamp, fields.pop("frame_id", FRAME)),
        "height": height,
        "width": width,
        "encoding": "rgb8",
        "step": pixels.strides[0],
        "data": pixels.tobytes(),
    }
    return Image(**{**values, **fields})


def compressed(stamp: int, pixels: np.ndarray | None = None, form: str = "jpeg", **fields: Any) -> CompressedImage:
    """A compressed image; ``fields`` replace what it would rightly hold."""
    pixels = picture() if pixels is None else pixels
    _, data = cv2.imencode(f".{form}", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    return CompressedImage(**{"header": header(stamp), "format": form, "data": data.tobytes(), **fields})


def info(size: tuple[int, int] = SIZE, frame_id: str = FRAME, **fields: Any) -> CameraInfo:
    """The right camera_info for pictures of this size."""
    f = doubles.FOCAL * size[0]
    k = [f, 0.0, (size[0] - 1) / 2, 0.0, f, (size[1] - 1) / 2, 0.0, 0.0, 1.0]
    values = {
        "header": Header(frame_id=frame_id),
        "width": size[0],
        "height": size[1],
        "distortion_model": "plumb_bob",
        "d": [0.0] * 5,
        "k": k,
        "r": np.eye(3).ravel(),
        "p": [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0],
    }
    return CameraInfo(**{**values, **fields})


class Peer:
    """Whoever is on the other side of the topics of a node in ``namespace``.

    Runs in the thread of the test, while it waits for something.
    """

    def __init__(self, namespace: str):
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        self.node = Node("peer", namespace=namespace, context=self._context, start_parameter_services=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._publishers: dict[str, Publisher] = {}
        self._clients: dict[str, Client] = {}
        self.heard: dict[str, list[Any]] = defaultdict(list)
        self.name = f"{namespace}/vlm3"
        self._stamp = SECOND
        self.listen(DiagnosticArray, "/diagnostics")
        kept = QoSProfile(
            depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE
        )
        self.listen(Log, "/rosout", kept)

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    # ----------------------------------------------------------------------------------------------- topics

    def listen(self, kind: type, topic: str, qos: QoSProfile | int = 50) -> list[Any]:
        """Subscribe; what comes is appended to the returned list."""
        self.node.create_subscription(kind, topic, self.heard[topic].append, qos)
        return self.heard[topic]

    def unlisten(self, topic: str) -> None:
        """Unsubscribe."""
        for subscription in list(self.node.subscriptions):
            if subscription.topic_name.endswith(topic):
                self.node.destroy_subscription(subscription)

    def connected(self, kind: type, topic: str, subscribers: int = 1, qos: QoSProfile | int = 10) -> Publisher:
        """A publisher that somebody listens to."""
        if topic not in self._publishers:
            self._publishers[topic] = self.node.create_publisher(kind, topic, qos)
        publisher = self._publishers[topic]
        self.until(lambda: publisher.get_subscription_count() >= subscribers, f"a subscriber of {topic}")
        return publisher

    def hears(self, *topics: str) -> None:
        """Wait until the node's publishers of topics that are listened to know about it."""
        self.until(lambda: all(self.node.count_publishers(topic) for topic in topics), f"publishers of {topics}")

    def next_stamp(self) -> int:
        """Stamps a tenth of a second apart."""
        self._stamp += SECOND // 10
        return self._stamp

    def skip_stamps(self) -> None:
        """Leave a quarter of an hour out: for a second peer, whose stamps are to be no other's."""
        self._stamp += 900 * SECOND

    # ---------------------------------------------------------------------------------------------- waiting

    def spin(self, seconds: float = 0.02) -> None:
        """Serve this side's callbacks."""
        self._executor.spin_once(timeout_sec=seconds)

    def until(self, condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
        """Spin until the condition gives something true, which is returned."""
        end = time.monotonic() + deadline_s
        while not (result := condition()):
            assert time.monotonic() < end, f"no {what} within {deadline_s:.0f} s; the node said: {self.log()}"
            self.spin()
        return result

    def until_sent(self, send: Callable[[], Any], condition: Callable[[], Any], what: str) -> Any:
        """The same, sending again and again: best effort may lose a message, and discovery takes its time."""

        def sent_and_true() -> Any:
            send()
            end = time.monotonic() + 0.2
            while time.monotonic() < end:
                self.spin()
                if result := condition():
                    return result
            return None

        return self.until(sent_and_true, what)

    # ------------------------------------------------------------------------------------------ what is said

    def log(self) -> list[str]:
        """What the node has logged so far."""
        logger = self.name.strip("/").replace("/", ".")
        return [entry.msg for entry in self.heard["/rosout"] if entry.name == logger]

    def logged(self, *texts: str) -> str:
        """Wait for a log line that holds all the texts."""
        return self.until(
            lambda: next((line for line in self.log() if all(text in line for text in texts)), None),
            f"log line with {texts}",
        )

    def status(self, about: str = "") -> DiagnosticStatus | None:
        """The newest diagnostics of the node, or of its camera or model of which the name ends with ``about``."""
        for message in reversed(self.heard["/diagnostics"]):
            for status in message.status:
                if status.name == self.name if not about else status.name.startswith(f"{self.name}: {about}"):
                    return status
        return None

    def count(self, key: str, about: str = "camera") -> int:
        """A counter of the newest diagnostics."""
        status = self.status(about)
        return int({value.key: value.value for value in status.values}[key]) if status else 0

    def diagnosed(self, *texts: str, about: str = "camera", level: bytes | None = None) -> DiagnosticStatus:
        """Wait for diagnostics whose message holds all the texts."""

        def found() -> DiagnosticStatus | None:
            status = self.status(about)
            right = status and all(text in status.message for text in texts)
            return status if right and level in (None, status.level) else None

        return self.until(found, f"diagnostics of {about!r} with {texts}, but {self.status(about)}")

    # --------------------------------------------------------------------------------------------- services

    def call(self, kind: type, service: str, **request: Any) -> Any:
        """Call a service of the node and wait for the response."""
        return self.result(self.ask(kind, service, **request), service)

    def ask(self, kind: type, service: str, **request: Any) -> Any:
        """Call a service of the node; the future of its response."""
        name = f"{self.name}/{service}"
        client = self._clients.setdefault(name, self.node.create_client(kind, name))
        self.until(client.service_is_ready, f"service {name}")
        return client.call_async(kind.Request(**request))

    def result(self, future: Any, what: str = "response") -> Any:
        """Wait for a future."""
        self.until(future.done, what)
        return future.result()


class Live:
    """A node in a thread of this process, its `Wall`, and a `Peer`."""

    def __init__(self, parameters: dict[str, object] | None, activate: bool, namespace: str):
        self.namespace = namespace
        self.wall = doubles.shared(self.namespace)
        self.peer = Peer(self.namespace)
        self._context = rclpy.Context()
        rclpy.init(context=self._context)
        values = {**answered_by(f"doubles:shared:{self.namespace}"), "node.tasks": ["depth"], **FAST}
        values |= {"node.autostart": activate, **(parameters or {})}
        self.node = Vlm3Node(
            namespace=self.namespace,
            context=self._context,
            parameter_overrides=[Parameter(name, value=value) for name, value in values.items()],
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self._running = True
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        if activate:
            self.peer.logged("perceiving")

    def _spin(self) -> None:
        while self._running:
            self._executor.spin_once(timeout_sec=0.1)

    def received(self, camera: str = "") -> int:
        """Images that have reached the node so far; the diagnostics say so too, but once a second only."""
        return self.node._streams[camera].received

    def taken(self, camera: str = "") -> bool:
        """Whether the worker has taken the newest image, and so is done with all before it."""
        return not self.node._streams[camera].waiting

    def close(self) -> None:
        self.wall.gate.set()
        self._running = False
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive()
        self._executor.shutdown()
        assert self.node.stop()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)
        self.peer.close()


@contextmanager
def live(parameters: dict[str, object] | None = None, activate: bool = True, namespace: str = "") -> Iterator[Live]:
    """A `Live` that is closed at the end."""
    running = Live(parameters, activate, namespace or unique_namespace())
    try:
        yield running
    finally:
        running.close()

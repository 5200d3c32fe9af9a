"""Which topics of a bag are meant: the only ones that fit, or those that were named; never a guess."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import PurePosixPath

from vlm3_ros.geometry import frames
from vlm3_ros.images import DEPTH_ENCODINGS
from vlm3_ros.offline.reader import BagReader
from vlm3_ros.offline.sources import FrameError, SourceError

log = logging.getLogger(__name__)

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
TF = "tf2_msgs/msg/TFMessage"
TRANSFORM = "geometry_msgs/msg/TransformStamped"
ODOMETRY = "nav_msgs/msg/Odometry"
STAMPED_POSES = ("geometry_msgs/msg/PoseStamped", "geometry_msgs/msg/PoseWithCovarianceStamped", "nav_msgs/msg/Path")
POSES = (ODOMETRY, TRANSFORM, *STAMPED_POSES)  # from which true poses can be taken, other than /tf
OBJECTS = "vision_msgs/msg/Detection3DArray"


def image_topic(bag: BagReader, named: str) -> str:
    """The topic with the camera's images. Raises SourceError."""
    fitting = [topic for topic in _images(bag) if not is_depth(bag, topic)]
    chosen = only(bag, "image", "--image", named, (IMAGE, COMPRESSED), fitting)
    if chosen is None:
        raise SourceError(
            f"{bag.path} has no topic with images{_taken_for_depth(bag)}; it has {_listed(bag, bag.topics)}"
        )
    return chosen


def depth_topic(bag: BagReader, named: str, frame_id: str) -> str | None:
    """The topic with depth on the camera's images, that is in their optical frame. Raises SourceError."""
    depth = [topic for topic in _images(bag) if is_depth(bag, topic)]
    fitting = [topic for topic in depth if frames.same(bag.first(topic).header.frame_id, frame_id)]
    for topic in sorted({*depth} - {*fitting, named}):
        log.warning("%s is left out: it is not registered to the images, which are in frame %r", topic, frame_id)
    return only(bag, "depth", "--true-depth", named, (IMAGE, COMPRESSED), fitting)


def info_topic(bag: BagReader, named: str, image: str, frame_id: str) -> str | None:
    """The topic with the CameraInfo of the images; None where the bag has none. Raises SourceError.

    It stands beside the image topic, as image_transport has it, or else is the only one for the images' frame.
    """
    infos = bag.of_type(CAMERA_INFO)
    base = PurePosixPath(image).parent if bag.topics[image] == COMPRESSED else PurePosixPath(image)
    beside = str(base.parent / "camera_info")
    if not named and beside in infos:
        return beside
    fitting = [
        topic for topic in _readable(bag, CAMERA_INFO) if frames.same(bag.first(topic).header.frame_id, frame_id)
    ]
    return only(bag, "camera_info", "--camera-info", named, (CAMERA_INFO,), fitting)


def only(
    bag: BagReader, what: str, option: str, named: str, kinds: Collection[str], fitting: Collection[str]
) -> str | None:
    """The topic that was named or the only one that fits; None if there is none. Raises SourceError.

    ``kinds``: the types that a named one may have.
    """
    if named:
        if named not in bag.topics:
            raise SourceError(f"{bag.path} has no topic {named} ({option}); it has {_listed(bag, bag.topics)}")
        if bag.topics[named] not in kinds:
            raise SourceError(
                f"{named} is {bag.topics[named]}; {option} takes {' or '.join(kinds)}, of which {bag.path} has "
                f"{_listed(bag, bag.of_type(*kinds))}"
            )
        return named
    if len(fitting) > 1:
        suggestion = max(fitting, key=lambda topic: ("color" in topic or "rgb" in topic, bag.counts[topic]))
        raise SourceError(
            f"{bag.path} has {len(fitting)} topics that may be the {what}: {_listed(bag, fitting)}\n"
            f"Name the one that is meant, for example {option} {suggestion}"
        )
    return next(iter(fitting), None)


def is_depth(bag: BagReader, topic: str) -> bool:
    """Whether the first image of a topic is one of depth."""
    message = bag.first(topic)
    if bag.topics[topic] == COMPRESSED:
        return "compressedDepth" in message.format or message.format.split(";")[0].strip() in DEPTH_ENCODINGS
    return message.encoding in DEPTH_ENCODINGS


def _taken_for_depth(bag: BagReader) -> str:
    """The topics whose images have the encoding of depth, which are pictures from some cameras."""
    found = [topic for topic in _images(bag) if is_depth(bag, topic)]
    if not found:
        return ""
    return (
        f" but depth, by the encoding ({', '.join(found)}); where they are pictures, as mono16 of an "
        f"infrared camera, name the topic: --image {found[0]}"
    )


def _images(bag: BagReader) -> list[str]:
    return [*_readable(bag, IMAGE), *_readable(bag, COMPRESSED)]


def _readable(bag: BagReader, kind: str) -> list[str]:
    """The topics of a type of which a message can be read; of others it is said why."""
    readable = []
    for topic in bag.of_type(kind):
        try:
            bag.first(topic)
            readable.append(topic)
        except FrameError as error:
            log.warning("%s", error)
    return readable


def _listed(bag: BagReader, topics: Collection[str]) -> str:
    lines = [f"\n  {topic} ({bag.topics[topic]}, {bag.counts[topic]} messages)" for topic in sorted(topics)]
    return "".join(lines) or "none at all"

"""The main job on real Kinect frames, with every part in a process of its own and DDS in between.

replay.py plays the recorded cabinet bag as camera topics; the installed node perceives it, with answers from ground
truth; record.py writes what comes out. What is checked here is what `rosbags`, which knows nothing of this project,
decodes from that recording.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ros
import truth
from record import typestore
from rosbags.highlevel import AnyReader
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from vlm3_ros.geometry.box3d import Box3D

FRAME = "camera_color_optical_frame"
OUTPUTS = {
    "/depth/image": "sensor_msgs/msg/Image",
    "/depth/camera_info": "sensor_msgs/msg/CameraInfo",
    "/depth/confidence": "sensor_msgs/msg/Image",
    "/depth/samples": "sensor_msgs/msg/PointCloud2",
    "/points": "sensor_msgs/msg/PointCloud2",
    "/camera_pose": "geometry_msgs/msg/PoseWithCovarianceStamped",
    "/tf": "tf2_msgs/msg/TFMessage",
    "/matches": "vlm3_ros/msg/PixelMatches",
    "/objects": "vision_msgs/msg/Detection3DArray",
    "/objects/markers": "visualization_msgs/msg/MarkerArray",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
}


@pytest.fixture(scope="module")
def recorded(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """All messages of a recording of the node's outputs over the whole cabinet bag, by topic."""
    bag = tmp_path_factory.mktemp("bag") / "outputs"
    parameters = {
        **ros.answered_by(f"truth:recorded:{data / 'tum_fr3_cabinet'}"),
        "node.image_transport": "compressed",
        "node.tasks": ["depth", "pose", "matches", "objects"],
        "objects.labels": ["cabinet"],
    }
    topics = [f"{topic}={kind}" for topic, kind in OUTPUTS.items()]
    with (
        ros.node(parameters) as node,
        ros.Process(ros.TEST / "record.py", bag, *topics) as recorder,
    ):
        recorder.wait_for("ready")
        with ros.Process(ros.TEST / "replay.py", data / "bags_made" / "tum_fr3_cabinet") as replay:
            assert replay.wait(180.0) == 0, replay.output
        assert "58 images sent" in replay.output
        assert recorder.interrupt() == 0, recorder.output
        assert node.interrupt() == 0, node.output
    messages = defaultdict(list)
    with AnyReader([bag], default_typestore=typestore()) as reader:
        for connection, _, raw in reader.messages():
            messages[connection.topic].append(reader.deserialize(raw, connection.msgtype))
    return messages


@pytest.fixture(scope="module")
def frames(data: Path) -> dict[int, truth.TrueFrame]:
    """Truth by stamp in nanoseconds."""
    with AnyReader([data / "bags_made" / "tum_fr3_cabinet"]) as reader:
        images = [c for c in reader.connections if c.topic.endswith("image_raw/compressed")]
        stamps = [_stamp(reader.deserialize(raw, c.msgtype).header) for c, _, raw in reader.messages(images)]
    return dict(zip(stamps, truth.manifest_frames(data / "tum_fr3_cabinet").values(), strict=True))


def test_every_output_carries_the_stamp_and_frame_of_its_image(recorded, frames):
    for topic in OUTPUTS:
        if topic == "/diagnostics":
            continue
        heads = [_header(message) for message in recorded[topic]]
        expected = sorted(frames)[1:] if topic == "/matches" else sorted(frames)  # a match needs a frame before
        assert [_stamp(head) for head in heads] == expected, topic
        assert {head.frame_id for head in heads} == {"vlm_odom" if topic in ("/camera_pose", "/tf") else FRAME}, topic
    assert {t.transforms[0].child_frame_id for t in recorded["/tf"]} == {FRAME}


def test_depth_image_agrees_with_the_recorded_depth(recorded, frames):
    right = total = known = 0
    for message in recorded["/depth/image"]:
        true, depth = frames[_stamp(message.header)].depth, _image(message)
        assert message.encoding == "32FC1"
        assert depth.shape == true.shape
        both = np.isfinite(true) & np.isfinite(depth)
        ratio = np.maximum(depth[both] / true[both], true[both] / depth[both])
        right, known, total = right + (ratio < 1.25).sum(), known + both.sum(), total + np.isfinite(true).sum()
    assert right / known >= 0.97
    assert known / total >= 0.99


def test_confidence_is_a_probability_and_zero_where_depth_is_unknown(recorded):
    for depth, confidence in zip(recorded["/depth/image"], recorded["/depth/confidence"], strict=True):
        values = _image(confidence)
        assert (values >= 0).all()
        assert (values <= 1).all()
        assert ((values == 0) == np.isnan(_image(depth))).all()


def test_camera_info_fits_the_depth_image(recorded, frames):
    for info, image in zip(recorded["/depth/camera_info"], recorded["/depth/image"], strict=True):
        camera = frames[_stamp(info.header)].camera
        assert (info.width, info.height) == (image.width, image.height) == camera.size
        np.testing.assert_allclose(info.k.reshape(3, 3), camera.K)
        np.testing.assert_allclose(info.p.reshape(3, 4)[:, :3], camera.K)


def test_cloud_lies_on_the_recorded_cloud(recorded, frames):
    distances = []
    for message in recorded["/points"][::6]:
        frame = frames[_stamp(message.header)]
        rows, columns = np.nonzero(np.isfinite(frame.depth))
        true = frame.camera.rays(np.stack([columns, rows], axis=-1)) * frame.depth[rows, columns][:, None]
        points = _points(message)
        assert message.point_step == 16
        assert np.isfinite(points).all()
        distances.append(cKDTree(true[::7]).query(points[::53])[0])
    assert np.median(np.concatenate(distances)) <= 0.03


def test_samples_are_true(recorded, frames):
    for message in recorded["/depth/samples"][::6]:
        frame = frames[_stamp(message.header)]
        points = _points(message)
        column, row = np.rint(frame.camera.project(points)).astype(int).T
        assert len(points) > 300
        # Two decimals of the answer, and half a reference number to either side.
        assert np.median(np.abs(points[:, 2] - frame.depth[row, column])) < 0.01


@pytest.mark.parametrize("topic", ["/camera_pose", "/tf"])
def test_chained_pose_stays_near_the_true_path(recorded, frames, topic):
    stamps = sorted(frames)
    true = [frames[stamp].T_world_camera for stamp in stamps]
    measured = [_pose(message) for message in recorded[topic]]
    length = sum(np.linalg.norm(b[:3, 3] - a[:3, 3]) for a, b in itertools.pairwise(true))
    start = measured[0] @ np.linalg.inv(true[0])  # where the world is in odom
    errors = [np.linalg.norm(m[:3, 3] - (start @ t)[:3, 3]) for m, t in zip(measured, true, strict=True)]
    assert max(errors) <= 0.02 * length
    level = Rotation.from_matrix(measured[0][:3, :3]).as_matrix()
    np.testing.assert_allclose(level @ [0, 0, 1], [1, 0, 0], atol=1e-6)  # the first camera looks along odom's x
    np.testing.assert_allclose(level @ [0, -1, 0], [0, 0, 1], atol=1e-6)  # and its up is odom's z


def test_pose_grows_less_certain_along_the_way(recorded):
    sigmas = [np.sqrt(m.pose.covariance.reshape(6, 6)[:3, :3].trace()) for m in recorded["/camera_pose"]]
    assert sigmas[0] == 0.0
    assert 0.0 < sigmas[5] < sigmas[-1]


def test_cabinet_box_is_the_known_one(recorded, frames):
    overlaps = []
    for message in recorded["/objects"]:
        (true,) = frames[_stamp(message.header)].boxes
        found = [_box(d) for d in message.detections]
        if _in_view(true, frames[_stamp(message.header)]):
            overlaps.append(max((true.iou(box) for box in found), default=0.0))
        assert {d.results[0].hypothesis.class_id for d in message.detections} <= {"cabinet"}
    assert len(overlaps) > 20
    assert np.mean(overlaps) >= 0.4


def test_markers_replace_the_old_ones(recorded):
    for message, objects in zip(recorded["/objects/markers"], recorded["/objects"], strict=True):
        assert message.markers[0].action == 3  # DELETEALL
        assert len(message.markers) == 1 + 2 * len(objects.detections)
        assert len({(m.ns, m.id) for m in message.markers[1:]}) == len(message.markers) - 1


def test_matches_are_true(recorded, frames):
    errors = []
    for message in recorded["/matches"]:
        first, second = frames[_stamp(message.header1)], frames[_stamp(message.header)]
        assert message.header1.frame_id == FRAME
        assert len(message.u1) == len(message.v1) == len(message.u2) == len(message.v2) == len(message.confidence)
        pixels = np.stack([message.u1, message.v1], axis=-1)
        column, row = np.rint(pixels).astype(int).T
        points = first.camera.rays(pixels) * first.depth[row, column][:, None]
        T = np.linalg.inv(second.T_world_camera) @ first.T_world_camera
        there = second.camera.project(points @ T[:3, :3].T + T[:3, 3])
        errors.append(np.linalg.norm(there - np.stack([message.u2, message.v2], axis=-1), axis=-1))
    assert np.nanmedian(np.concatenate(errors)) < 1.0  # a reference number is 0.64 of these pixels


def test_diagnostics_count_what_happened(recorded):
    last = {value.key: value.value for value in _camera_status(recorded["/diagnostics"][-1]).values}
    assert int(last["images in"]) == int(last["frames perceived"]) == 58
    assert int(last["refused"]) == int(last["failed"]) == int(last["time jumps"]) == 0
    assert int(last["answers unparsed"]) > 0  # pixels for which the Kinect has no depth
    assert float(last["depth (ms)"]) > 0.0


# --------------------------------------------------------------------------------- reading standard messages


def _stamp(header: Any) -> int:
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def _header(message: Any) -> Any:
    for field in ("transforms", "markers"):
        if hasattr(message, field):
            return getattr(message, field)[0].header
    return message.header


def _image(message: Any) -> np.ndarray:
    return message.data.view(np.float32).reshape(message.height, message.width)


def _points(message: Any) -> np.ndarray:
    """x y z [N, 3] of a PointCloud2, found by the names of its fields."""
    offsets = {f.name: f.offset for f in message.fields}
    kind = np.dtype(
        {
            "names": list("xyz"),
            "formats": ["<f4"] * 3,
            "offsets": [offsets[n] for n in "xyz"],
            "itemsize": message.point_step,
        }
    )
    points = message.data.view(kind)
    return np.stack([points[n] for n in "xyz"], axis=-1).astype(float)


def _pose(message: Any) -> np.ndarray:
    if hasattr(message, "transforms"):
        position, q = message.transforms[0].transform.translation, message.transforms[0].transform.rotation
    else:
        position, q = message.pose.pose.position, message.pose.pose.orientation
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    T[:3, 3] = position.x, position.y, position.z
    return T


def _box(detection: Any) -> Box3D:
    c, s, q = detection.bbox.center.position, detection.bbox.size, detection.bbox.center.orientation
    rotation = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    return Box3D("", 1.0, np.array([c.x, c.y, c.z]), np.array([s.x, s.y, s.z]), rotation)


def _in_view(box: Box3D, frame: truth.TrueFrame) -> bool:
    """Whether the whole box is in the image."""
    pixels = frame.camera.project(box.corners())
    return bool(np.isfinite(pixels).all() and (pixels >= 0).all() and (pixels < frame.camera.size).all())


def _camera_status(message: Any) -> Any:
    return next(status for status in message.status if "camera" in status.name)

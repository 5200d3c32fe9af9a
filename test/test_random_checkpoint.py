"""The node on a real checkpoint folder: weights files, Qwen3's tokenizer and a chat template, but random weights.

Everything a model needs runs for real, in the node's process and over DDS; the answers are garbage. What is checked
is that garbage is counted and said, and never published.
"""

from __future__ import annotations

from pathlib import Path

import checkpoints
import numpy as np
import pytest
import ros
from record import typestore
from rosbags.highlevel import AnyReader

OUTPUTS = {
    "/depth/image": "sensor_msgs/msg/Image",
    "/depth/samples": "sensor_msgs/msg/PointCloud2",
    "/points": "sensor_msgs/msg/PointCloud2",
    "/camera_pose": "geometry_msgs/msg/PoseWithCovarianceStamped",
    "/matches": "vlm3_ros/msg/PixelMatches",
    "/objects": "vision_msgs/msg/Detection3DArray",
    "/diagnostics": "diagnostic_msgs/msg/DiagnosticArray",
}
pytestmark = pytest.mark.slow

FRAMES, DEPTH_POINTS, MATCH_POINTS = 2, 24, 6


@pytest.fixture(scope="module")
def recorded(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """What the node says about a few frames, by topic."""
    folder = tmp_path_factory.mktemp("random")
    checkpoint = checkpoints.make(folder / "checkpoint", tokenizer=checkpoints.qwen3_tokenizer())
    checkpoints.end_soon(checkpoint)
    parameters = {
        **{f"vlm.checkpoint.{task}": checkpoint for task in ("depth", "matching", "pose", "objects", "grounding")},
        "node.image_transport": "compressed",
        "node.tasks": ["depth", "pose", "matches", "objects"],
        "camera.max_tokens": 80,
        "objects.labels": ["chair", "table"],
        "depth.points": DEPTH_POINTS,
        "matches.points": MATCH_POINTS,
    }
    topics = [f"{topic}={kind}" for topic, kind in OUTPUTS.items()]
    bag = data / "bags_made" / "tum_fr3_cabinet"
    with (
        ros.node(parameters) as node,
        ros.Process(ros.TEST / "record.py", folder / "bag", *topics) as recorder,
    ):
        recorder.wait_for("ready")
        with ros.Process(ros.TEST / "replay.py", bag, "--frames", FRAMES) as replay:
            assert replay.wait(240.0) == 0, replay.output + node.output
        assert "answers gave no value" in node.output
        assert recorder.interrupt() == 0, recorder.output
        assert node.interrupt() == 0, node.output
    messages: dict[str, list] = {topic: [] for topic in OUTPUTS}
    with AnyReader([folder / "bag"], default_typestore=typestore()) as reader:
        for connection, _, raw in reader.messages():
            messages[connection.topic].append(reader.deserialize(raw, connection.msgtype))
    return messages


def test_no_value_is_made_of_garbage(recorded):
    assert len(recorded["/depth/image"]) == FRAMES
    assert all(np.isnan(m.data.view(np.float32)).all() for m in recorded["/depth/image"])
    assert [m.width for topic in ("/depth/samples", "/points") for m in recorded[topic]] == [0] * 2 * FRAMES
    assert [len(m.u1) for m in recorded["/matches"]] == [0] * (FRAMES - 1)
    assert len(recorded["/camera_pose"]) == 1  # the first camera, which is the origin by definition
    assert recorded["/objects"] == []


def test_every_answer_is_counted(recorded):
    values = {
        value.key: value.value
        for status in recorded["/diagnostics"][-1].status
        if "camera" in status.name
        for value in status.values
    }
    pairs = FRAMES - 1
    asked = FRAMES * (DEPTH_POINTS + 2) + pairs * (MATCH_POINTS + 4)
    assert int(values["questions"]) == asked
    # The four answers about a pose are refused together.
    refused = sum(int(value) for key, value in values.items() if key.startswith("answers "))
    assert refused == asked - pairs * 3
    assert values["frames perceived"] == str(FRAMES)


def test_one_checkpoint_is_loaded_once_and_looks_once_a_frame_per_picture(recorded):
    node, *_, model = recorded["/diagnostics"][-1].status
    assert "model" in model.name
    assert float(next(v.value for v in node.values if v.key == "memory free (GB)")) > 0.0
    values = {value.key: value.value for value in model.values}
    assert values["loads"] == "1"
    # Depth and grounding share the look at each frame, matching and pose that at the pair of frames.
    assert int(values["looks"]) == FRAMES + 1
    assert values["tasks"].count(",") == 4

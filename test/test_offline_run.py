"""`vlm3 run`: every frame once, stopped or not, into a bag that others can read."""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import bags
import cv2
import doubles
import numpy as np
import pytest
from bags import SECOND
from rosbags.highlevel import AnyReader
from scipy.spatial.transform import Rotation

from vlm3_ros import cli
from vlm3_ros.config import ConfigError
from vlm3_ros.offline import run
from vlm3_ros.offline.progress import line
from vlm3_ros.offline.settings import read_config, to_yaml
from vlm3_ros.perception import Perception
from vlm3_ros.vlm import Answer

START = 1000 * SECOND
STAMPS = [START + i * SECOND // 10 for i in range(6)]
TASKS = "node.tasks=[depth, pose, matches, objects]"
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
}


def vlm3(*words: object) -> int:
    """The command, in this process."""
    argv, sys.argv = sys.argv, ["vlm3", *map(str, words)]
    try:
        return cli.main()
    finally:
        sys.argv = argv


def settings(double: str, *others: str) -> list[str]:
    return ["--model", f"test:doubles:shared:{double}"] + [w for s in (TASKS, *others) for w in ("--set", s)]


def messages(bag: Path) -> dict[str, list[Any]]:
    """All messages by topic, read by the definitions that the bag brings along."""
    found = defaultdict(list)
    with AnyReader([bag]) as reader:
        for connection, time_, raw in reader.messages():
            message = reader.deserialize(raw, connection.msgtype)
            assert connection.msgtype == OUTPUTS[connection.topic]
            found[connection.topic].append((time_, message))
    return found


def ahead(stamps: list[int]) -> list[bags.Entry]:
    """A camera that moves 0.2 m ahead from image to image, towards a wall 2 m away."""
    entries = bags.camera(stamps)
    for i, (_, _, message) in enumerate(entries[1:]):
        message.data = np.tile(np.array([100 - 10 * i, 10 * i, 7], np.uint8), 64 * 48)
    return entries


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    return bags.write(tmp_path / "camera", ahead(STAMPS))


def test_every_frame_gives_every_output(bag, tmp_path, request):
    assert vlm3("run", bag, "--out", tmp_path / "out", *settings(request.node.name), "--depth-png") == 0
    found = messages(tmp_path / "out" / "bag")
    assert set(found) == set(OUTPUTS)
    for topic, pairs in found.items():
        assert [time_ for time_, _ in pairs] == (STAMPS[1:] if topic == "/matches" else STAMPS), topic
    for i, (_, depth) in enumerate(found["/depth/image"]):
        np.testing.assert_allclose(depth.data.view(np.float32), 2.0 - 0.2 * i, atol=0.02)
        png = cv2.imread(str(tmp_path / "out" / "depth" / f"{STAMPS[i]}.png"), cv2.IMREAD_UNCHANGED)
        np.testing.assert_allclose(png, depth.data.view(np.float32).reshape(48, 64) * 1000.0, atol=0.5)
        assert (depth.header.stamp.sec, depth.header.stamp.nanosec) == divmod(STAMPS[i], SECOND)
        assert depth.header.frame_id == "camera"


def failing_frames(monkeypatch: pytest.MonkeyPatch, *frames: int) -> None:
    """Let the pipeline fail in these of the frames that it is given."""
    perceive, seen = Perception.perceive, []

    def failing(self: Perception, *arguments: Any) -> Any:
        seen.append(1)
        if len(seen) - 1 in frames:
            raise ValueError("a picture like none before")
        return perceive(self, *arguments)

    monkeypatch.setattr(Perception, "perceive", failing)


@pytest.mark.parametrize("frames", [(0,), (3,), (0, 1, 2, 3), (1, 2, 3, 4, 5)])
def test_frames_that_cannot_be_perceived_are_left_out_and_the_others_are_not(
    bag, tmp_path, request, caplog, monkeypatch, frames
):
    failing_frames(monkeypatch, *frames)
    assert vlm3("run", bag, "--out", tmp_path / "out", *settings(request.node.name)) == 0
    with (tmp_path / "out" / "frames.csv").open() as file:
        errors = [row["error"] for row in csv.DictReader(file)]
    assert errors == ["ValueError: a picture like none before" if i in frames else "" for i in range(len(STAMPS))]
    assert f"frame {frames[0]} is left out: ValueError" in caplog.text


def test_where_every_frame_ends_in_a_fault_nothing_is_finished(bag, tmp_path, request, capsys, monkeypatch):
    command = ("run", bag, "--out", tmp_path / "out", *settings(request.node.name))
    with monkeypatch.context() as patch:
        failing_frames(patch, *range(len(STAMPS)))
        assert vlm3(*command) == 1
    assert "5 frames in a row because: ValueError: a picture like none before" in (said := capsys.readouterr().err)
    assert "kept" not in said
    assert vlm3(*command) == 0
    assert "6 of 6 frames" in capsys.readouterr().out


def test_answers_without_a_value_are_said_and_no_success(bag, tmp_path, request, capsys):
    wall = doubles.shared(request.node.name)
    wall.blind = True
    command = ("run", bag, "--out", tmp_path / "out", *settings(request.node.name))
    for _ in range(2):  # a finished run as well
        assert vlm3(*command) == 1
        said = capsys.readouterr()
        assert "6 of 6 frames perceived" in said.out
        assert re.search(r"\d+ of \d+ answers gave no value \(\d+ unparsed\), such as 'I cannot tell.'", said.err)
        assert "nothing that was asked has a value" in said.err


def test_some_answers_without_a_value_are_said(bag, tmp_path, request, capsys):
    wall = doubles.shared(request.node.name)
    answer = wall.answer
    wall.answer = lambda view, questions: [  # type: ignore[method-assign]
        Answer("I see " + 200 * "nothing ", 0.5) if i == 0 else given
        for i, given in enumerate(answer(view, questions))
    ]
    assert vlm3("run", bag, "--out", tmp_path / "out", *settings(request.node.name)) == 0
    said = capsys.readouterr().err
    assert re.search(r"\d+ of \d+ answers gave no value \(.*unparsed.*\), such as 'I see nothing .{0,160}…'", said)


def test_depth_that_a_png_cannot_hold_is_unknown_in_it(tmp_path):
    depth = np.array([[1.0, np.nan, 65.5351, 65.536, 80.0]], np.float32)
    run._write_depth(tmp_path / "depth" / "0.png", depth)
    written = cv2.imread(str(tmp_path / "depth" / "0.png"), cv2.IMREAD_UNCHANGED)
    assert written.tolist() == [[1000, 0, 65535, 0, 0]]


def test_pose_goes_to_topic_tf_and_trajectory(bag, tmp_path, request):
    assert vlm3("run", bag, "--out", tmp_path / "out", *settings(request.node.name)) == 0
    found = messages(tmp_path / "out" / "bag")
    lines = np.loadtxt(tmp_path / "out" / "trajectory.txt")
    for i, row in enumerate(lines):
        pose, tf = found["/camera_pose"][i][1], found["/tf"][i][1].transforms[0]
        p, q = pose.pose.pose.position, pose.pose.pose.orientation
        assert (pose.header.frame_id, tf.header.frame_id, tf.child_frame_id) == ("vlm_odom", "vlm_odom", "camera")
        np.testing.assert_allclose([p.x, p.y, p.z], [0.2 * i, 0.0, 0.0], atol=0.01)  # ahead is odom's x
        np.testing.assert_allclose(row, [STAMPS[i] / SECOND, p.x, p.y, p.z, q.x, q.y, q.z, q.w], atol=1e-8)
        t = tf.transform.translation
        assert (t.x, t.y, t.z) == (p.x, p.y, p.z)


@pytest.mark.parametrize("base", ["base", "/base", ""])
def test_base_frame_starts_at_the_origin_of_odom(bag, tmp_path, request, base):
    mount = bags.transform(START, "base", "camera", 0.0)
    q = Rotation.from_matrix([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]).as_quat()
    rotation, translation = mount.transforms[0].transform.rotation, mount.transforms[0].transform.translation
    rotation.x, rotation.y, rotation.z, rotation.w = q
    translation.z = 0.5
    bag = bags.write(tmp_path / "mounted", [("/tf_static", START, mount), *ahead(STAMPS)])
    assert vlm3("run", bag, "--out", tmp_path / "out", *settings(request.node.name, f"pose.base_frame={base}")) == 0
    found = messages(tmp_path / "out" / "bag")
    for i, ((_, tf), (_, pose)) in enumerate(zip(found["/tf"], found["/camera_pose"], strict=True)):
        t = tf.transforms[0].transform.translation
        assert tf.transforms[0].child_frame_id == "base"
        np.testing.assert_allclose([t.x, t.y, t.z], [0.2 * i, 0.0, 0.0], atol=0.01)
        assert pose.pose.pose.position.z == pytest.approx(0.5, abs=0.01)


def test_frames_that_cannot_be_used_are_left_out(tmp_path, capsys, request):
    entries = ahead(STAMPS)
    entries[3][2].data = np.zeros(0, np.uint8)
    entries[5][2].width = 0
    assert (
        vlm3("run", bags.write(tmp_path / "b", entries), "--out", tmp_path / "out", *settings(request.node.name)) == 0
    )
    times = [time_ for time_, _ in messages(tmp_path / "out" / "bag")["/depth/image"]]
    assert times == [*STAMPS[:2], STAMPS[3], STAMPS[5]]
    said = capsys.readouterr()
    assert "4 of 6 frames" in said.out
    assert "2 of 6 could not be used, the first because: the data is truncated" in said.err
    assert "truncated" in (tmp_path / "out" / "frames.csv").read_text()


def test_run_without_any_frame_fails(tmp_path, request):
    entries = ahead(STAMPS[:2])
    for _, _, message in entries[1:]:
        message.data = np.zeros(0, np.uint8)
    bag = bags.write(tmp_path / "bag", entries)
    assert vlm3("run", bag, "--out", tmp_path / "out", *settings(request.node.name)) == 1


@pytest.mark.parametrize("folder", ["camera/metadata.yaml", "camera/metadata.yaml/out"])
def test_folder_that_cannot_be_written_to_is_said(bag, tmp_path, capsys, request, folder):
    assert vlm3("run", bag, "--out", tmp_path / folder, *settings(request.node.name)) == 1
    assert "metadata.yaml" in (said := capsys.readouterr().err)
    assert "choose another --out" in said


@pytest.mark.parametrize("words", [["missing"], ["camera", "--set", "depth.points=no"], ["camera", "--image", "/x"]])
def test_what_cannot_be_done_is_said(bag, tmp_path, capsys, words):
    assert vlm3("run", tmp_path / words[0], "--out", tmp_path / "out", *words[1:]) == 1
    assert capsys.readouterr().err.startswith("vlm3 run: ")


def test_settings_come_from_file_then_words_and_can_be_used_again(tmp_path):
    (tmp_path / "a.yaml").write_text("/**:\n  ros__parameters:\n    depth:\n      points: 40\n      scale: 2\n")
    config = read_config(
        tmp_path / "a.yaml", ["depth.points=50", "vlm.checkpoint.depth=8", "objects.labels=[a b, c]"]
    )
    assert (config.depth.points, config.depth.scale, config.vlm.checkpoint.depth) == (50, 2.0, "8")
    assert config.objects.labels == ["a b", "c"]
    (tmp_path / "b.yaml").write_text(to_yaml(config))
    assert read_config(tmp_path / "b.yaml", []) == config


def test_one_model_for_all_tasks_but_where_a_word_names_another(tmp_path):
    (tmp_path / "a.yaml").write_text("/**:\n  ros__parameters:\n    vlm.checkpoint.pose: of_file\n")
    checkpoints = read_config(tmp_path / "a.yaml", ["vlm.checkpoint.depth=mine"], model="bundled").vlm.checkpoint
    assert asdict(checkpoints) == {**dict.fromkeys(asdict(checkpoints), "bundled"), "depth": "mine"}
    assert read_config(tmp_path / "a.yaml", []).vlm.checkpoint.pose == "of_file"


@pytest.mark.parametrize("value", ["depth.points", "depth.point=3", "depth.points=[", "depth.points=0"])
def test_wrong_settings_are_refused(value):
    with pytest.raises(ConfigError):
        read_config(None, [value])


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0, 58, 0, 0.0), "0 of 58 frames"),
        ((12, 58, 12, 6.0), "12 of 58 frames, 2.0 frames/s, 0:00:23 left"),
        ((110, 20110, 10, 10.0), "110 of 20110 frames, 1.0 frames/s, 5:33:20 left"),
    ],
)
def test_progress(numbers, text):
    assert line(*numbers) == text

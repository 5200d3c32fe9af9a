"""Recordings that were met with a traceback or with silence, each one of a kind, through the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bags
import numpy as np
import pytest
from live import compressed, info, live
from scripted import Scripted, metres
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from test_offline_run import STAMPS, ahead, messages, vlm3

TUM = ("--intrinsics", "60", "60", "31.5", "23.5")

RECORDINGS = {  # recording: words for the command, frames perceived, what is said
    "db3_unknown_definition/bag": ((), 6, ""),
    "mcap_foreign_channel/with_json.mcap": ((), 6, "/log (1 messages): encoded as 'json'"),
    "mcap_foreign_channel/with_schemaless.mcap": ((), 6, "/log (1 messages): encoded as 'json'"),
    "type_without_slash/bag": ((), 6, "/depth/metadata (0 messages): the type 'CameraMetadata' is none of ROS 2"),
    "mcap_not_ros2_profile/profile_none.mcap": ((), 6, ""),
    "mcap_not_ros2_profile/profile_ros1.mcap": ((), 0, "messages of ROS 1; convert the .bag that they come from"),
    "ros1_bag/ros1.bag": ((), 0, "rosbags-convert --src"),
    "file_compressed_partly/a": ((), 6, "taken for one bag are bag_0.mcap, bag_1.mcap"),
    "file_compressed_partly/e": ((), 6, "f_0.mcap is read and not f_0.mcap.zstd: both hold the same"),
    "converted_beside/two": ((), 0, "holds 2 recordings and no metadata.yaml"),
    "mcap_bit_flips/mcap_KeyError_1102.mcap": ((), 0, "is damaged: "),
    "mcap_bit_flips/mcap_UnicodeDecodeError_1.mcap": ((), 0, "is damaged: "),
    "mcap_bit_flips/db3_AttributeError_2.db3": ((), 3, "3 messages are of topics that are nowhere declared"),
    "mono16_camera/bag": ((), 0, "--image /camera/image"),
    "tum_groundtruth/nan": (TUM, 6, ""),  # a run needs no truth, and reads none
    "tum_groundtruth/short_line_at_end": (TUM, 6, ""),
    "tum_groundtruth/commas": (TUM, 6, ""),
    "odometry_zero_quaternion/zeros": ((), 6, ""),
    "scannet_inf_pose/scene": ((), 4, ""),
    "detections_without_results/no_results": ((), 6, ""),
    "slow_tf/slow_map": ((), 10, ""),
    "pose_stamped_truth/bag": ((), 6, ""),
    "distortion_names/equidistant_5": ((), 2, ""),
    "distortion_names/pinhole_no_distortion": ((), 2, ""),
    "distortion_names/plumb_bob_8_zeros_behind": ((), 2, ""),
    "info_frame_empty/empty": ((), 6, ""),
}

TRUTHS = {  # recording: words for the run, true poses, of frames, what is said
    "odometry_zero_quaternion/zeros": ((), 5, 6, "/odom: 1 of 6 poses are left out: 1 x its quaternion is all zeros"),
    "scannet_inf_pose/scene": ((), 3, 4, "1 of 4 frames have no true pose: T_world_cam holds NaN or infinity"),
    "tum_groundtruth/nan": (TUM, 6, 6, "1 of 12 poses are left out: 1 x NaN or infinity"),
    "tum_groundtruth/short_line_at_end": (TUM, 6, 6, "1 x no line of stamp and seven numbers"),
    "tum_groundtruth/commas": (TUM, 6, 6, ""),
    "slow_tf/slow_map": ((), 10, 10, "the poses of /tf map → odom are 0.5 s apart: interpolated over up to 1 s"),
    "pose_stamped_truth/bag": ((), 6, 6, "/vrpn/camera/pose does not say what it is the pose of"),
}


@pytest.mark.parametrize(("name", "words", "perceived", "said"), [(n, *rest) for n, rest in RECORDINGS.items()])
def test_recording_is_read_or_called_what_it_is(data, tmp_path, capsys, caplog, name, words, perceived, said):
    status, text = run(data / "cases" / name, tmp_path / "out", words, capsys, caplog)
    assert "Traceback" not in text
    assert said in text
    assert status == (0 if perceived else 1)
    if perceived:
        assert len(messages(tmp_path / "out" / "bag")["/depth/image"]) == perceived


@pytest.mark.parametrize(("name", "words", "known", "frames", "said"), [(n, *rest) for n, rest in TRUTHS.items()])
def test_truth_is_taken_value_by_value(data, tmp_path, capsys, caplog, name, words, known, frames, said):
    status, _ = run(data / "cases" / name, tmp_path / "out", (*words, *TASKS), capsys, caplog)
    assert status == 0
    status = vlm3("evaluate", tmp_path / "out")
    text = "".join(capsys.readouterr()) + caplog.text
    assert "Traceback" not in text
    assert said in text
    lines = (tmp_path / "out" / "true_trajectory.txt").read_text().splitlines()[1:]
    assert len(lines) == known
    assert status == 0
    assert (f"{frames - known} of {frames} frames have no true pose" in text) == (known < frames)


def test_detections_without_a_name_or_turn_are_left_out_alone(data, tmp_path, capsys, caplog):
    recording = data / "cases" / "detections_without_results" / "no_results"
    run(recording, tmp_path / "out", TASKS, capsys, caplog)
    vlm3("evaluate", tmp_path / "out")
    text = "".join(capsys.readouterr()) + caplog.text
    assert "Traceback" not in text
    assert "6 boxes are left out: 6 x it has no result, so it has no name" in text
    assert "6 of 6 frames have no true boxes: none of a message of /truth/objects can be used" in text


def test_recording_costs_itself_alone(data, tmp_path, capsys, caplog):
    good = [bags.write(tmp_path / name, ahead(STAMPS)) for name in ("monday", "tuesday")]
    bad = data / "cases" / "mcap_not_ros2_profile" / "profile_ros1.mcap"
    with_json = data / "cases" / "mcap_foreign_channel" / "with_json.mcap"
    words = ("--out", tmp_path / "out", "--model", "test:doubles:slow:0")
    assert vlm3("run", good[0], bad, with_json, good[1], *words) == 1
    said = capsys.readouterr()
    assert said.out.count("6 of 6 frames perceived") == 3
    last = said.err.splitlines()[-2:]
    assert last[0] == "vlm3 run: 1 of 4 recordings failed:"
    assert last[1].startswith("  profile_ros1: ")
    assert "ROS 1" in last[1]
    assert vlm3("run", *good, "--out", tmp_path / "good", *words[2:]) == 0
    assert "failed" not in capsys.readouterr().err


TASKS = ("--set", "node.tasks=[depth, pose, objects]")


def run(recording: Path, out: Path, words: tuple[str, ...], capsys, caplog) -> tuple[int, str]:
    """Exit status of the command and all it says."""
    status = vlm3("run", recording, "--out", out, "--model", "test:doubles:slow:0", *words)
    said = capsys.readouterr()
    return status, said.out + said.err + caplog.text


# ------------------------------------------------------------------------------------------------------- pictures

SEEN: list[Any] = []


def watcher() -> Scripted:
    """`test:test_cases:watcher`: remembers the pictures it is shown in SEEN."""
    model = Scripted(metres(2.0))
    model.looks = SEEN
    return model


def test_mosaic_of_a_bayer_camera_reaches_the_model_in_colour(data, tmp_path):
    """Half of the picture is (220, 40, 40), the other half (40, 60, 220)."""
    SEEN.clear()
    words = ["--model", "test:test_cases:watcher", "--set", "node.tasks=[depth]"]
    assert vlm3("run", data / "cases" / "bayer_jpeg" / "bag", "--out", tmp_path / "out", *words) == 0
    ((picture,),) = SEEN
    height, width, _ = picture.pixels.shape
    middle = picture.pixels[height // 2]
    np.testing.assert_allclose(middle[width // 4], (220, 40, 40), atol=12)
    np.testing.assert_allclose(middle[3 * width // 4], (40, 60, 220), atol=12)


def test_picture_that_claims_to_be_huge_is_refused_before_it_is_decoded(data):
    file = (data / "cases" / "png_bomb" / "bomb_16384x8192.png").read_bytes()
    with live({"node.image_transport": "compressed"}) as running:
        peer = running.peer
        peer.listen(Image, "depth/image")
        infos, images = peer.connected(CameraInfo, "camera_info"), peer.connected(CompressedImage, "image/compressed")

        def send() -> None:
            infos.publish(info())
            images.publish(compressed(peer.next_stamp(), data=file, format="png"))

        peer.until_sent(send, lambda: peer.count("refused"), "a refusal")
        peer.logged("refused", "16384x8192")

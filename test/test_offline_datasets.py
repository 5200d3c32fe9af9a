"""Data set folders and label files, each made here as small as it can be."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from scripted import Scripted
from test_offline_run import vlm3

from vlm3_ros.camera import Camera, metric_scale, unified
from vlm3_ros.config import CameraConfig
from vlm3_ros.offline.opening import open_source
from vlm3_ros.offline.sources import Choices, FrameError, Source, SourceError
from vlm3_ros.tasks import depth
from vlm3_ros.vlm import Answer

INTRINSICS = (60.0, 62.0, 31.5, 23.5)
CAMERA = Camera(64, 48, *INTRINSICS)


def opened(path: Path, settings: CameraConfig | None = None, **choices: object) -> Source:
    return open_source(path, Choices(**choices), settings or CameraConfig())  # type: ignore[arg-type]


def write_image(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((48, 64, 3), level, np.uint8))


def write_depth(path: Path, value: int) -> None:
    """One value all over, and nothing in the first row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((48, 64), value, np.uint16)
    values[0] = 0
    assert cv2.imwrite(str(path), values)


def assert_depth(source: Source, index: int, metres: float) -> None:
    depth = source.truth(index).depth
    assert np.isnan(depth[0]).all()
    np.testing.assert_allclose(depth[1:], metres, rtol=1e-6)


# ------------------------------------------------------------------------------------------------------- KITTI


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    drive = tmp_path / "2011_09_26" / "2011_09_26_drive_0001_sync"
    for i in range(3):
        write_image(drive / "image_02" / "data" / f"{i:010d}.png", i)
    write_depth(drive / "proj_depth" / "groundtruth" / "image_02" / "0000000001.png", 640)
    stamps = [f"2011-09-26 13:02:25.{i}64389445\n" for i in range(3)]
    (drive / "image_02" / "timestamps.txt").write_text("".join(stamps))
    fx, fy, cx, cy = INTRINSICS
    (drive.parent / "calib_cam_to_cam.txt").write_text(
        f"calib_time: 09-Jan-2012 13:57:47\nP_rect_02: {fx} 0 {cx} 44.8 0 {fy} {cy} 0.2 0 0 1 0.003\n"
    )
    return drive


def test_kitti_drive(drive):
    source = opened(drive)
    assert list(source.stamps) == [1317042145_064389445 + i * 100_000_000 for i in range(3)]
    assert [source.frame(i).image[0, 0, 0] for i in range(3)] == [0, 1, 2]
    assert source.frame(1).camera == CAMERA
    assert_depth(source, 1, 2.5)
    assert source.truth(0).depth is None


def test_kitti_camera_is_named_where_there_are_two(drive):
    write_image(drive / "image_03" / "data" / "0000000000.png")
    for named in ({}, {"image": "image_07"}):
        with pytest.raises(SourceError, match="--image image_02"):
            opened(drive, **named)
    assert len(opened(drive, image="image_02").stamps) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("image_02/timestamps.txt", None, "does not exist"),
        ("image_02/timestamps.txt", "2011-09-26 13:02:25.1\n", "for every image"),
        ("image_02/timestamps.txt", "yesterday\n" * 3, "for every image"),
        ("image_02/timestamps.txt", "2011-09-26 13:02:25.1\n" * 3, "do not ascend"),
        ("../calib_cam_to_cam.txt", None, "--intrinsics"),
        ("../calib_cam_to_cam.txt", "P_rect_02: 1 2 3", "no matrix"),
        ("../calib_cam_to_cam.txt", "P_rect_00: 1 2 3", "has no P_rect_02"),
    ],
)
def test_incomplete_kitti_drive_is_refused(drive, name, content, message):
    if content is None:
        (drive / name).unlink()
    else:
        (drive / name).write_text(content)
    with pytest.raises(SourceError, match=message):
        opened(drive)


def test_kitti_intrinsics_may_be_given(drive):
    (drive.parent / "calib_cam_to_cam.txt").unlink()
    assert opened(drive, intrinsics=INTRINSICS).frame(0).camera == CAMERA


# --------------------------------------------------------------------------------------------- images beside depth


@pytest.mark.parametrize(
    ("folder", "images", "depths"),
    [
        ("rgb", ["lab_01.png", "office_01.png"], ["lab_01.png", "office_01.png"]),
        ("image", ["rgb_00009.jpg", "rgb_00010.jpg"], ["sync_depth_00009.png", "sync_depth_00010.png"]),
        ("color", ["9.png", "10.png"], ["9.png", "10.png"]),
    ],
)
def test_paired_folders(tmp_path, folder, images, depths):
    for i, (image, map_) in enumerate(zip(images, depths, strict=True)):
        write_image(tmp_path / folder / image, 100 * i)
        write_depth(tmp_path / "depth" / map_, 1000 * (i + 1))
    source = opened(tmp_path, intrinsics=INTRINSICS, depth_scale=1000.0)
    assert list(source.stamps) == [10**9, 2 * 10**9]
    assert [int(source.frame(i).image[0, 0, 0]) for i in range(2)] == [0, 100]
    assert source.frame(0).camera == CAMERA
    assert_depth(source, 0, 1.0)
    assert_depth(source, 1, 2.0)


def test_what_paired_folders_do_not_say_is_asked_for(tmp_path):
    write_image(tmp_path / "rgb" / "1.png")
    write_depth(tmp_path / "depth" / "1.png", 1000)
    with pytest.raises(SourceError, match="--intrinsics"):
        opened(tmp_path)
    source = opened(tmp_path, CameraConfig(hfov_deg=60.0))
    assert source.frame(0).camera.fx == pytest.approx(32 / np.tan(np.radians(30)))
    with pytest.raises(SourceError, match="--depth-scale"):
        source.truth(0)
    write_image(tmp_path / "images" / "1.png")
    with pytest.raises(SourceError, match="--image rgb"):
        opened(tmp_path, intrinsics=INTRINSICS)
    assert len(opened(tmp_path, intrinsics=INTRINSICS, image="images").stamps) == 1


@pytest.mark.parametrize(
    ("images", "depths", "message"),
    [
        (["a.png"], ["b.png"], "neither by its name nor by a number"),
        (["a_1.png", "b_1.png"], ["d_1.png"], "same number"),
        (["1.tif"], ["1.png"], "holds no image"),
    ],
)
def test_folders_that_cannot_be_paired_are_refused(tmp_path, images, depths, message):
    for folder, names in (("rgb", images), ("depth", depths)):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).touch()
    with pytest.raises(SourceError, match=message):
        opened(tmp_path, intrinsics=INTRINSICS)


def test_two_images_of_one_name_are_one(tmp_path, caplog):
    for level, name in enumerate(("0.jpg", "0.png")):
        write_image(tmp_path / "rgb" / name, 100 * level)
    write_depth(tmp_path / "depth" / "0.png", 1000)
    source = opened(tmp_path, intrinsics=INTRINSICS)
    assert (len(source.stamps), source.frame(0).image[0, 0, 0]) == (1, 0)
    assert "0.png is left out" in caplog.text


def test_image_without_depth_has_none(tmp_path):
    for i in range(2):
        write_image(tmp_path / "rgb" / f"{i}.png")
    write_depth(tmp_path / "depth" / "0.png", 1000)
    source = opened(tmp_path, intrinsics=INTRINSICS, depth_scale=1000.0)
    assert source.truth(1).depth is None


# ------------------------------------------------------------------------------------------- manifests, and TUM


def manifest(folder: Path, boxes: list[dict] | None = None, **changed: object) -> Path:
    write_image(folder / "rgb.png")
    write_depth(folder / "depth.png", 1000)
    T = np.eye(4)
    T[:3, 3] = 1.0, 2.0, 3.0
    entry = {"rgb": "rgb.png", "K": INTRINSICS, "depth": "depth.png", "depth_scale": 1000, "T_world_cam": T.tolist()}
    (folder / "manifest.json").write_text(json.dumps({"frames": [entry | changed], "boxes": boxes or []}))
    return folder


@pytest.mark.parametrize("scale", [True, 0, -1.0, math.inf, math.nan, "1000"])
def test_manifest_depth_of_no_scale_is_unknown(tmp_path, scale):
    found = opened(manifest(tmp_path, depth_scale=scale)).truth(0)
    assert "depth_scale must be a number above 0" in found.unknown["depth"]
    assert found.T_world_camera is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda T: T.T, "transposed"),
        (lambda T: T * np.array([[2.0], [2.0], [2.0], [1.0]]), "no rotation"),
        (lambda T: np.diag([1.0, 1.0, -1.0, 1.0]) @ T, "no rotation"),
        (lambda T: T + 0.1 * np.eye(4, k=1) * np.array([0, 1, 0, 0]), "no rotation"),
        (lambda T: T + 0.001, ""),
    ],
)
def test_manifest_pose_must_be_rigid(tmp_path, change, said):
    T = np.eye(4)
    T[:3, 3] = 1.0, 2.0, 3.0
    found = opened(manifest(tmp_path, T_world_cam=change(T).tolist())).truth(0)
    assert said in found.unknown.get("pose", "")
    assert (found.T_world_camera is None) == bool(said)


def test_manifest_box_without_a_label_is_left_out(tmp_path, caplog):
    box = {"center_m": [0, 0, 5], "size_m": [1, 1, 1], "yaw_rad": 0.0}
    boxes = [box | {"label": label} for label in (None, "", "chair")]
    assert [box.label for box in opened(manifest(tmp_path, boxes)).truth(0).boxes] == ["chair"]
    assert "2 boxes are left out, the first because: ValueError: its label is empty" in caplog.text


def test_second_image_of_a_stamp_is_refused(tmp_path):
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.png", ord(name))
    (tmp_path / "rgb.txt").write_text("1.0 b.png\n1.0 a.png\n")
    source = opened(tmp_path, intrinsics=INTRINSICS)
    assert source.frame(0).image[0, 0, 0] == ord("b")
    with pytest.raises(FrameError, match="stamp of the image before"):
        source.frame(1)
    (tmp_path / "manifest.json").write_text(
        json.dumps({"frames": [{"rgb": f"{name}.png", "K": INTRINSICS, "stamp": 1.0} for name in "ab"]})
    )
    with pytest.raises(FrameError, match="stamp of the image before"):
        opened(tmp_path).frame(1)


@pytest.mark.parametrize(
    "words",
    [
        *(("--depth-scale", text) for text in ("0", "-1", "inf", "nan", "x")),
        *(("--max-pose-gap", text) for text in ("0", "-1", "inf", "nan")),
        *(("--intrinsics", *numbers.split()) for numbers in ("0 1 1 1", "1 -1 1 1", "1 1 nan 1", "1 1 1 inf")),
    ],
)
def test_numbers_that_mean_nothing_are_no_options(tmp_path, capsys, words):
    with pytest.raises(SystemExit) as stopped:
        vlm3("evaluate", tmp_path, *words)
    assert stopped.value.code == 2
    assert f"argument {words[0]}" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------- labelled pixels


def jsonl(path: Path, entries: list[dict]) -> Path:
    path.write_text("\n\n".join(map(json.dumps, entries)))
    return path


def labelled(i: int, **changed: object) -> dict:
    """An image in the form of DepthLM's iBims-1 file: two pixels, the second one at the left edge."""
    entry = {"image": f"rgb/{i}.png", "intrinsics": [*INTRINSICS, 64, 48], "pixel_coords": [[40, 20], [0, 24]]}
    return entry | {"depth": [2.0 + i, 3.0 + i]} | changed


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    for i in range(3):
        write_image(tmp_path / "rgb" / f"{i}.png", i)
    return jsonl(tmp_path / "val.jsonl", [labelled(i) for i in range(3)])


@pytest.mark.parametrize("lengths", ["z", "ray"])
def test_labelled_pixels(labels, lengths):
    source = opened(labels, lengths=lengths)
    assert list(source.stamps) == [10**9, 2 * 10**9, 3 * 10**9]
    assert [source.frame(i).image[0, 0, 0] for i in (2, 0)] == [2, 0]
    assert source.frame(1).camera == CAMERA
    depth = source.truth(1).depth
    assert np.isfinite(depth).sum() == 2
    near, edge = (
        (1.0, 1.0) if lengths == "z" else (math.hypot(1, 8.5 / 60, 3.5 / 62), math.hypot(1, 31.5 / 60, 0.5 / 62))
    )
    assert depth[20, 40] == pytest.approx(3.0 / near)
    assert depth[24, 0] == pytest.approx(4.0 / edge)


def test_what_lengths_are_is_asked_for_only_where_it_matters(labels):
    source = opened(labels)
    source.frame(0)
    with pytest.raises(SourceError, match="--lengths"):
        source.truth(0)


def test_vlm3_sample_of_one_image(tmp_path):
    write_image(tmp_path / "depth.png", 5)
    label = {
        "image": "depth.png",
        "image_size": {"width": 64, "height": 48},
        "intrinsics_after_focal_normalization_to_1000": {"fx": 1000.0, "fy": 1000.0, "cx": 31.5, "cy": 23.5},
        "samples": [
            {"pixel_coord_resized": [10, 20], "pixel_coord_normalized_2000": [312, 833], "depth_meters": 8.5}
        ],
    }
    (tmp_path / "depth_labels.json").write_text(json.dumps(label, indent=1))
    source = opened(tmp_path / "depth_labels.json", lengths="z")
    assert len(source.stamps) == 1
    assert source.frame(0).camera == Camera(64, 48, 1000.0, 1000.0, 31.5, 23.5)
    assert source.truth(0).depth[20, 10] == 8.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"depth": [1.0]}, "one depth for each pixel"),
        ({"depth": [math.inf, -1.0]}, "2 are .*without a depth above 0"),
        ({"pixel_coords": [[64, 0], [-1, 0]]}, "outside of the image"),
        ({"pixel_coords": [], "depth": []}, "labels no pixel"),
        ({"intrinsics": [1.0, 2.0]}, "label 2 of .*val.jsonl cannot be read"),
        ({"image": "rgb/9.png"}, "rgb/9.png cannot be read: No such file"),
        ({"intrinsics": [*INTRINSICS, 640, 480]}, "64x48"),
        ({"intrinsics": [0.0, 0.0, 1.0, 1.0, 64, 48]}, "not calibrated"),
    ],
)
def test_one_bad_label_takes_no_other_along(labels, changed, message):
    source = opened(jsonl(labels, [labelled(0), labelled(1, **changed), labelled(2)]), lengths="z")
    with pytest.raises(FrameError, match=message):
        source.frame(1)
    assert source.frame(2).image[0, 0, 0] == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("[1]", "no JSON object"),
        ('{"image": "a.png"', "is no label"),
        ('{"image": "a.png", "mask": 1}', "keys image, mask are none"),
        ('{"image": "a.png", "prompt": "", "answer": "", "qa_info": {}}', "vlm3 benchmark"),
    ],
)
def test_what_is_no_label_file_is_refused(tmp_path, content, message):
    (tmp_path / "labels.jsonl").write_text(content)
    with pytest.raises(SourceError, match=message):
        opened(tmp_path / "labels.jsonl")


@pytest.mark.parametrize(
    "changed",
    [
        *({"depth": [2.0, value]} for value in (-1.0, 1e300, math.inf, math.nan, None, "far", [1, 2])),
        *({"pixel_coords": [[40, 20], pixel]} for pixel in ([64, 0], [math.nan, 0], [1], None, "here")),
    ],
)
def test_one_bad_pixel_costs_itself(labels, caplog, changed):
    depth = opened(jsonl(labels, [labelled(0, **changed)]), lengths="z").truth(0).depth
    assert (np.isfinite(depth).sum(), depth[20, 40]) == (1, 2.0)
    assert "1 of 2 labelled pixels are left out" in caplog.text


@pytest.mark.parametrize("line", ["{", "[]", '{"mask": 1}'])
def test_broken_first_line_of_labels_costs_itself(labels, line):
    renamed = labels.with_name("val.JSONL")
    renamed.write_text(line + "\n" + labels.read_text())
    source = opened(renamed, lengths="z")
    assert len(source.stamps) == 4
    with pytest.raises(FrameError, match="label 1 of"):
        source.frame(0)
    assert source.frame(1).image[0, 0, 0] == 0


def test_folder_of_labels_names_them(labels):
    with pytest.raises(SourceError, match=r"its labels can be read: .*val.jsonl"):
        opened(labels.parent)


# ------------------------------------------------------------------------------------------- through the commands


def test_labelled_pixels_are_perceived_and_evaluated(labels, tmp_path):
    words = ["--model", "test:test_offline_datasets:two_metres", "--set", "node.tasks=[depth]"]
    assert vlm3("run", labels, "--out", tmp_path / "out", "--lengths", "z", *words, "--set", "depth.answer=z") == 0
    assert vlm3("evaluate", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    # Two metres everywhere, of labels 2 and 3, 3 and 4, 4 and 5: one of six is right.
    assert (found["depth"]["frames"], found["depth"]["pixels"]) == (3, 6)
    assert found["depth"]["delta1"] == pytest.approx(1 / 6)
    assert found["depth"]["abs_rel"] == pytest.approx(np.mean([0, 1 / 3, 1 / 3, 1 / 2, 1 / 2, 3 / 5]), abs=0.01)


def two_metres() -> Scripted:
    """Sees two metres everywhere, through the focal length of CAMERA."""
    seen = unified(CAMERA, depth.FOCAL, CameraConfig().max_tokens)
    return Scripted(lambda question: Answer(depth.answer(2.0 / metric_scale(seen, depth.FOCAL)), 1.0))

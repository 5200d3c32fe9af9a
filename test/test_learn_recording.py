"""Recordings as training scenes: what is good enough in them, what goes together, and what is left out and why."""

from __future__ import annotations

import json
import math
import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from learning import CAMERA, change, recording, tour, write_depth, write_recording
from scipy.spatial.transform import Rotation

from vlm3_ros.config import CameraConfig
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.learn.data import regions, survey
from vlm3_ros.learn.data.groups import NO_OVERLAP, Several
from vlm3_ros.learn.data.recording import Recording, without_edges
from vlm3_ros.learn.data.survey import Rules, blurred
from vlm3_ros.learn.data.views import relative_pose
from vlm3_ros.offline.opening import open_source
from vlm3_ros.offline.sources import Choices
from vlm3_ros.sim import covisibility

BAD = 7  # the frame that something is wrong with


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_recording(tmp_path / "walk", tour())


def frames(made: Recording) -> list[int]:
    """The frames in groups by their number."""
    stamps = [known.frame.stamp for i in range(len(made)) for known in made.group(i).frames]
    return [round(stamp / 5e8) - 200 for stamp in stamps]


def reasons(made: Recording) -> Counter[str]:
    """Of frames that are left out; pairs that share too little are no fault of anything."""
    return Counter({reason: n for reason, n in made.left_out.items() if reason not in (NO_OVERLAP, survey.FAR)})


# ---------------------------------------------------------------------------------------------------- what goes wrong


def blur(folder: Path) -> None:
    image = cv2.imread(str(folder / f"rgb/{BAD}.png"))
    cv2.imwrite(str(folder / f"rgb/{BAD}.png"), cv2.GaussianBlur(image, (0, 0), 3.0))


def cover_lens(folder: Path) -> None:
    cv2.imwrite(str(folder / f"rgb/{BAD}.png"), np.zeros((120, 160, 3), np.uint8))


def cut_file(folder: Path) -> None:
    file = folder / f"rgb/{BAD}.png"
    file.write_bytes(file.read_bytes()[:40])


def lose_depth(folder: Path) -> None:
    depth = tour()[BAD].depth.copy()
    depth[20:] = np.nan
    write_depth(folder, BAD, depth)


def stick(folder: Path) -> None:
    write_depth(folder, BAD, np.full((120, 160), 3.0))


def wrong_unit(folder: Path) -> None:
    change(folder, BAD, depth_scale=10)


def forget_pose_and_depth(folder: Path) -> None:
    change(folder, BAD, depth=None, T_world_cam=None)


def walk_through(folder: Path) -> None:
    """Somebody passes in front of the camera."""
    depth = tour()[BAD].depth.copy()
    depth[:, 30:90] = 0.7
    write_depth(folder, BAD, depth)


def lose_track(folder: Path) -> None:
    T = tour()[BAD].T_world_cam.copy()
    T[:3, 3] += 0.5 * T[:3, 2]
    change(folder, BAD, T_world_cam=T.tolist())


def repeat(folder: Path) -> None:
    """The camera stands still for a frame."""
    before = tour()[BAD - 1]
    cv2.imwrite(str(folder / f"rgb/{BAD}.png"), before.image[..., ::-1])
    write_depth(folder, BAD, before.depth)
    change(folder, BAD, T_world_cam=before.T_world_cam.tolist())


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (blur, survey.BLURRED),
        (cover_lens, survey.BLURRED),
        (cut_file, survey.UNREADABLE),
        (lose_depth, survey.SPARSE),
        (stick, survey.IMPLAUSIBLE),
        (wrong_unit, survey.IMPLAUSIBLE),
        (
            forget_pose_and_depth,
            f"{survey.BARE} (depth: the manifest names no depth; pose: the manifest has no T_world_cam)",
        ),
        (walk_through, survey.DYNAMIC),
        (lose_track, survey.DYNAMIC),
        (repeat, survey.STILL),
    ],
)
def test_a_bad_frame_is_left_out_and_counted_and_no_other(folder, damage: Callable[[Path], None], reason):
    damage(folder)
    made = recording(folder)
    assert reasons(made) == {reason: 1}
    assert sorted(frames(made)) == [i for i in range(16) if i != BAD]


def test_a_good_recording_is_used_whole_each_frame_once(folder):
    made = recording(folder)
    assert reasons(made) == {}
    assert sorted(frames(made)) == list(range(16))


def test_a_frame_with_a_pose_but_without_depth_is_the_partner_of_another(folder):
    change(folder, BAD, depth=None)
    made = recording(folder)
    (group,) = [made.group(i) for i in range(len(made)) if any(k.depth is None for k in made.group(i).frames)]
    (blind,) = [i for i, k in enumerate(group.frames) if k.depth is None]
    assert any(blind in pair for pair in group.pairs)
    for i in range(16):
        if i:
            change(folder, i, depth=None)
    made = recording(folder)
    assert len(made) == 1
    assert made.left_out[survey.ALONE] == 16 - len(made.group(0).frames)


def test_without_poses_there_are_frames_a_second_apart_and_no_pairs(folder):
    for i in range(16):
        change(folder, i, T_world_cam=None)
    made = recording(folder)
    assert frames(made) == list(range(0, 16, 2))
    assert made.left_out == {survey.STILL: 8}
    assert all(not made.group(i).pairs for i in range(len(made)))


# ------------------------------------------------------------------------------------------------------- what is kept


def test_pairs_share_enough_and_are_within_the_range_of_motion(folder):
    rules = Rules(max_move_m=0.6, max_turn_deg=25.0, frames=3)
    made, pairs = recording(folder, rules=rules), 0
    by_stamp = {100_000_000_000 + i * 500_000_000: view for i, view in enumerate(tour())}
    for i in range(len(made)):
        group = made.group(i)
        assert len(group.frames) <= 3
        for a, b in group.pairs:
            T = relative_pose(group.frames[a], group.frames[b])
            assert 0.02 <= np.linalg.norm(T[:3, 3]) <= 0.6
            assert math.degrees(Rotation.from_matrix(T[:3, :3]).magnitude()) <= 25.0
            assert covisibility(*(by_stamp[group.frames[k].frame.stamp] for k in (a, b))) > 0.2  # measured coarsely
            pairs += 1
    assert pairs >= 5


def test_groups_are_the_same_in_any_order_and_in_another_process(folder):
    made, again = recording(folder, seed=1), pickle.loads(pickle.dumps(recording(folder, seed=1)))
    assert len(made) == len(again)
    for i in reversed(range(len(made))):
        one, other = made.group(i), again.group(i)
        assert one.pairs == other.pairs
        for a, b in zip(one.frames, other.frames, strict=True):
            np.testing.assert_array_equal(a.frame.image, b.frame.image)
            np.testing.assert_array_equal(a.depth, b.depth)


def test_another_seed_groups_otherwise(folder):
    def grouped(seed: int) -> list[list[int]]:
        made = recording(folder, seed)
        return [[known.frame.stamp for known in made.group(i).frames] for i in range(len(made))]

    assert grouped(0) == grouped(0) != grouped(1)


@pytest.mark.parametrize("settings", [CameraConfig(hfov_deg=60.0), CameraConfig(input_rectified=True)])
def test_what_decides_the_geometry_of_images_is_in_the_description(folder, settings):
    as_usual, otherwise = (Recording(folder, Choices(), s, Rules()) for s in (CameraConfig(), settings))
    assert as_usual.description != otherwise.description


def test_several_sources_are_one_after_the_other(folder, tmp_path):
    other = write_recording(tmp_path / "other", tour()[:5])
    sources = [recording(folder), recording(other, scene="hall")]
    both = Several(sources)
    assert len(both) == len(sources[0]) + len(sources[1])
    assert both.left_out == sources[0].left_out + sources[1].left_out
    assert [both.group(i).scene for i in range(len(both))] == ["walk"] * len(sources[0]) + ["hall"] * len(sources[1])
    assert json.loads(json.dumps(both.description)) == both.description


def test_a_bag_gives_what_its_folder_gives(data):
    made = [recording(data / name) for name in ("tum_fr3_cabinet", "bags_made/tum_fr3_cabinet")]
    assert made[0].left_out == made[1].left_out
    assert len(made[0]) == len(made[1])
    for i in range(0, len(made[0]), 5):
        one, other = (m.group(i) for m in made)
        assert one.pairs == other.pairs
        for a, b in zip(one.frames, other.frames, strict=True):
            np.testing.assert_array_equal(a.frame.image, b.frame.image)


def test_depth_beside_edges_and_holes_is_not_known():
    depth = np.full((480, 640), 2.0, np.float32)
    depth[:, 320:] = 3.0
    depth[100, 100] = np.nan
    cleaned = without_edges(depth)
    assert np.isnan(cleaned[:, 318:322]).all()
    assert np.isfinite(cleaned[200:, [317, 322]]).all()
    assert np.isnan(cleaned[98:103, 98:103]).all()
    assert np.isfinite(cleaned).sum() == 480 * 640 - 480 * 4 - 25


# --------------------------------------------------------------------------------------------------------------- blur


@given(st.lists(st.floats(-0.3, 0.3), min_size=6, max_size=40), st.floats(-10, 10))
def test_as_long_as_sharpness_is_about_the_same_nothing_is_blurred(noise, level):
    assert not blurred(np.array(noise) + level).any()


@given(st.floats(-0.2, 0.2), st.integers(6, 60))
def test_a_view_that_slowly_becomes_blank_is_not_blurred(slope, count):
    assert not blurred(slope * np.arange(count)).any()


@given(st.data())
def test_sudden_drops_are_blurred(data):
    count = data.draw(st.integers(8, 50))
    drops = data.draw(st.sets(st.integers(0, count - 1), max_size=count // 8))
    sharpness = np.array([0.1 * (i % 3) - (2.0 if i in drops else 0.0) for i in range(count)])
    assert set(np.flatnonzero(blurred(sharpness))) == drops


def test_of_too_few_frames_nothing_is_said():
    assert not blurred(np.array([5.0, 5.0, -5.0, 5.0, 5.0])).any()


# ------------------------------------------------------------------------------------------------------------ regions

UPRIGHT = np.column_stack([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])
BOX = Box3D("crate", 1.0, np.array([0.0, 0.0, 2.5]), np.array([1.0, 1.0, 0.8]), UPRIGHT)  # its front is at 2 m


def front_of_the_crate() -> np.ndarray:
    """Depth of a wall at 4 m with the crate before it, seen head on: 65 px wide, 52 px high."""
    depth = np.full((120, 160), 4.0, np.float32)
    depth[34:86, 47:113] = 2.0
    return depth


def found(depth: np.ndarray, box: Box3D = BOX) -> tuple[tuple, list[tuple[str, str]]]:
    return regions.regions([box], CAMERA, depth)


def test_region_of_what_is_seen():
    ((region,), left_out) = found(front_of_the_crate())
    assert left_out == []
    assert region.visible == pytest.approx(1.0, abs=0.05)
    x1, y1, x2, y2 = region.corners
    assert (x1, y1, x2) == pytest.approx((47, 34, 113), abs=1)
    assert 83 <= y2 <= 86  # its foot may be the floor


def test_what_stands_in_front_cuts_the_region():
    depth = front_of_the_crate()
    depth[:, 80:] = 1.0
    ((region,), _) = found(depth)
    assert region.corners[2] == 80
    assert region.visible == pytest.approx(0.5, abs=0.05)
    depth[:, 60:] = 1.0
    assert found(depth) == ((), [("crate", regions.FAINT)])
    depth[:, 40:] = 1.0
    assert found(depth) == ((), [])


def test_boxes_about_which_nothing_can_be_said_are_named():
    empty = np.full((120, 160), 4.0, np.float32)
    assert found(empty) == ((), [("crate", regions.GONE)])
    unknown = front_of_the_crate()
    unknown[30:70] = np.nan
    assert found(unknown) == ((), [("crate", regions.UNKNOWN)])


@pytest.mark.parametrize(
    ("center", "size", "reason"),
    [
        ((0.0, 0.0, 0.3), (1.0, 1.0, 1.0), regions.CUT),
        ((1.0, 0.0, -0.1), (1.0, 3.0, 1.0), regions.CUT),  # its middle is behind the camera, its end is in the image
        ((3.0, 0.0, 0.1), (1.0, 1.0, 1.0), None),  # beside the camera
        ((0.0, 0.0, -3.0), (1.0, 1.0, 1.0), None),
        ((0.0, 0.0, 3.9), (0.05, 0.05, 0.05), regions.FAINT),  # too small to be asked about
    ],
)
def test_boxes_of_which_something_may_show_are_named(center, size, reason):
    box = Box3D("crate", 1.0, np.array(center), np.array(size), UPRIGHT)
    assert found(np.full((120, 160), 4.0, np.float32), box) == ((), [("crate", reason)] if reason else [])


def test_regions_are_where_masks_of_a_rendered_room_are(data):
    folder = data / "sim_pybullet_room"
    manifest = json.loads((folder / "manifest.json").read_text())
    source = open_source(folder, Choices(), CameraConfig())
    overlaps = []
    for i in range(0, len(source.stamps), 3):
        truth, camera = source.truth(i), source.frame(i).camera
        ids = cv2.imread(str(folder / manifest["frames"][i]["mask"]), cv2.IMREAD_UNCHANGED)
        for region in regions.regions(truth.boxes, camera, truth.depth)[0]:
            number = [box is region.box for box in truth.boxes].index(True)
            row, column = np.nonzero(ids == manifest["boxes"][number]["instance_id"])
            mask = (column.min(), row.min(), column.max() + 1, row.max() + 1)
            overlaps.append(_iou(region.corners, mask))
    assert len(overlaps) > 30
    assert np.median(overlaps) > 0.9
    assert np.percentile(overlaps, 10) > 0.7


def _iou(a, b) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    common = max(0, w) * max(0, h)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)

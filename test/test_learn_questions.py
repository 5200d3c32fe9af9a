"""Questions and answers of a look: by hand, and as the stand-in that knows the truth answers them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from learning import known, tour, wall
from truth import TrueFrame, TruthVLM, fingerprint

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.compose import Amounts, compose
from vlm3_ros.learn.data.groups import Group
from vlm3_ros.learn.data.sample import Exchange, Known, Region, Sample
from vlm3_ros.learn.data.simulated import MIN_PIXELS
from vlm3_ros.sim import demo_room
from vlm3_ros.tasks import Question, Refusal, depth, pose

VGA = Camera(640, 480, 500.0, 500.0, 319.5, 239.5)  # twice as large it has the unified focal length, and whole tokens
ODD = Camera(612, 470, 431.0, 407.0, 300.0, 240.0)  # rounding to tokens changes its focal length
WIDE = Camera(1280, 720, 400.0, 400.0, 639.5, 359.5)  # bound by max_tokens


def composed(*frames: Known, pairs: bool = True, **amounts: object) -> dict[str, Sample]:
    """The samples of one group by the end of their key."""
    group = Group("place", list(frames), [(0, 1)] if pairs and len(frames) > 1 else [])
    record = compose(group, "key", Amounts(**amounts), np.random.default_rng(0))  # type: ignore[arg-type]
    return {sample.key.removeprefix("key-"): sample for sample in record.samples}


def of(sample: Sample, task: str) -> list[Exchange]:
    return [exchange for exchange in sample.exchanges if exchange.task == task]


def asked_at(sample: Sample, size: tuple[int, int]) -> np.ndarray:
    """The pixels [N, 2] of an image of ``size`` that a sample's depth questions ask for."""
    seen = np.array(sample.pictures[0].size)
    pixels = np.array([reading.pixel(e) for e in of(sample, "depth")]) / depth.BINS * seen
    return (pixels + 0.5) * np.divide(size, seen) - 0.5


# ---------------------------------------------------------------------------------------------------------- by hand


@pytest.mark.parametrize("ray", [True, False])
def test_length_of_a_ray_to_a_wall(ray):
    (sample,) = composed(wall(2.0, VGA), ray=ray, depth=400).values()
    assert sample.pictures[0].size == (1280, 960)
    assert len(sample.exchanges) == 400
    for exchange in sample.exchanges:
        x, y = reading.pixel(exchange)
        u, v = x / 2000 * 1280, y / 2000 * 960  # of the seen image, whose centre is (639.5, 479.5)
        length = 2.0 * np.sqrt(1 + ((u - 639.5) / 1000) ** 2 + ((v - 479.5) / 1000) ** 2) if ray else 2.0
        assert exchange.answer.endswith(f"<answer> {length:.2f} </answer>"), (x, y)


def test_motion_by_hand():
    T = np.eye(4)
    T[:3, 3] = (0.3, 0.0, 0.4)
    (sample,) = [s for key, s in composed(wall(2.0, VGA, np.eye(4)), wall(1.6, VGA, T)).items() if key == "0-1-pose"]
    assert sample.pictures[1].size == (960, 704 + 32 * (720 - 704 > 16))  # 960 x 720 to whole tokens
    scale = np.sqrt(750.0 * 500.0 * sample.pictures[1].size[1] / 480) / 750.0
    assert [e.answer for e in sample.exchanges] == [
        "Rotation angle: 0.0 degrees",
        "Yaw=+0.0°, Pitch=+0.0°, Roll=+0.0°",
        "The camera moves right, forward, unit vector (+0.60, +0.00, +0.80).",
        f"Translation distance: {0.5 / scale:.2f} meters",
    ]


def test_match_by_hand():
    """A wall at 2 m, seen again from 20 cm to the right: 50 px to the left of 640, that is 78 thousandths."""
    T = np.eye(4)
    T[0, 3] = 0.2
    samples = composed(wall(2.0, VGA, np.eye(4)), wall(2.0, VGA, T))
    forth, back = samples["0-1-matching"], samples["1-0-matching"]
    assert len(forth.exchanges) == len(back.exchanges) == 64
    for sample, way in ((forth, -78.125), (back, 78.125)):
        for exchange in sample.exchanges:
            (x1, y1), (x2, y2) = reading.pixel(exchange), reading.match(exchange)
            assert y2 == y1
            assert x2 == pytest.approx(x1 + way, abs=0.51)


def test_grounding_asks_for_each_name_and_answers_from_left_to_right():
    box = Box3D("chair", 1.0, np.array([0.0, 0.0, 2.0]), np.ones(3), np.eye(3))
    corners = {"chair": [(320.0, 0.0, 480.0, 240.0), (0.0, 48.0, 64.0, 96.0)], "lamp": [(600.0, 10.0, 640.0, 48.0)]}
    regions = tuple(Region(name, c, 1.0, box) for name, all_of in corners.items() for c in all_of)
    seen = replace(wall(2.0, VGA), regions=regions)
    (sample,) = composed(seen, labels=("chair", "sofa")).values()
    chairs, sofas = of(sample, "grounding")
    assert (reading.label(chairs), reading.label(sofas)) == ("chair", "sofa")
    assert chairs.answer == (
        '[{"bbox_2d": [0, 100, 100, 200], "label": "chair"}, {"bbox_2d": [500, 0, 750, 500], "label": "chair"}]'
    )
    assert sofas.answer == "[]"
    for unclear, asked in ((frozenset({"sofa"}), [chairs]), (None, [])):  # there may be a sofa; or anything
        (sample,) = composed(replace(seen, unclear=unclear), labels=("chair", "sofa")).values()
        assert of(sample, "grounding") == asked


def test_simulated_names_are_asked_but_for_those_of_which_too_little_shows():
    things, faint = demo_room().things, 0
    for view in tour():
        pixels = np.bincount(view.thing[view.thing >= 0], minlength=len(things))
        too_little = {thing.label for thing, count in zip(things, pixels, strict=True) if 0 < count < MIN_PIXELS}
        absent = {t.label for t in things} - {t.label for t, count in zip(things, pixels, strict=True) if count}
        (sample,) = composed(known(view), labels=tuple(sorted(too_little | absent))).values()
        asked = {reading.label(e): e.answer for e in of(sample, "grounding")}
        assert not asked.keys() & too_little
        assert asked == dict.fromkeys(absent, "[]")
        faint += len(too_little)
    assert faint


# ------------------------------------------------------------------------------- against the stand-in with the truth


def truth_of(*frames: Known) -> TruthVLM:
    """A model that knows these frames."""
    known_frames = {
        fingerprint(k.frame.image): TrueFrame(k.camera, k.depth, k.T_world_camera, [r.box for r in k.regions])
        for k in frames
    }
    return TruthVLM(lambda image: known_frames[fingerprint(image)])


def answered(truth: TruthVLM, sample: Sample, task: str) -> list[tuple[Exchange, str]]:
    exchanges = of(sample, task)
    with truth.look(sample.pictures) as view:
        texts = [a.text for a in view.ask([Question(e.question, depth.GRAMMAR, depth.MAX_TOKENS) for e in exchanges])]
    return list(zip(exchanges, texts, strict=True))


@pytest.mark.parametrize("camera", [VGA, ODD, WIDE], ids=["vga", "odd", "wide"])
def test_walls_are_answered_word_for_word(camera):
    T = np.eye(4)
    T[:3, 3] = (0.11, -0.07, 0.3)
    a, b = wall(2.5, camera, np.eye(4)), wall(2.2, camera, T)
    b.frame.image[:] = 9
    truth, samples = truth_of(a, b), composed(a, b)
    assert len(samples) == 6
    for sample in samples.values():
        for task in ("depth", "pose"):
            for exchange, text in answered(truth, sample, task):
                assert exchange.answer == text
        for exchange, text in answered(truth, sample, "matching"):
            there = np.array([int(n) for n in re.findall(r"\d+", text)])
            assert np.abs(np.subtract(reading.match(exchange), there)).max() <= 1  # a half is rounded either way


@pytest.mark.parametrize(("i", "j"), [(0, 1), (8, 10)])
def test_a_room_is_answered_as_the_truth_has_it(i, j):
    a, b = known(tour()[i]), known(tour()[j])
    truth, samples = truth_of(a, b), composed(a, b, depth=300)
    errors = []
    for sample in samples.values():
        for exchange, text in answered(truth, sample, "depth"):
            errors.append(abs(reading.metres(exchange) / depth.parse(text) - 1.0))
        for exchange, text in answered(truth, sample, "pose"):
            assert exchange.answer == text
        for exchange, text in answered(truth, sample, "matching"):
            if "(" in text:
                there = [int(n) for n in re.findall(r"\d+", text)]
                # The stand-in takes the depth of the nearest pixel: half a pixel, 3 thousandths, and its parallax.
                assert np.abs(np.subtract(reading.match(exchange), there)).max() <= 4
    assert len(errors) == 600
    assert np.median(errors) < 0.005
    assert max(errors) < 0.1  # within a pixel of each other


# ------------------------------------------------------------------------------------------------- what is not asked


def test_pixels_beside_edges_and_holes_are_not_asked():
    view = wall(2.0)
    view.depth[:, 80:] = 3.0
    view.depth[50:60, 20:30] = np.nan
    (sample,) = composed(view, depth=2000).values()
    pixels = asked_at(sample, view.camera.size)
    assert len(pixels) > 1000
    assert not ((pixels[:, 0] > 79) & (pixels[:, 0] < 80)).any()
    assert not ((pixels > (19, 49)) & (pixels < (30, 60))).all(axis=1).any()


def test_pixels_are_asked_while_there_are_any():
    view = wall(2.0)
    columns = view.camera.width
    view.depth[:, columns // 4 :] = np.nan  # with less depth an image is left out
    (sample,) = composed(view, depth=300).values()
    assert len(sample.exchanges) == 300
    view.depth[:, columns // 64 :] = np.nan
    (sample,) = composed(view, depth=300).values()
    assert 0 < len(sample.exchanges) < 100
    view.depth[:] = np.nan
    assert composed(view) == {}


def test_only_what_both_see_is_matched():
    T = np.eye(4)
    T[0, 3] = 0.5
    samples = composed(wall(2.0, VGA, np.eye(4)), wall(2.0, VGA, T), matching=500)
    asked = np.array([reading.pixel(e) for e in samples["0-1-matching"].exchanges])
    assert asked[:, 0].min() >= 195  # 125 px of 640 are left behind
    assert len(asked) == 500


def test_frames_without_depth_or_pose_are_asked_what_is_known():
    bare = replace(wall(2.0, VGA), depth=None)
    assert composed(bare) == {}
    T = np.eye(4)
    T[2, 3] = 0.2
    samples = composed(wall(2.0, VGA, np.eye(4)), replace(wall(1.8, VGA, T), depth=None))
    assert samples.keys() == {"0", "0-1-matching", "0-1-pose", "1-0-pose"}


@given(st.integers(0, 10_000), st.sampled_from([1.0, 0.5, 0.25]), st.booleans())
def test_everything_can_be_read(seed, image_scale, ray):
    a, b = known(tour()[4]), known(tour()[5])
    group = Group("place", [a, b], [(0, 1)])
    amounts = Amounts(20, 10, 10, ("chair", "table", "sofa"), image_scale, 1600, ray)
    record = compose(group, "key", amounts, np.random.default_rng(seed))
    assert len({sample.key for sample in record.samples}) == len(record.samples) == 6
    for sample in record.samples:
        assert all(side % 32 == 0 for picture in sample.pictures for side in picture.size)
        for e in sample.exchanges:
            if e.task == "depth":
                assert 0.0 < reading.metres(e) < 20.0
            elif e.task == "matching":
                assert all(0 <= n < 1000 for n in (*reading.pixel(e), *reading.match(e)))
            elif e.task == "objects":
                assert reading.object_answer(e) is not None
            elif e.task == "grounding":
                assert {box.label for box in reading.boxes(e)} <= {reading.label(e)}
        motion = [e.answer for e in of(sample, "pose")]
        assert not motion or not isinstance(pose.parse(motion), Refusal)


def test_pictures_are_shared_by_the_samples_of_a_group():
    group = Group("place", [known(tour()[0]), known(tour()[1])], [(0, 1)])
    record = compose(group, "key", Amounts(), np.random.default_rng(0))
    assert len(record.images) == 2
    assert {id(p.pixels) for s in record.samples for p in s.pictures} == {id(image) for image in record.images}


def test_nothing_is_matched_to_where_rectification_left_the_image_black():
    T = np.eye(4)
    T[0, 3] = 0.2
    a, b = wall(2.0, VGA, np.eye(4)), replace(wall(2.0, VGA, T), depth=None)
    black = np.ones((480, 640), bool)
    black[:, :320] = False
    samples = composed(a, replace(b, frame=replace(b.frame, valid=black)), matching=200)
    there = np.array([reading.match(e) for e in samples["0-1-matching"].exchanges])
    assert len(there) == 200
    assert there[:, 0].min() >= 499

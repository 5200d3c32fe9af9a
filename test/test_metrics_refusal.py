"""Refusing never helps: on half of the frames it scores no better than wrong answers, in any number of any group."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from moments import SETTINGS, moment, pose
from scipy.spatial.transform import Rotation

from vlm3_ros.camera import Camera
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.metrics.matches import asked_pixels, true_pixels
from vlm3_ros.offline.evaluate import GROUPS, Evaluation, meaning, measure
from vlm3_ros.offline.sources import Truth

FRAMES, SECOND = 8, 10**9
CAMERA = Camera(64, 48, 55.0, 55.0, 31.5, 23.5)
TIMES = {"frames.seconds", "frames.seconds_median", "frames.seconds_p95", "frames.live_dropped"}
TIMES |= {"frames.live_age_s_median", "frames.live_age_s_p95"}
WAYS = ("refused", "lost", "cut off")


@cache
def truths() -> list[Truth]:
    """A camera that turns and goes along a wall with a post before it, past two boxes."""
    found = []
    u = np.arange(CAMERA.width)
    for i in range(FRAMES):
        wall = np.broadcast_to(3.0 / (1.0 + 0.004 * (u - 31.5)), (48, 64)).astype(np.float32).copy()
        wall[:, 20 + i : 28 + i] = 1.5
        T = pose(x=0.15 * i, z=0.05 * i, turn_deg=2.0 * i)
        boxes = [
            Box3D("box", 1.0, np.array([x - 0.05 * i, 0.1, 4.0]), np.array([0.6, 0.5, 0.4]), np.eye(3))
            for x in (-0.6, 0.9)
        ]
        found.append(Truth(wall, T, boxes))
    return found


def matches(i: int, shift: np.ndarray | None) -> Any:
    """The message of frame i about the one before, off by ``shift`` [2]; None: it answers nothing."""
    asked = asked_pixels(CAMERA, SETTINGS["matches.points"], None)
    there = true_pixels(asked, truths()[i - 1], truths()[i], CAMERA)
    known = np.isfinite(there).all(axis=1) & (shift is not None)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=i - 1, nanosec=0))
    (u1, v1), (u2, v2) = asked[known].T, (there[known] + (0.0 if shift is None else shift)).T
    return SimpleNamespace(header1=header, u1=u1, v1=v1, u2=u2, v2=v2)


def right(i: int) -> dict[str, Any]:
    truth = truths()[i]
    return {
        "depth": truth.depth.copy(),
        "confidence": np.full(truth.depth.shape, 0.9, np.float32),
        "boxes": [replace(box, score=0.8) for box in truth.boxes],
        "matches": matches(i, np.zeros(2)) if i else None,
        "row": {"asked": "100", "refused": "0"},
    }


def wrong(i: int, rng: np.random.Generator) -> dict[str, Any]:
    """As a model errs: something of the right kind that is not so."""
    truth = truths()[i]
    factor = float(rng.choice([rng.uniform(0.2, 0.75), rng.uniform(1.3, 6.0)]))
    noise = np.exp(rng.normal(0.0, 0.3, truth.depth.shape))
    moved = [b.center + rng.choice([-1, 1], 3) * rng.uniform(0.2, 1.5, 3) for b in truth.boxes]
    return right(i) | {
        "depth": (truth.depth * factor * noise).astype(np.float32),
        "confidence": rng.uniform(0.0, 1.0, truth.depth.shape).astype(np.float32),
        "boxes": [
            replace(b, center=c, score=float(rng.uniform(0.1, 1.0))) for b, c in zip(truth.boxes, moved, strict=True)
        ],
        "matches": matches(i, rng.choice([-1, 1], 2) * rng.uniform(2.0, 30.0, 2)) if i else None,
    }


def refused(i: int, way: str) -> dict[str, Any]:
    """Garbage on all of it: nothing comes of it, or what comes has no value."""
    garbage: dict[str, Any] = {"row": {"asked": "100", "refused": "100"}}
    if way == "lost":
        return {"error": "RuntimeError: it broke"}
    if way == "cut off":
        empty = np.full((48, 64), np.nan, np.float32)
        garbage |= {"depth": empty, "confidence": np.zeros_like(empty), "matches": matches(i, None) if i else None}
    return garbage


def evaluated(bad: set[int], kind: str, seed: int = 0) -> Evaluation:
    """A run that is right but for the ``bad`` frames, which are "wrong", "right" or refused in one of WAYS."""
    rng = np.random.default_rng(seed)
    moments, path, before = [], np.eye(4), truths()[0].T_world_camera
    for i, truth in enumerate(truths()):
        is_bad = i in bad
        given = wrong(i, rng) if is_bad and kind == "wrong" else right(i)
        path, before = path @ np.linalg.inv(before) @ truth.T_world_camera, truth.T_world_camera
        if is_bad and kind == "wrong":  # a step in another direction, of another length; the path goes on from there
            path[:3, :3] = path[:3, :3] @ Rotation.from_rotvec(rng.normal(0.0, 0.25, 3)).as_matrix()
            path[:3, 3] += rng.normal(0.0, 0.15, 3)
        given |= {"pose": path.copy()}
        if is_bad and kind in WAYS:
            given = refused(i, kind)
        seen = {"camera": CAMERA, "truth": truth, "true_depth": truth.depth, "seconds": {"depth": 1.0}}
        moments.append(moment(i * SECOND, **{**seen, **given}))
    return measure(moments)


def directed(metrics: dict[str, float]) -> dict[str, float]:
    """The numbers that have a direction, the more the better; NaN where there is none."""
    signs = {"more": 1.0, "less": -1.0}
    return {
        name: signs[meaning(name).better] * value
        for name, value in metrics.items()
        if isinstance(value, (int, float)) and meaning(name).better and name not in TIMES
    }


def whole(run: Evaluation) -> dict[str, float]:
    return directed({f"{g}.{name}": value for g, values in run.metrics.items() for name, value in values.items()})


def assert_no_better(a: dict[str, float], b: dict[str, float]) -> None:
    assert a.keys() >= b.keys()
    better = {name: (a[name], value) for name, value in b.items() if not a[name] <= value + 1e-9}  # nor NaN
    assert not better


SHORT = (Phase.explicit, Phase.generate)  # a case is as small as any other
HALF = st.sets(st.integers(1, FRAMES - 1), min_size=FRAMES // 2, max_size=FRAMES // 2)


@pytest.mark.parametrize("way", WAYS)
@given(bad=HALF, seed=st.integers(0, 10**6))
@settings(max_examples=4, phases=SHORT)
def test_refusing_half_of_the_frames_is_no_better_than_wrong_answers(way, bad, seed):
    refusing, wrongly = evaluated(bad, way), evaluated(bad, "wrong", seed)
    assert refusing.metrics.keys() == wrongly.metrics.keys() == GROUPS.keys()
    assert_no_better(whole(refusing), whole(wrongly))
    for i in bad:
        assert_no_better(directed(refusing.frames[i * SECOND]), directed(wrongly.frames[i * SECOND]))


@pytest.mark.parametrize("way", WAYS)
@given(bad=HALF)
@settings(max_examples=2, phases=SHORT)
def test_refusing_half_of_the_frames_is_worse_than_right_answers(way, bad):
    refusing, rightly = whole(evaluated(bad, way)), whole(evaluated(bad, "right"))
    assert_no_better(refusing, rightly)
    groups = {name.partition(".")[0] for name in rightly if refusing[name] < rightly[name] - 1e-3}
    assert groups == GROUPS.keys()
    assert all(refusing[f"{group}.coverage"] < rightly[f"{group}.coverage"] for group in GROUPS if group != "frames")


@given(bad=st.sets(st.integers(1, FRAMES - 1), min_size=1, max_size=FRAMES - 1), more=st.integers(1, FRAMES - 1))
@settings(max_examples=4, phases=SHORT)
def test_every_further_refusal_costs(bad, more):
    assert_no_better(whole(evaluated(bad | {more}, "refused")), whole(evaluated(bad, "refused")))


def test_what_is_not_wanted_is_not_missed():
    given = {"camera": CAMERA, "truth": truths()[0], "true_depth": truths()[0].depth, "seconds": {}}
    row = {"asked": "1", "refused": "0"}
    unwanted = measure([moment(i, settings={"node.tasks": []}, row=row, **given) for i in range(4)])
    assert unwanted.metrics.keys() == {"frames"}


def test_another_image_of_the_same_stamp_is_not_missed_again():
    first = {"camera": CAMERA, "truth": truths()[0], "true_depth": truths()[0].depth, "seconds": {}, **right(0)}
    again = {**first, "error": "it has the stamp of the image before"}
    found = measure([moment(0, **first), moment(0, **again), moment(SECOND, **first)])
    assert (found.metrics["frames"]["frames"], found.metrics["depth"]["frames"]) == (3, 2)
    assert found.metrics["depth"]["coverage"] == 1.0


def test_no_number_over_answered_ones_alone_has_a_direction():
    for name, group in GROUPS.items():
        for metric, means in group.METRICS.items():
            if metric.endswith(("_answered", "_overlapping")):
                assert not means.better, f"{name}.{metric}"
                assert "alone" in means.says or "between perceived" in means.says


def test_numbers_of_no_answers_at_all_are_finite_and_the_worst_there_are():
    nothing = evaluated(set(range(FRAMES)), "refused")
    assert not nothing.answered
    worst = whole(nothing)
    assert all(map(math.isfinite, worst.values()))
    assert {worst[f"depth.{n}"] for n in ("delta1", "delta2", "delta3")} == {0.0}
    assert (worst["depth.abs_rel"], worst["confidence.ece"], worst["objects.ap15"]) == (-1.0, -1.0, 0.0)
    assert (worst["planes.orientation_deg"], worst["boundaries.accuracy_px"]) == (-90.0, -10.0)
    assert (worst["matches.pck5"], worst["matches.epe"]) == (0.0, -math.hypot(*CAMERA.size))

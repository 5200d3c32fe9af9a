"""`vlm3 compare`: the bootstrap, and runs whose differences are known."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.stats import norm
from test_offline_run import settings, vlm3

from vlm3_ros.offline import bootstrap
from vlm3_ros.offline.bootstrap import interval, resampled_means


def test_two_values_by_hand():
    """Blocks of two of a ring of 0, 1 (N^(1/3) rounded up) are halves each; so is every mean."""
    assert set(resampled_means(np.array([0.0, 1.0]))) == {0.5}


def test_eight_values_by_hand():
    """Of 1 and seven 0, two of the eight blocks of two hold the 1; four are drawn: binomial(4, 1/4) / 8."""
    means = resampled_means(np.array([1.0, 0, 0, 0, 0, 0, 0, 0]))
    values, counts = np.unique(means, return_counts=True)
    np.testing.assert_array_equal(values, np.arange(5) / 8)
    expected = np.array([81, 108, 54, 12, 1]) / 256
    np.testing.assert_allclose(counts / len(means), expected, atol=0.01)
    assert interval(means, 0.95) == (0.0, 0.375)  # 0.4 % are above 3/8, 5.1 % are 3/8 or above


def test_the_same_seed_gives_the_same(rng):
    values = rng.normal(size=50)
    np.testing.assert_array_equal(resampled_means(values), resampled_means(values))
    assert (resampled_means(values) != resampled_means(values, seed=1)).any()


@pytest.mark.parametrize(("alike", "least"), [(0.0, 0.90), (0.6, 0.80)])
def test_interval_holds_the_truth(rng, monkeypatch, alike, least):
    """Of series whose mean is 0, so many intervals must hold it; frames that are ``alike`` their neighbours too."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 1000)
    held = 0
    for _ in range(200):
        noise, values = rng.normal(size=120), np.zeros(120)
        for i in range(120):
            values[i] = alike * values[i - 1] * (i > 0) + noise[i]
        low, high = interval(resampled_means(values), 0.95)
        held += low <= 0.0 <= high
    assert least <= held / 200 <= 0.99


def test_width_is_that_of_the_normal_distribution(rng):
    values = rng.normal(size=1000)
    low, high = interval(resampled_means(values), 0.95)
    assert high - low == pytest.approx(2 * norm.ppf(0.975) / np.sqrt(1000), rel=0.2)


# ------------------------------------------------------------------------------------------------------- runs


def evaluated(folder: Path, abs_rel: dict[int, float | str], source: str = "/data/a", **metrics: Any) -> Path:
    """A run folder as `vlm3 evaluate` leaves it, of frames with one number each, by their second."""
    folder.mkdir()
    name = metrics.pop("name", "depth.abs_rel")
    settings, weights = {"depth.points": metrics.pop("points", 432)}, {"bundled": metrics.pop("weights", "aa")}
    about = {"source": source, "settings": settings, "weights": weights}
    (folder / "run.json").write_text(json.dumps(about))
    images = metrics.pop("images", {})
    (folder / "evaluation.json").write_text(json.dumps({"truth": source, "images": images}))
    numbers = {"depth": {"abs_rel": 0.5}, "trajectory": metrics}
    (folder / "metrics.json").write_text(json.dumps(numbers))
    with (folder / "frame_metrics.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["stamp", name, "depth.coverage"])
        rows.writerows([f"{second}.000000000", value, 1.0] for second, value in abs_rel.items())
    return folder


def test_a_run_is_as_good_as_itself(tmp_path, rng, capsys):
    a = evaluated(tmp_path / "a", dict(enumerate(rng.uniform(0.1, 0.2, 30))), ate_m=0.25)
    assert vlm3("compare", a, a) == 0
    shown = capsys.readouterr().out
    (line,) = (line for line in shown.splitlines() if line.startswith("depth.abs_rel"))
    assert line.endswith("+0  [+0, +0]")
    assert "trajectory.ate_m                               0.25        0.25          +0" in shown
    assert shown.count("depth.abs_rel") == 1  # not among the numbers of whole runs again


@pytest.mark.parametrize(("shift", "status", "verdict"), [(0.01, 1, "worse"), (-0.01, 0, "better")])
def test_constant_shift_is_found(tmp_path, rng, capsys, shift, status, verdict):
    values = rng.uniform(0.1, 0.5, 30)
    a = evaluated(tmp_path / "a", dict(enumerate(values)))
    b = evaluated(tmp_path / "b", dict(enumerate(values + shift)))
    assert vlm3("compare", a, b) == status
    assert f"{shift:+.3g}  [{shift:+.3g}, {shift:+.3g}]" in (shown := capsys.readouterr().out)
    assert shown.splitlines()[4].endswith(verdict)


def test_slower_is_said_but_no_failure(tmp_path, rng, capsys):
    values = rng.uniform(0.1, 0.5, 30)
    a = evaluated(tmp_path / "a", dict(enumerate(values)), name="frames.seconds")
    b = evaluated(tmp_path / "b", dict(enumerate(values + 0.1)), name="frames.seconds")
    assert vlm3("compare", a, b) == 0
    assert capsys.readouterr().out.splitlines()[4].endswith("worse")


def test_noise_alone_is_no_difference(tmp_path, rng, capsys):
    a, b = (evaluated(tmp_path / name, dict(enumerate(rng.uniform(0.1, 0.5, 60)))) for name in "ab")
    assert vlm3("compare", a, b) == 0
    assert "better" not in (shown := capsys.readouterr().out)
    assert "worse" not in shown


def test_what_could_be_chance_among_many_is_not_sure(tmp_path, capsys):
    """Three of eight blocks are below zero, so four of four with 2.0 %: less than 2.5 %, more than 1.25 %."""
    a = evaluated(tmp_path / "a", dict.fromkeys(range(8), 0.2))
    b = evaluated(tmp_path / "b", {i: 0.199 if i < 4 else 0.3 for i in range(8)})
    assert vlm3("compare", a, b) == 0
    assert (shown := capsys.readouterr().out.splitlines())[4].endswith("worse?")
    assert "of 2 numbers" in shown[-1] + shown[-2] + shown[-3]


def colours(level: int, seconds: range) -> dict[str, str]:
    """Sketches of images of one colour each."""
    return {f"{second}.000000000": bytes([level + second] * 36).hex() for second in seconds}


def test_only_common_frames_are_compared_and_differences_are_said(tmp_path, capsys):
    """A recording that was moved, and cut at both ends, is the same where its images are."""
    a = evaluated(
        tmp_path / "a", dict.fromkeys(range(10), 0.2) | {20: 9.0}, images=colours(100, range(10)), ate_m=1.0
    )
    moved = {"source": "/data/b", "images": colours(101, range(2, 14))}
    b = evaluated(tmp_path / "b", dict.fromkeys(range(2, 14), 0.2), **moved, points=48, weights="bb", ate_m=1.0)
    assert vlm3("compare", a, b) == 0
    shown = capsys.readouterr().out
    for text in (
        "the same images, recorded as /data/a and /data/b",
        "other truth: /data/a and /data/b",
        "only A has, not compared: 3",
        "only B has, not compared: 4",
        "depth.points: 432 in A, 48 in B",
        "bundled: other weights in A than in B",
        "depth.abs_rel                         8         0.2         0.2",
    ):
        assert text in shown
    assert "ate_m" not in shown  # of other frames


@pytest.mark.parametrize("level", [104, 140])
@pytest.mark.parametrize("source", ["/data/b", "/data/a"])  # another recording may have come to lie at the same path
def test_other_recordings_are_refused(tmp_path, capsys, source, level):
    a = evaluated(tmp_path / "a", dict.fromkeys(range(10), 0.2), images=colours(100, range(10)))
    b = evaluated(tmp_path / "b", dict.fromkeys(range(10), 0.2), source, images=colours(level, range(10)))
    assert vlm3("compare", a, b) == 2
    said = capsys.readouterr()
    assert "over different recordings" in said.err
    assert said.out == ""


def test_other_settings_of_the_camera_change_images_a_little(tmp_path):
    a = evaluated(tmp_path / "a", dict.fromkeys(range(10), 0.2), images=colours(100, range(10)))
    b = evaluated(tmp_path / "b", dict.fromkeys(range(10), 0.2), images=colours(104, range(10)))
    about = json.loads((b / "run.json").read_text())
    about["settings"]["camera.input_rectified"] = True
    (b / "run.json").write_text(json.dumps(about))
    assert vlm3("compare", a, b) == 0


def test_recordings_that_may_be_others_are_refused(tmp_path, capsys):
    a = evaluated(tmp_path / "a", dict.fromkeys(range(10), 0.2))
    b = evaluated(tmp_path / "b", dict.fromkeys(range(10), 0.2), "/data/b")
    assert vlm3("compare", a, b) == 2
    said = capsys.readouterr().err
    assert "cannot be told whether the two runs are over the same recording" in said
    assert "`vlm3 evaluate` on both again" in said


def recording(folder: Path, level: int) -> Path:
    """Images in a folder, whose stamps have to be made up, with their depth."""
    for name, values in (("rgb", np.uint8), ("depth", np.uint16)):
        (folder / name).mkdir(parents=True)
        for i in range(3):
            picture = np.full((48, 64, 3) if name == "rgb" else (48, 64), 20 * i + level, values)
            cv2.imwrite(str(folder / name / f"{i}.png"), picture)
    return folder


@pytest.mark.parametrize(("case", "status"), [("copied", 0), ("other settings", 0), ("other", 2)])
def test_recordings_are_known_by_their_images(tmp_path, capsys, request, case, status):
    first = recording(tmp_path / "first", 50)
    second = {"copied": tmp_path / "second", "other settings": first, "other": tmp_path / "other"}[case]
    if case == "copied":
        shutil.copytree(first, second)
    elif case == "other":
        recording(second, 120)
    words = ["--intrinsics", "60", "60", "31.5", "23.5", "--depth-scale", "50"]
    for source, out, points in ((first, "a", 48), (second, "b", 24)):
        more = [*settings(request.node.name, "node.tasks=[depth]", f"depth.points={points}"), *words]
        assert vlm3("run", source, "--out", tmp_path / out, *more) == 0
        assert vlm3("evaluate", tmp_path / out) == 0
    capsys.readouterr()
    assert vlm3("compare", tmp_path / "a", tmp_path / "b") == status
    assert ("different recordings" in capsys.readouterr().err) == (status == 2)


def test_runs_that_have_not_noted_their_weights_are_compared(tmp_path):
    a, b = (evaluated(tmp_path / name, dict.fromkeys(range(12), 0.2)) for name in "ab")
    about = json.loads((a / "run.json").read_text())
    del about["weights"]
    (a / "run.json").write_text(json.dumps(about))
    assert vlm3("compare", a, b) == 0


def test_too_few_frames_have_no_interval(tmp_path, capsys):
    a = evaluated(tmp_path / "a", dict.fromkeys(range(7), 0.2))
    b = evaluated(tmp_path / "b", dict.fromkeys(range(7), 0.4))
    assert vlm3("compare", a, b) == 0
    assert "fewer than 8 frames: –" in capsys.readouterr().out


def test_values_that_one_run_lacks_are_counted(tmp_path, capsys):
    a = evaluated(tmp_path / "a", dict.fromkeys(range(10), 0.2))
    b = evaluated(tmp_path / "b", {i: 0.2 if i > 2 else "" for i in range(10)} | {10: 0.1})
    assert vlm3("compare", a, b) == 0
    assert "depth: 3 frames have numbers only in A, 0 only in B" in capsys.readouterr().out


@pytest.mark.parametrize("case", ["no common frame", "not evaluated", "no run"])
def test_what_cannot_be_compared_is_said(tmp_path, capsys, case):
    a, b = evaluated(tmp_path / "a", {0: 0.1}), evaluated(tmp_path / "b", {1: 0.1})
    if case != "no common frame":
        (b / {"not evaluated": "frame_metrics.csv", "no run": "run.json"}[case]).unlink()
    assert vlm3("compare", a, b) == 2
    said = {
        "no common frame": "0 frames have the same stamp",
        "not evaluated": "vlm3 evaluate",
        "no run": "vlm3 run",
    }
    assert said[case] in capsys.readouterr().err

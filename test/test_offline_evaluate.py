"""`vlm3 evaluate`: what a run wrote against truth that is off by known amounts."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path

import bags
import doubles
import numpy as np
import pytest
from bags import SECOND
from ros import ROOT
from test_offline_run import STAMPS, ahead, settings, vlm3

from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.offline.evaluate import GROUPS
from vlm3_ros.offline.tum import read_trajectory

AHEAD_M = 0.25  # per image in truth; the run sees 0.2


def with_truth(path: Path) -> Path:
    """The camera of `ahead`, with a depth that is a tenth larger than what is seen, and larger steps."""
    entries = ahead(STAMPS)
    for i, stamp in enumerate(STAMPS):
        entries.append(("/depth", stamp, bags.depth(stamp, 1.1 * (2.0 - 0.2 * i))))
        moved = bags.transform(stamp, "map", "camera")
        moved.transforms[0].transform.translation.z = AHEAD_M * i
        entries.append(("/tf", stamp, moved))
        box = Box3D("chair", 1.0, np.array([0.0, 0.0, 3.0]), np.ones(3), np.eye(3))
        entries.append(("/boxes", stamp, bags.PACKER.detections(bags.header(stamp), [box])))
    return bags.write(path, entries)


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    bag = with_truth(tmp_path / "camera")
    assert vlm3("run", bag, "--out", tmp_path / "out", "--image", "/camera/image", *settings(request.node.name)) == 0
    return tmp_path / "out"


def test_known_differences_are_measured(run, capsys):
    assert vlm3("evaluate", run) == 0
    found = json.loads((run / "metrics.json").read_text())
    depth = found["depth"]
    assert depth["frames"] == 6
    assert (depth["delta1"], depth["coverage"]) == (1.0, 1.0)
    assert depth["abs_rel"] == pytest.approx(1 / 11, abs=0.005)  # answers have two decimals
    assert depth["rmse_log"] == pytest.approx(math.log(1.1), abs=0.005)
    assert sum(row["pixels"] for row in depth["by_range_m"]) == depth["pixels"] == 6 * 64 * 48
    assert found["confidence"]["brier"] < 0.1
    assert found["pairs"]["length_rel_median"] == pytest.approx(1 - 0.2 / AHEAD_M, abs=0.03)
    assert found["pairs"]["auc5"] == pytest.approx(1.0, abs=1e-3)
    # Six poses in a row 0.25 m and 0.2 m apart: the k-th is 0.05 * (k - 2.5) off.
    assert found["trajectory"]["ate_m"] == pytest.approx(0.05 * math.sqrt(35 / 12), abs=0.005)
    assert found["trajectory"]["rpe_m"] == pytest.approx(0.05, abs=0.005)
    assert found["objects"] == {
        **found["objects"],
        "true": 6,
        "found": 0,
        "ap15": 0.0,
        "iou_median": 0.0,
        "coverage": 1.0,
    }
    assert found["frames"]["perceived"] == 6
    shown = capsys.readouterr().out
    assert "abs_rel" in shown
    assert "ate_m" in shown
    true = read_trajectory(run / "true_trajectory.txt")
    assert [stamp for stamp, _ in true] == STAMPS
    np.testing.assert_allclose([T[:3, 3] for _, T in true], [[0.0, 0.0, AHEAD_M * i] for i in range(6)])


def test_truth_on_a_topic_of_another_type_is_refused(run, capsys):
    for option, kind in (("--true-depth", "Image"), ("--true-objects", "Detection3DArray")):
        assert vlm3("evaluate", run, option, "/tf") == 1
        said = capsys.readouterr().err
        assert f"vlm3 evaluate: /tf is tf2_msgs/msg/TFMessage; {option} takes " in said
        assert kind in said


def test_a_checkpoint_is_not_doubted_that_was_not_asked(tmp_path, capsys, request):
    entries = [(topic, t, bags.image(t, camera=bags.CAMERA.resized(32, 24))) for topic, t, _ in bags.camera(STAMPS)]
    entries[0] = bags.camera(STAMPS)[0]
    bag = bags.write(tmp_path / "camera", entries)
    assert vlm3("run", bag, "--out", tmp_path / "out", *settings(request.node.name)) == 1
    said = "".join(capsys.readouterr())
    assert "0 of 6 frames perceived" in said
    assert "right checkpoint" not in said


def test_a_run_that_answers_nothing_says_so_and_is_no_result(tmp_path, capsys, request):
    bag, wall = with_truth(tmp_path / "camera"), doubles.shared(request.node.name)
    wall.blind = True
    vlm3("run", bag, "--out", tmp_path / "out", "--image", "/camera/image", *settings(request.node.name))
    assert vlm3("evaluate", tmp_path / "out") == 1
    said = capsys.readouterr()
    assert "has a value" in said.err
    assert said.out.count("nothing was answered, and all of it counts as missed") == len(GROUPS) - 2  # no edges here
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert {found[group]["coverage"] for group in found.keys() - {"frames"}} == {0.0}
    assert [found["depth"][name] for name in ("delta1", "abs_rel", "abs_rel_answered")] == [0.0, 1.0, None]
    assert vlm3("report", tmp_path / "out") == 0
    assert "nothing was answered" in (tmp_path / "out" / "report.html").read_text()


def test_the_first_frame_of_a_clock_that_begins_at_zero(tmp_path, capsys, caplog, request):
    stamps = [0, SECOND // 10, SECOND // 5]
    entries = [entry for entry in ahead(stamps) if entry[0]]
    entries += [("/depth", stamp, bags.depth(stamp, 2.2 - 0.2 * i)) for i, stamp in enumerate(stamps)]
    bag = bags.write(tmp_path / "camera", sorted(entries, key=lambda entry: entry[1]))
    assert vlm3("run", bag, "--out", tmp_path / "out", "--image", "/camera/image", *settings(request.node.name)) == 0
    assert vlm3("evaluate", tmp_path / "out") == 0
    assert vlm3("report", tmp_path / "out") == 0
    assert "stamp" not in caplog.text + capsys.readouterr().err
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (found["depth"]["frames"], found["depth"]["coverage"]) == (3, 1.0)


def test_numbers_of_single_frames_are_kept(run):
    assert vlm3("evaluate", run) == 0
    found = json.loads((run / "metrics.json").read_text())
    with (run / "frame_metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["stamp"] for row in rows] == [f"{t // SECOND}.{t % SECOND:09d}" for t in STAMPS]
    for name in ("delta1", "abs_rel", "silog_answered"):
        values = [float(row[f"depth.{name}"]) for row in rows]
        assert np.mean(values) == pytest.approx(found["depth"][name], abs=1e-12)
    steps = [float(row["trajectory.step_m"]) for row in rows if row["trajectory.step_m"]]
    assert len(steps) == 5
    assert math.sqrt(np.mean(np.square(steps))) == pytest.approx(found["trajectory"]["rpe_m"], abs=1e-12)
    assert {float(row["objects.iou"]) for row in rows} == {0.0}
    assert rows[0]["pairs.length_rel"] == ""
    assert float(rows[1]["pairs.length_rel"]) == pytest.approx(0.2, abs=0.05)


def test_every_number_is_explained(run):
    assert vlm3("evaluate", run) == 0
    found = json.loads((run / "metrics.json").read_text())
    tables = {"depth.by_range_m", "depth.by_confidence", "confidence.bins", "objects.by_label", "frames.by_stage"}
    tables |= {"frames.left_out"}
    numbers = {f"{group}.{name}" for group in found for name in found[group]} - tables
    with (run / "frame_metrics.csv").open() as file:
        numbers |= set(next(csv.reader(file))[1:])
    explained = {f"{name}.{metric}" for name, group in GROUPS.items() for metric in group.METRICS}
    assert numbers <= explained
    text = (ROOT / "docs" / "metrics.md").read_text()
    missing = {metric for group in GROUPS.values() for metric, m in group.METRICS.items() if m.better} - {
        word for word in text.split("`") if " " not in word
    }
    assert not missing, "not in docs/metrics.md"


def test_truth_may_be_another_recording_a_little_apart_in_time(run, tmp_path):
    depths = [("/other", stamp + 9_000_000, bags.depth(stamp + 9_000_000, 4.0)) for stamp in STAMPS[:2]]
    images = [(topic, t + 10_000_000, bags.image(t + 10_000_000)) for topic, t, _ in bags.camera(STAMPS[:3])[1:]]
    infos = [("/camera/camera_info", STAMPS[0], bags.info(STAMPS[0]))]
    other = bags.write(tmp_path / "other", sorted(infos + images + depths, key=lambda entry: entry[1]))
    assert vlm3("evaluate", run, "--truth", other) == 0
    found = json.loads((run / "metrics.json").read_text())
    assert found["depth"]["frames"] == 2
    assert found["depth"]["abs_rel"] == pytest.approx((2.0 / 4.0 + 2.2 / 4.0) / 2, abs=0.01)
    assert "trajectory" not in found


@pytest.mark.parametrize(
    ("later_s", "said", "left"),
    [(5, "no image of .* has the stamp", set(GROUPS) - {"boundaries"}), (0, "but no truth", {"frames"})],
)
def test_nothing_to_compare_is_said(run, tmp_path, capsys, later_s, said, left):
    assert vlm3("evaluate", run) == 0
    other = bags.write(tmp_path / "other", bags.camera([t + later_s * SECOND for t in STAMPS]))
    assert vlm3("evaluate", run, "--truth", other) == 1
    assert re.search(said, capsys.readouterr().err)
    assert json.loads((run / "metrics.json").read_text()).keys() == left


@pytest.mark.parametrize("folder", ["missing", "unfinished"])
def test_what_is_no_finished_run_is_refused(run, tmp_path, capsys, folder):
    if folder == "unfinished":
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "run.json").write_bytes((run / "run.json").read_bytes())
    assert vlm3("evaluate", tmp_path / folder) == 1
    assert "vlm3 run" in capsys.readouterr().err

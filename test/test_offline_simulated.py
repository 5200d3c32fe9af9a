"""The simulated room as a recording."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from test_offline_run import vlm3

from vlm3_ros.config import CameraConfig
from vlm3_ros.offline.opening import open_source
from vlm3_ros.offline.sources import Choices, SourceError
from vlm3_ros.sim.tour import Tour

SMALL = "160,120,70,1,4"


def test_frames_are_those_of_the_tour_and_their_truth_is_exact():
    source = open_source(Path(f"simulated:{SMALL}"), Choices(), CameraConfig())
    tour = Tour.demo(160, 120, 70.0, 1.0, 4.0)
    assert list(np.diff(source.stamps)) == [10**9] * 3
    for i in (0, 3):
        frame, truth = source.frame(i), source.truth(i)
        np.testing.assert_array_equal(frame.image, tour[i].image)
        np.testing.assert_array_equal(truth.depth, tour[i].depth)
        np.testing.assert_array_equal(truth.T_world_camera, tour.poses[i])
        assert frame.stamp == source.stamps[i]
        assert truth.boxes


def test_run_and_evaluation_find_what_is_there(tmp_path):
    words = ["--model", f"test:truth:simulated:{SMALL}", "--set", "node.tasks=[depth, pose, objects]"]
    assert vlm3("run", f"simulated:{SMALL}", "--out", tmp_path / "out", *words) == 0
    assert vlm3("evaluate", tmp_path / "out") == 0
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["depth"]["delta1"] > 0.95
    assert found["trajectory"]["ate_m"] < 0.02
    assert found["objects"]["true"] > 4
    assert json.loads((tmp_path / "out" / "run.json").read_text())["source"] == f"simulated:{SMALL}"


@pytest.mark.parametrize("numbers", ["1,2", "a,b,c,d,e", "160,120,70,0,4", "160,120,270,1,4", "0,120,70,1,4"])
def test_what_is_no_camera_is_said(numbers):
    with pytest.raises(SourceError, match="WIDTH,HEIGHT"):
        open_source(Path(f"simulated:{numbers}"), Choices(), CameraConfig())


def test_a_folder_of_that_name_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "simulated").mkdir()
    with pytest.raises(SourceError, match="no recording that can be read"):
        open_source(Path("simulated"), Choices(), CameraConfig())

"""`vlm3 data build` and `show` as a user calls them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from learning import tour, write_recording

from vlm3_ros.learn.data.shards import DataSet

AMOUNTS = ["--depth", "12", "--matching", "6", "--objects", "6", "--image-scale", "0.25", "--workers", "1"]


def data(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vlm3_ros.cli", "data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("built")
    walk = write_recording(root / "walk", tour(8))
    labels = ["--labels", "chair", "table", "sofa", "cabinet"]
    done = data("build", walk, "rooms:5:1", "--out", root / "data", *AMOUNTS, *labels)
    assert done.returncode == 0, done.stderr
    assert "1 of 1 shards" in done.stderr
    return root / "data"


def test_sources_of_both_kinds_come_into_one_data_set(built):
    made = DataSet(built)
    assert made.scenes.keys() == {"walk", "room000005"}
    assert {e.task for s in made for e in s.exchanges} == {"depth", "matching", "pose", "objects", "grounding"}


def test_show_tells_what_is_in_it_and_draws_it(built, tmp_path):
    done = data("show", built, "--picture", tmp_path / "sheet.png")
    assert done.returncode == 0, done.stderr
    made = DataSet(built)
    for task, count in made.manifest["exchanges"].items():
        line = next(line for line in done.stdout.splitlines() if line.split()[:1] == [task])
        assert int(line.split()[2]) == count
    assert "pose turned, °" in done.stdout
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet.shape[1] > 1500
    assert sheet.shape[0] > 1500  # depth, regions, grounding, matches and motion below each other
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 5000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "nowhere", "--out", "x"], "nowhere does not exist"),
        (["build", "rooms:5", "--out", "x"], "names no rooms"),
        (["build", "rooms:0:0", "--out", "x"], "names no rooms"),
        (["build", "rooms:0:1", "--out", "x", "--labels", "box", "box"], "name every thing once"),
        (["show", "nowhere"], "no training data"),
        (["check", "nowhere.yaml"], "cannot be read as a mixture"),
    ],
)
def test_mistakes_are_explained(tmp_path, arguments, said):
    done = data(*(tmp_path / a if a == "x" else a for a in arguments))
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr

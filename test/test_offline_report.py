"""`vlm3 report`: one file that shows every number, is valid, and asks nobody for anything."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections import Counter
from pathlib import Path

import cv2
import html5lib
import numpy as np
import pytest
from test_offline_evaluate import with_truth
from test_offline_run import settings, vlm3

from vlm3_ros.offline.report import plots
from vlm3_ros.offline.report.pictures import UNKNOWN, depth_scale, error_in_colour

ADDRESSES = ("src", "href", "srcset", "action", "data", "poster", "{http://www.w3.org/1999/xlink}href")


def report(folder: Path) -> str:
    assert vlm3("evaluate", folder) == 0
    assert vlm3("report", folder) == 0
    return (folder / "report.html").read_text()


@pytest.fixture
def run(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Of a bag with truth for depth, poses and boxes."""
    bag = with_truth(tmp_path / "camera")
    assert vlm3("run", bag, "--out", tmp_path / "out", "--image", "/camera/image", *settings(request.node.name)) == 0
    return tmp_path / "out"


def assert_good(folder: Path, text: str) -> None:
    """Valid HTML with all numbers, that stands by itself."""
    tree = html5lib.HTMLParser(strict=True, namespaceHTMLElements=False).parse(text)  # raises on what is not HTML5
    elements = [element for element in tree.iter() if isinstance(element.tag, str)]
    ids = Counter(element.get("id") for element in elements if element.get("id"))
    assert max(ids.values()) == 1
    addresses = [element.get(name) for element in elements for name in ADDRESSES if element.get(name)]
    assert {address[: address.find(":") + 1] for address in addresses} == {"data:", ""}
    assert {address[1:] for address in addresses if address.startswith("#")} <= ids.keys()
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= ids.keys()
    assert "http" not in text
    assert "@import" not in text
    words = " ".join(tree.itertext())
    metrics = json.loads((folder / "metrics.json").read_text())
    for group, values in metrics.items():
        section = next(element for element in elements if element.get("id") == group)
        shown = " ".join(section.itertext()).split()
        for name, value in values.items():
            if not isinstance(value, (list, dict)):
                assert name in shown
                expected = "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
                assert shown[shown.index(name) + 1] == expected
    for name in json.loads((folder / "run.json").read_text())["settings"]:
        assert name in words


def test_all_numbers_are_in_a_valid_page_that_stands_alone(run):
    text = report(run)
    assert_good(run, text)
    for title in ("perceived depth", "true depth", "error of the depth", "from above", "by stage", "confidence [%]"):
        assert title in text
    assert "test:doubles:shared:" in text  # who answered
    for tag in ("W1", "W2", "W3", ">M<"):
        assert tag in text


def test_names_from_outside_are_only_text(run):
    description = json.loads((run / "run.json").read_text())
    description["settings"]["objects.labels"] = ["<script>alert(1)</script>"]
    assert vlm3("evaluate", run) == 0
    (run / "run.json").write_text(json.dumps(description))
    assert vlm3("report", run) == 0
    text = (run / "report.html").read_text()
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_worst_and_median_frames_are_those_of_the_numbers(run):
    assert vlm3("evaluate", run) == 0
    with (run / "frame_metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    for i, row in enumerate(rows):
        row["depth.abs_rel"] = str([0.3, 0.1, 0.9, 0.2, 0.8, 0.25][i])
    with (run / "frame_metrics.csv").open("w") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    assert vlm3("report", run) == 0
    text = re.sub(r"<[^>]*>", " ", (run / "report.html").read_text())
    found = re.findall(r"(\w+) +(worst|second worst|third worst|median) +· frame (\d)", text)
    expected = [("W1", "worst", "3"), ("W2", "second worst", "5"), ("W3", "third worst", "1"), ("M", "median", "6")]
    assert found == expected


def test_run_with_depth_alone_has_no_other_section(tmp_path, request):
    bag = with_truth(tmp_path / "camera")
    words = [*settings(request.node.name), "--set", "node.tasks=[depth]", "--image", "/camera/image"]
    assert vlm3("run", bag, "--out", tmp_path / "out", *words) == 0
    text = report(tmp_path / "out")
    assert_good(tmp_path / "out", text)
    assert 'id="trajectory"' not in text
    assert 'id="objects"' not in text


@pytest.mark.parametrize("case", ["not evaluated", "no such folder"])
def test_what_cannot_be_reported_is_said(run, tmp_path, capsys, case):
    assert vlm3("report", run if case == "not evaluated" else tmp_path / "missing") == 1
    assert "vlm3 evaluate" in (said := capsys.readouterr().err) or "vlm3 run" in said


def test_what_is_not_installed_is_named(run, capsys, monkeypatch):
    assert vlm3("evaluate", run) == 0
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "vlm3_ros.offline.report.page", raising=False)
    assert vlm3("report", run) == 1
    assert "pip install jinja2 matplotlib" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["redwood_livingroom_5", "tum_fr3_cabinet"])
def test_recorded_data(data, tmp_path, name):
    sets = ["node.tasks=[depth, pose, matches, objects]", "objects.labels=[cabinet]"]
    words = ["--model", f"test:truth:recorded:{data / name}", *(word for s in sets for word in ("--set", s))]
    assert vlm3("run", data / name, "--out", tmp_path / "out", *words) == 0
    assert_good(tmp_path / "out", report(tmp_path / "out"))


# ------------------------------------------------------------------------------------------------ its parts


def test_colours_of_errors():
    true = np.full((1, 5), 2.0)
    picture = error_in_colour(np.array([[2.0, 1.0, 3.0, np.nan, 1.9]]), true)[0].astype(int)
    right, near, far, unknown, little = picture
    assert right.min() > 240
    assert near[2] > near[0] + 50  # blue
    assert far[0] > far[2] + 50  # red
    assert tuple(unknown) == UNKNOWN
    assert right.min() > little.min() > near.min()


def test_scale_of_depth_colours_is_even_in_inverse_depth():
    _, marks = depth_scale(1.0, 4.0)
    assert marks == [(0.0, "1 m"), (0.25, "1.2 m"), (0.5, "1.6 m"), (0.75, "2.3 m"), (1.0, "4 m")]


def test_true_path_is_laid_on_the_perceived_one(rng):
    """Whatever world the truth is in."""
    path = rng.normal(size=(20, 3))
    turn = cv2.Rodrigues(np.array([0.3, -1.0, 2.0]))[0]
    np.testing.assert_allclose(plots.laid_on(path, path @ turn.T + [5.0, 6.0, 7.0]), path, atol=1e-9)

"""The demo, as `./run demo` runs it: simulator and node as processes, topics in between, a picture at the end."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import ros

from vlm3_ros.ros.demo import SIMULATOR


def simulator_spec() -> str:
    """The argument of truth.simulated that belongs to the demo's simulator."""
    return ",".join(f"{SIMULATOR[name]:g}" for name in ("width", "height", "hfov_deg", "rate_hz", "seconds"))


def test_run_script_knows_the_simulator():
    """./run passes the stand-in the same camera and walk as the demo starts the simulator with."""
    assert f"truth:simulated:{simulator_spec()}" in (ros.ROOT / "run").read_text()


@pytest.mark.slow
def test_demo_ends_by_itself_with_a_picture_and_true_values(tmp_path: Path):
    out = tmp_path / "demo.png"
    arguments = ["--test-double", f"truth:simulated:{simulator_spec()}", "--frames", 4, "--out", out]
    with ros.Process(ros.ROOT / "vlm3_ros" / "cli.py", "demo", *arguments) as demo:
        assert demo.wait(240.0) == 0, demo.output
    picture = cv2.imread(str(out))
    assert picture.shape == (900, 1440, 3)
    assert len(np.unique(picture[:360, :480].reshape(-1, 3), axis=0)) > 1000  # a real image in the first panel
    assert "GROUND TRUTH (a test double, not a model)" in demo.output
    values = re.search(r"delta1 ([\d.]+), AbsRel ([\d.]+)", demo.output)
    assert float(values[1]) > 0.95
    assert float(values[2]) < 0.05
    assert re.search(r"objects: [1-9]\d* of \d+ found, mean 3D IoU 0\.[3-9]", demo.output)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], "required"), (["--model", "a", "--test-double", "b"], "not allowed with")],
    ids=["nobody answers", "two answer"],
)
def test_demo_wants_exactly_one_who_answers(arguments, said):
    with ros.Process(ros.ROOT / "vlm3_ros" / "cli.py", "demo", *arguments) as demo:
        assert demo.wait(60.0) == 2
    assert said in demo.output

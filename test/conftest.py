"""What all tests share: the ROS environment of this test process, and where the recorded data is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import ros

os.environ.update(ros.ENVIRONMENT)

DATA = ros.ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder with recorded data; tests that need it are skipped without it."""
    if not DATA.is_dir():
        pytest.skip(f"the recorded data is not at {DATA}")
    return DATA


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(0)

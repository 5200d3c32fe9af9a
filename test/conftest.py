"""What all tests share: the ROS environment of this test process, and where the recorded data is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import ros
from hypothesis import settings

os.environ.update(ros.ENVIRONMENT)

# The same examples in every run, and no limit for each on a busy machine.
settings.register_profile("vlm3", derandomize=True, deadline=None)
settings.load_profile("vlm3")

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

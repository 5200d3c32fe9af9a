"""What groups of metrics see of a frame, and poses for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation


def pose(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn_deg: float = 0.0) -> np.ndarray:
    """A pose turned about its y axis."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("y", turn_deg, degrees=True).as_matrix()
    T[:3, 3] = x, y, z
    return T


def moment(stamp: int = 0, error: str = "", **found: Any) -> Any:
    """What a group sees of a frame."""
    return SimpleNamespace(stamp=stamp, error=error, **found)

"""What groups of metrics see of a frame, and poses for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from vlm3_ros.config import TASKS
from vlm3_ros.offline.sources import Truth

SETTINGS = {"node.tasks": list(TASKS), "objects.labels": ["box"], "matches.points": 12}
NOTHING = dict.fromkeys(("camera", "valid", "depth", "confidence", "pose", "boxes", "matches", "image", "true_depth"))


def pose(x: float = 0.0, y: float = 0.0, z: float = 0.0, turn_deg: float = 0.0) -> np.ndarray:
    """A pose turned about its y axis."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("y", turn_deg, degrees=True).as_matrix()
    T[:3, 3] = x, y, z
    return T


def moment(stamp: int = 0, error: str = "", settings: dict[str, Any] | None = None, **found: Any) -> Any:
    """What a group sees of a frame: nothing but what is given."""
    return SimpleNamespace(
        stamp=stamp,
        error=error,
        **{**NOTHING, "truth": Truth(), "seconds": {}, "row": {}, **found},
        settings={**SETTINGS, **(settings or {})},
    )

"""Going once over a recording: which of its frames are good enough, and which go together.

What is looked at is a sketch of each frame, 64 columns wide, so that a recording of any length fits in memory and any
two of its frames can be compared.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from vlm3_ros.camera import Camera
from vlm3_ros.learn.data.groups import MIN_COVISIBLE, NO_OVERLAP
from vlm3_ros.learn.data.views import Agreement, agreement, relative_pose
from vlm3_ros.offline.sources import FrameError, Source

COLUMNS = 64  # of a sketch
SHARP_COLUMNS = 320  # of the image whose sharpness is measured: below, the noise of the sensor is averaged away
NEIGHBOURS = 10  # frames on each side that a frame's sharpness is compared with
FEW = 5  # with fewer of them nothing is said about blur
DEVIATIONS = 3.0  # scaled median absolute deviations (Leys et al., J. Exp. Soc. Psychol. 2013)
TO_SIGMA = 1.4826  # from the median absolute deviation to the standard deviation of a normal distribution
HALF = math.log(2.0)  # and at least this much less sharp, whatever the deviations
STILL_M, STILL_DEG = 0.02, 1.0  # answers have 1 cm and 0.1°: of less than this, rounding is a quarter
STILL_NS = 1_000_000_000  # and where poses are not known, frames are this far apart
MAX_CONFLICT = 0.1  # of what two views must both see
TRIED = 12  # frames that may go with one, at most

UNREADABLE = "image that cannot be read"
BARE = "neither depth nor pose"
SPARSE = "depth with too few pixels"
IMPLAUSIBLE = "depth out of range"
BLURRED = "blurred"
STILL = "hardly moved since the frame before"
DYNAMIC = "depth disagrees with its neighbours"
ALONE = "no depth, and shares too little with frames that have it"
FAR = "pair moved too far or hardly"
WRONG_POSE = "pair whose poses disagree with depth"


@dataclass(frozen=True)
class Rules:
    """Which frames and pairs of a recording are good enough; the defaults are meant for any camera and place."""

    min_known: float = 0.25  # share of the pixels that must have depth
    range_m: tuple[float, float] = (0.1, 100.0)  # what is measured nearer or farther is no measurement
    covisible: float = MIN_COVISIBLE
    max_move_m: float = 3.0  # between the frames of a pair
    max_turn_deg: float = 60.0
    frames: int = 4  # of a group, at most


@dataclass(frozen=True, eq=False)
class Sketch:
    """What is kept of a frame; a `views.View`."""

    index: int  # in the source
    stamp: int
    sharpness: float  # logarithm of the variance of the Laplacian
    camera: Camera  # at the sketch's size
    depth: np.ndarray | None
    T_world_camera: np.ndarray | None


@dataclass(frozen=True)
class Chosen:
    """A group to be: frames by their index in the source, ascending, and pairs by position in ``frames``."""

    frames: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...] = ()


def surveyed(
    source: Source, rules: Rules, seed: int, told: Callable[[int], None] = lambda done: None
) -> tuple[list[Chosen], Counter[str]]:
    """The groups of a recording, and what was left out by reason; ``told`` hears how many frames have been read."""
    left_out: Counter[str] = Counter()
    sketches = list(_sketches(source, rules, left_out, told))
    sharp = ~blurred(np.array([sketch.sharpness for sketch in sketches]))
    left_out[BLURRED] += int((~sharp).sum())
    sketches = _moving([sketch for sketch, good in zip(sketches, sharp, strict=True) if good], left_out)
    sketches = _static(sketches, left_out)
    return grouped(sketches, rules, np.random.default_rng(seed), left_out), +left_out


# ------------------------------------------------------------------------------------------------------ frames


def usable_depth(depth: np.ndarray, rules: Rules) -> np.ndarray | str:
    """Depth without what is no measurement, or why there is too little of it."""
    near, far = rules.range_m
    with np.errstate(invalid="ignore"):
        plausible = (depth >= near) & (depth <= far)
    if np.isfinite(depth).mean() < rules.min_known:
        return SPARSE
    if plausible.mean() < rules.min_known or np.ptp(depth[plausible]) == 0.0:  # a sensor that is stuck
        return IMPLAUSIBLE
    return np.where(plausible, depth, np.float32(np.nan))


def sharpness(image: np.ndarray) -> float:
    """Logarithm of the variance of the Laplacian (Pech-Pacheco et al., ICPR 2000) of an RGB image."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if grey.shape[1] > SHARP_COLUMNS:
        size = SHARP_COLUMNS, max(1, round(grey.shape[0] * SHARP_COLUMNS / grey.shape[1]))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return math.log(float(cv2.Laplacian(grey, cv2.CV_64F).var()) + 1e-6)


def blurred(sharpness: np.ndarray) -> np.ndarray:
    """Which frames [N] are much less sharp than those around them, which see about the same.

    Outliers below the median of up to 10 frames on each side, by three scaled median absolute deviations, and with
    at most half the variance. What is blurred throughout, or looks at a blank wall for a while, is kept.
    """
    found = np.zeros(len(sharpness), bool)
    for i, value in enumerate(sharpness):
        around = np.delete(sharpness[max(0, i - NEIGHBOURS) : i + NEIGHBOURS + 1], min(i, NEIGHBOURS))
        if len(around) >= FEW:
            median = np.median(around)
            deviation = TO_SIGMA * np.median(np.abs(around - median))
            found[i] = median - value > max(DEVIATIONS * deviation, HALF)
    return found


def _sketches(source: Source, rules: Rules, left_out: Counter[str], told: Callable[[int], None]) -> Iterator[Sketch]:
    for index, stamp in enumerate(source.stamps):
        told(index)
        try:
            frame, truth = source.frame(index), source.truth(index)
        except FrameError:
            left_out[UNREADABLE] += 1
            continue
        depth = None if truth.depth is None else usable_depth(truth.depth, rules)
        if isinstance(depth, str):
            left_out[depth] += 1
        elif depth is None and truth.T_world_camera is None:
            why = "; ".join(f"{what}: {why}" for what, why in truth.unknown.items() if what != "boxes")
            left_out[f"{BARE} ({why})"] += 1
        else:
            camera = frame.camera.resized(COLUMNS, max(2, round(frame.camera.height * COLUMNS / frame.camera.width)))
            if depth is not None:
                depth = cv2.resize(depth, camera.size, interpolation=cv2.INTER_NEAREST_EXACT)
            yield Sketch(index, stamp, sharpness(frame.image), camera, depth, truth.T_world_camera)


def _moving(sketches: Sequence[Sketch], left_out: Counter[str]) -> list[Sketch]:
    """Without frames that show what the one kept before them does."""
    kept: list[Sketch] = []
    for sketch in sketches:
        if kept and _is_still(kept[-1], sketch):
            left_out[STILL] += 1
        else:
            kept.append(sketch)
    return kept


def _is_still(a: Sketch, b: Sketch) -> bool:
    if a.T_world_camera is None or b.T_world_camera is None:
        return b.stamp - a.stamp < STILL_NS
    move_m, turn_deg = _motion(a, b)
    return move_m < STILL_M and turn_deg < STILL_DEG


def _motion(a: Sketch, b: Sketch) -> tuple[float, float]:
    """Metres and degrees between two poses."""
    T = relative_pose(a, b)
    return float(np.linalg.norm(T[:3, 3])), math.degrees(Rotation.from_matrix(T[:3, :3]).magnitude())


def _static(sketches: Sequence[Sketch], left_out: Counter[str]) -> list[Sketch]:
    """Without frames whose depth contradicts most of the two before and the two after that see the same."""
    placed = [s for s in sketches if s.depth is not None and s.T_world_camera is not None]
    bad = set()
    for i, sketch in enumerate(placed):
        others = [*placed[max(0, i - 2) : i], *placed[i + 1 : i + 3]]
        conflicting = np.array([_agreement(sketch, other).conflicting for other in others])
        if (conflicting > MAX_CONFLICT).sum() > np.isfinite(conflicting).sum() / 2:
            bad.add(sketch.index)
    left_out[DYNAMIC] += len(bad)
    return [sketch for sketch in sketches if sketch.index not in bad]


def _agreement(a: Sketch, b: Sketch) -> Agreement:
    return agreement(a, b, step=2)


# ------------------------------------------------------------------------------------------------------ groups


def grouped(
    sketches: Sequence[Sketch], rules: Rules, rng: np.random.Generator, left_out: Counter[str]
) -> list[Chosen]:
    """Each frame in one group, with frames drawn from all that share enough with it, near in time or not.

    Frames without depth join one that has it, in any number.
    """
    unknown = np.full((4, 4), np.nan)
    poses = np.array([unknown if s.T_world_camera is None else s.T_world_camera for s in sketches]).reshape(-1, 4, 4)
    free = np.ones(len(sketches), bool)
    groups: list[Chosen] = []
    for first, sketch in enumerate(sketches):
        if sketch.depth is None or not free[first]:
            continue
        free[first] = False
        members, full = [first], rules.frames
        near = np.flatnonzero(free & _in_range(poses[first], poses, rules))
        for i in _some(near, np.abs(near - first), rng):
            alone = sketches[i].depth is None
            if (alone or full > 1) and _may_pair(sketch, sketches[i], rules, left_out):
                members.append(i)
                free[i], full = False, full - (not alone)
        members.sort()
        pairs = _pairs([sketches[i] for i in members], rules, left_out)
        groups.append(Chosen(tuple(sketches[i].index for i in members), pairs))
    left_out[ALONE] += int(free.sum())
    return groups


def _some(near: np.ndarray, apart: np.ndarray, rng: np.random.Generator) -> list[int]:
    """Frames to try, near ones more often: how many frames they are apart is drawn log-uniformly."""
    count = min(TRIED, len(near))
    return rng.choice(near, count, replace=False, p=1 / apart / (1 / apart).sum()).tolist() if count else []


def _pairs(members: Sequence[Sketch], rules: Rules, left_out: Counter[str]) -> tuple[tuple[int, int], ...]:
    """All pairs that may be asked about, by position in ``members``."""
    found = []
    for (i, a), (j, b) in combinations(enumerate(members), 2):
        has_depth = a.depth is not None or b.depth is not None
        if has_depth and a.T_world_camera is not None and b.T_world_camera is not None:
            if not _in_range(a.T_world_camera, b.T_world_camera[None], rules).all():
                left_out[FAR] += 1
            elif _may_pair(a, b, rules, left_out):
                found.append((i, j))
    return tuple(found)


def _in_range(pose: np.ndarray, others: np.ndarray, rules: Rules) -> np.ndarray:
    """Which of the poses [N, 4, 4] are within the range of motion from one; not those that are NaN."""
    T = np.linalg.inv(pose) @ others
    move_m = np.linalg.norm(T[:, :3, 3], axis=1)
    turn_deg = np.degrees(np.arccos(np.clip((np.trace(T[:, :3, :3], axis1=1, axis2=2) - 1.0) / 2.0, -1.0, 1.0)))
    return (move_m >= STILL_M) & (move_m <= rules.max_move_m) & (turn_deg <= rules.max_turn_deg)


def _may_pair(a: Sketch, b: Sketch, rules: Rules, left_out: Counter[str]) -> bool:
    """Whether two frames show enough of the same and do not contradict each other; if not, why not is counted."""
    found = _agreement(a, b)
    if found.covisible <= rules.covisible:
        left_out[NO_OVERLAP] += 1
        return False
    if found.conflicting > MAX_CONFLICT:
        left_out[WRONG_POSE] += 1
        return False
    return True

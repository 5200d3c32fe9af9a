"""Which upright boxes explain a 2D box and depth answers, and how well: the posterior, drawn by importance sampling.

All boxes that fill a given 2D box, at a yaw and a ratio of length to width, are one box at other distances: seen from
the camera they are the same. So a box is written as yaw, ratio, distance and by how much it misses each of the four
edges, and every draw agrees with the 2D box as closely as 2D boxes are known. What is left to find is what depth
answers tell. The draws start all over and close in on what explains the answers while the noise that is allowed falls
to the one that is there (population Monte Carlo, Cappé et al., JCGS 2004, with tempering).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import qmc

from vlm3_ros.geometry.planes import ROUGHNESS, Plane
from vlm3_ros.geometry.population import close_in, flattened, weights

FIRST, NEXT = 1024, 256  # draws of the first round and of each further one
EDGE_ERROR = 0.02  # standard deviation of a 2D box's edges, as a part of its size
OVERLAP_ERROR = 0.08  # the same where the 3D box looks larger: round things have a larger box than outline
CUT_ERROR = 0.5  # scale of how far an object goes on beyond the image's border, the same way
RATIO_SCALE = 0.5  # of |ln(length / width)|: Laplace, so that a door's is possible
ROUND = 0.84  # standard normal quantile: one thing in five is round
ROUND_RATIO_SCALE = 0.1  # of |ln(length / width)| of round things
TALL_SCALE = 0.7  # of |ln(height / √(length · width))|
STANDING = 0.8  # probability that an object stands on the level surface that is seen below it
LEANING = 0.3  # probability that its back is at the wall that is seen behind it
SEEN_AT_ANGLE = 0.88  # width of a box as part of what is seen of it, and its depth as a part of that
POWER = 0.3  # of the likelihood: things are no solid boxes, so that answers are no independent evidence of one
SURFACE, INTERIOR, BEHIND, WRONG = 0.6, 0.2, 0.15, 0.05  # what a ray that meets the box ends at
ANYWHERE = 1 / 3  # density of a wrong answer in ln(depth)
OFF_PLANES = 0.2  # share of the background that no known plane explains

MEAN_ERROR = 0.1  # a plane found from some dozens of answers errs by this part of one answer's error


@dataclass(frozen=True, eq=False)
class Outline:
    """A 2D box as the planes through the camera and its edges: left, top, right, bottom."""

    normals: np.ndarray  # [4, 3] unit normals that point out of the box
    is_cut: np.ndarray  # [4] bool: an edge at the image's border, beyond which the object may go on
    error: np.ndarray  # [4] standard deviations of where the edges are, in parts of the box's angular size


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that is known of an object."""

    outline: Outline
    rays: np.ndarray  # [N, 3] of the answers inside the 2D box, z = 1
    logs: np.ndarray  # [N] ln(depth)
    noise: np.ndarray  # [N] standard deviation of that
    upright: np.ndarray  # [3, 3] level axes as columns: across the line of sight, along it, up
    support: Plane | None  # level surface below the object
    wall: Plane | None  # behind it

    @property
    def direction(self) -> np.ndarray:
        """Unit vector [3] to the middle of the 2D box."""
        left, top, right, bottom = self.outline.normals
        ray = np.cross(left - right, top - bottom)
        ray *= np.sign(ray[2]) / np.linalg.norm(ray)
        return ray

    @property
    def extent(self) -> np.ndarray:
        """Width and height [2] of the 2D box in tangents: at depth one, metres."""
        n = self.outline.normals
        (left, top), (right, bottom) = (-n[[k, k + 1], 2] / n[[k, k + 1], [0, 1]] for k in (0, 2))
        return np.array([right - left, bottom - top])

    @property
    def angle(self) -> float:
        """Angular size of the 2D box: the square root of its area at depth one."""
        return float(np.sqrt(np.prod(self.extent)))


@dataclass(frozen=True, eq=False)
class Draws:
    """Boxes [H] with weights: together they stand for the posterior."""

    center: np.ndarray  # [H, 3] camera axes, metres
    size: np.ndarray  # [H, 3]
    yaw: np.ndarray  # [H] of the length in the level axes of `Evidence.upright`
    axes: np.ndarray  # [H, 3, 3] its axes as rows, in camera axes
    is_round: np.ndarray  # [H] whether what is in the box is a cylinder
    weight: np.ndarray  # [H], sum 1
    doubt: np.ndarray  # [H], sum 1: the same, flattened until many draws count, for how far off a box may be


def draw(evidence: Evidence) -> Draws | None:
    """Boxes that stand for what is known of an object; None where no box explains its 2D box."""
    noise = float(np.median(evidence.noise))
    x, log_weight = close_in(
        *_first(evidence),
        lambda x, allowed: _log_posterior(x, evidence, allowed),
        lambda allowed: _steps(evidence, allowed),
        max(noise, 0.3 * evidence.angle),
        noise,
        NEXT,
    )
    possible = np.isfinite(log_weight)
    return _draws(x[possible], evidence, log_weight[possible]) if possible.any() else None


def facing(evidence: Evidence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre [3], size [3] and rotation [3, 3] of a box that faces the camera: what is left to say where answers are
    too noisy for a shape.

    Its front is at the depth of the inner half of the 2D box, by all answers that agree with that. There it is as
    high as the 2D box, and a little less wide and deep, as most things are seen at an angle.
    """
    tangent = evidence.rays[:, :2]
    away = np.abs(tangent - np.median(tangent, axis=0)) / np.maximum(np.ptp(tangent, axis=0), 1e-9)
    logs = evidence.logs[(away <= 0.3).all(axis=1)]
    level = np.median(logs if len(logs) else evidence.logs)
    near = np.abs(evidence.logs - level) <= 1.5 * evidence.noise  # all that may be as far away: more than those
    front = evidence.direction / evidence.direction[2] * np.exp(evidence.logs[near].mean() if near.any() else level)
    width, height = evidence.extent * front[2]
    size = np.array([SEEN_AT_ANGLE * width, SEEN_AT_ANGLE**2 * width, height])
    return front + evidence.upright[:, 1] * size[1] / 2, np.maximum(size, ROUGHNESS), evidence.upright


# Draws are rows (yaw, ln(length / width), ln(depth of the front), shape, by how much the box goes beyond the four
# edges in units of the 2D box's angular size). Shape is a normal variable: what is beyond ROUND is an upright
# cylinder in its box.


def _first(evidence: Evidence) -> tuple[np.ndarray, np.ndarray]:
    """Draws [H, 8] from everywhere, and the logarithm of their density [H]."""
    u = qmc.Sobol(8, rng=0).random(FIRST)
    yaw = u[:, 0] * np.pi / 2
    ratio = np.sign(u[:, 1] - 0.5) * -np.log(1.0 - np.abs(2.0 * u[:, 1] - 1.0)) * RATIO_SCALE
    shape = ndtri(u[:, 3].clip(1e-6, 1.0 - 1e-6))
    ratio *= np.where(shape > ROUND, ROUND_RATIO_SCALE / RATIO_SCALE, 1.0)
    beyond = _beyond_from(u[:, 4:], evidence.outline)
    x = np.column_stack([yaw, ratio, np.zeros(FIRST), shape, beyond])
    solids = _solids(x, evidence)
    enter, _ = _through(solids, evidence.rays)
    enter = enter * _scale(x, solids, evidence)[:, None]
    known = np.where(np.isfinite(enter), evidence.logs - np.log(np.where(enter > 0.0, enter, 1.0)), np.nan)
    fallback = evidence.logs - np.log(evidence.rays @ evidence.direction / (evidence.rays**2).sum(axis=1))
    known[~np.isfinite(known).any(axis=1)] = fallback
    ordered = np.sort(known, axis=1)  # NaN last
    count = np.isfinite(ordered).sum(axis=1)
    at = (0.1 + 0.8 * u[:, 2]) * (count - 1)
    x[:, 2] = ordered[np.arange(FIRST), at.astype(int)] + evidence.noise.mean() * 0.1 * (u[:, 2] - 0.5)
    return x, _log_shape(ratio, shape) + _log_beyond(beyond, evidence.outline)


def _log_shape(ratio: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Log density [H] of how things look from above: round, or boxes of some ratio."""
    scale = np.where(shape > ROUND, ROUND_RATIO_SCALE, RATIO_SCALE)
    return -np.abs(ratio) / scale - np.log(scale) - 0.5 * shape**2


def _beyond_from(u: np.ndarray, outline: Outline) -> np.ndarray:
    """Draws [H, 4] of how far boxes go beyond edges, from uniform numbers [H, 4]."""
    inner, outer = _edge_scales(outline)
    normal = ndtri(np.clip(u, 1e-6, 1 - 1e-6))
    beyond = np.where(normal < 0.0, normal * inner, normal * outer)
    return np.where(outline.is_cut, -np.log(1.0 - u * 0.98) * CUT_ERROR, beyond)


def _edge_scales(outline: Outline) -> tuple[np.ndarray, np.ndarray]:
    return np.hypot(EDGE_ERROR, outline.error), np.hypot(OVERLAP_ERROR, outline.error)


def _log_beyond(beyond: np.ndarray, outline: Outline) -> np.ndarray:
    """Log density [H] of how far boxes go beyond the edges [H, 4], but for a constant."""
    inner, outer = _edge_scales(outline)
    normal = -0.5 * (beyond / np.where(beyond < 0.0, inner, outer)) ** 2
    cut = np.where(beyond < 0.0, -0.5 * (beyond / inner) ** 2, -beyond / CUT_ERROR)
    return np.where(outline.is_cut, cut, normal).sum(axis=1)


def _steps(evidence: Evidence, noise: float) -> np.ndarray:
    """How far apart parents and children are [4, 8] where depths are allowed to be off by ``noise``."""
    turn = 0.3 * noise / evidence.angle
    inner, _ = _edge_scales(evidence.outline)
    edges = np.where(evidence.outline.is_cut, CUT_ERROR / 2, inner) * min(1.0, max(0.3, turn))
    refine = np.array([np.clip(turn, 0.004, 0.25), np.clip(2.0 * turn, 0.01, 0.5), 0.3 * noise, 0.3, *edges])
    deepen = np.array([*refine[:1], RATIO_SCALE, *refine[2:3], 0.3, *edges])
    turn_about = np.array([0.5, RATIO_SCALE, *refine[2:3], 1.0, *edges])
    return np.stack([refine, refine, deepen, turn_about])


@dataclass(frozen=True, eq=False)
class _Solids:
    """Boxes, some with a cylinder in them, about one metre away."""

    center: np.ndarray  # [H, 3]
    half: np.ndarray  # [H, 3] half sizes; where one is not positive, there is no such box
    axes: np.ndarray  # [H, 3, 3] as rows
    is_round: np.ndarray  # [H]


def _solids(x: np.ndarray, evidence: Evidence) -> _Solids:
    """What fills the 2D box at the yaw and ratio of each draw.

    Where the camera looks along the vertical, the 2D box says nothing about the height: a weak wish for one like the
    2D box keeps the equations regular.
    """
    c, s, zero, one = np.cos(x[:, 0]), np.sin(x[:, 0]), np.zeros(len(x)), np.ones(len(x))
    turned = np.stack([c, s, zero, -s, c, zero, zero, zero, one], axis=1).reshape(-1, 3, 3)
    axes = turned @ evidence.upright.T
    is_round = x[:, 3] > ROUND
    n, m, angle = evidence.outline.normals, evidence.direction, evidence.angle
    reach = np.abs(n @ np.swapaxes(axes, 1, 2))  # [H, 4, 3] of the normals along the axes
    stretch = np.exp(0.5 * x[:, 1, None] * [1.0, -1.0])
    sides = reach[:, :, :2] * stretch[:, None]
    basis = np.linalg.svd(m[None])[2][1:]  # two directions across the line of sight
    rows = np.empty((len(x), 4, 4))
    rows[:, :, :2] = n @ basis.T
    rows[:, :, 2] = np.where(is_round[:, None], np.hypot(sides[..., 0], sides[..., 1]), sides.sum(axis=2))
    rows[:, :, 3] = reach[:, :, 2]
    right = x[:, 4:] * angle - n @ m
    wish = np.array([0.0, 0.0, 0.0, 1e-4])
    transposed = np.swapaxes(rows, 1, 2)
    normal = transposed @ rows + np.diag(wish) + 1e-12 * np.eye(4)
    solved = np.linalg.solve(normal, transposed @ right[..., None] + (wish * angle / 2)[:, None])[..., 0]
    half = np.column_stack([solved[:, 2, None] * stretch, solved[:, 3]])
    return _Solids(m + solved[:, :2] @ basis, half, axes, is_round)


def _scale(x: np.ndarray, solids: _Solids, evidence: Evidence) -> np.ndarray:
    """How much farther away [H] solids are than one metre.

    Their fronts, in the middle of the 2D box, are at the depth of the draw. That depth is what answers say; the
    centre's depends on how deep a solid is.
    """
    middle = evidence.direction / evidence.direction[2]
    front = _through(solids, middle[None])[0][:, 0]
    return np.exp(x[:, 2]) / np.where(np.isfinite(front), front, 1.0)


def _through(solids: _Solids, rays: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Depths [H, N] at which rays [N, 3] enter and leave solids; NaN where they miss."""
    half = np.where(solids.half > 0.0, solids.half, np.nan)
    start = (np.einsum("hac,hc->ha", solids.axes, solids.center) / half)[:, None]  # of the ray, towards the centre
    step = rays @ np.swapaxes(solids.axes, 1, 2) / half[:, None]
    step = np.where(np.abs(step) < 1e-9, 1e-9, step)
    middle, reach = start / step, np.abs(1.0 / step)  # slab method
    with np.errstate(invalid="ignore"):
        square = step[..., 0] ** 2 + step[..., 1] ** 2
        closest = (start[..., 0] * step[..., 0] + start[..., 1] * step[..., 1]) / square
        rest = 1.0 - (start[..., 0] ** 2 + start[..., 1] ** 2) + closest**2 * square
        chord = np.sqrt(rest / square)  # half of it; NaN where the ray misses the circle
        is_round = solids.is_round[:, None]
        low = np.where(is_round, closest - chord, (middle - reach)[..., :2].max(axis=2))
        high = np.where(is_round, closest + chord, (middle + reach)[..., :2].min(axis=2))
        enter = np.maximum(low, (middle - reach)[..., 2])
        leave = np.minimum(high, (middle + reach)[..., 2])
        hit = (enter < leave) & (enter > 0.0)
    return np.where(hit, enter, np.nan), np.where(hit, leave, np.nan)


def _log_posterior(x: np.ndarray, evidence: Evidence, allowed: float) -> np.ndarray:
    """Logarithm of the posterior [H], but for a constant, with noise of at least ``allowed``."""
    solids = _solids(x, evidence)
    scale = _scale(x, solids, evidence)
    possible = (solids.half > 0.0).all(axis=1)
    length, width, height = np.maximum(solids.half, 1e-9).T
    prior = (
        _log_shape(x[:, 1], x[:, 3])
        - np.abs(np.log(height / np.sqrt(length * width))) / TALL_SCALE
        + _log_beyond(x[:, 4:], evidence.outline)
        + _log_place(solids, scale, evidence, allowed)
    )
    return np.where(possible, prior + _log_likelihood(solids, np.log(scale), evidence, allowed), -np.inf)


def _log_likelihood(solids: _Solids, log_scale: np.ndarray, evidence: Evidence, allowed: float) -> np.ndarray:
    """Of the answers inside the 2D box: each ends at the surface, in the box (it is not full), behind it, or is
    wrong."""
    enter, leave = _through(solids, evidence.rays)
    hit = np.isfinite(enter)
    a = np.log(np.where(hit, enter, 1.0)) + log_scale[:, None]
    b = np.maximum(np.log(np.where(hit, leave, 2.0)) + log_scale[:, None], a + 1e-6)
    y, noise = evidence.logs, np.maximum(evidence.noise, allowed)
    surface = _normal((y - a) / noise) / noise
    interior = (ndtr((y - a) / noise) - ndtr((y - b) / noise)) / np.maximum(b - a, evidence.angle)
    behind = _behind(evidence, noise)
    meets = SURFACE * surface + INTERIOR * interior + BEHIND * behind + WRONG * ANYWHERE
    misses = (1.0 - WRONG) * behind + WRONG * ANYWHERE
    return POWER * np.log(np.where(hit, meets, misses)).sum(axis=1)


def _behind(evidence: Evidence, noise: np.ndarray) -> np.ndarray:
    """Density [N] of the answers in ln(depth), were they of the background."""
    known = [plane for plane in (evidence.support, evidence.wall) if plane is not None]
    if not known:
        return np.full(len(noise), ANYWHERE)
    found = np.zeros(len(noise))
    for plane in known:
        toward = -evidence.rays @ plane.normal
        at = np.log(plane.distance / np.where(toward > 1e-6, toward, np.nan))
        found += np.nan_to_num(_normal((evidence.logs - at) / noise) / noise)
    return OFF_PLANES * ANYWHERE + (1.0 - OFF_PLANES) * found / len(known)


def _log_place(solids: _Solids, scale: np.ndarray, evidence: Evidence, allowed: float) -> np.ndarray:
    """Of where boxes are: they stand on the surface below or hang over it, and lean at the wall behind or do not."""
    center, half = solids.center * scale[:, None], solids.half * scale[:, None]
    found = np.zeros(len(center))
    error = ROUGHNESS + MEAN_ERROR * allowed * np.linalg.norm(center, axis=1)
    height = 2.0 * half[:, 2].clip(min=1e-3)
    for plane, share, reach in ((evidence.support, STANDING, height), (evidence.wall, LEANING, 1.0)):
        if plane is None:
            continue
        gap = plane.height(center) - (np.abs(solids.axes @ plane.normal) * half).sum(axis=1)
        touching = _normal(gap / error) / error
        apart = np.where(gap > 0.0, np.exp(-np.maximum(gap, 0.0) / reach) / reach, 0.0)
        found += np.log(share * touching + (1.0 - share) * apart + 1e-6)
    return found


def _normal(z: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)


def _draws(x: np.ndarray, evidence: Evidence, log_weight: np.ndarray) -> Draws:
    solids = _solids(x, evidence)
    scale = _scale(x, solids, evidence)[:, None]
    return Draws(
        solids.center * scale,
        2.0 * solids.half * scale,
        x[:, 0],
        solids.axes,
        solids.is_round,
        weights(log_weight),
        flattened(log_weight),
    )

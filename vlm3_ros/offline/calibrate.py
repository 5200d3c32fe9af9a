"""What a checkpoint answers, length of the ray or depth along Z, and which factor its answers need for a camera.

Answers are compared with true depth z where it is known. With r the length of a pixel's ray per depth along Z (1 in
the middle of the image, more towards its corners), ln(answer / z) is regressed on ln r: it rises with slope 0 where
the answer is depth along Z and with slope 1 where it is the length of the ray. ln z stands beside ln r in the
regression, since models compress the range of depth and rooms are not equally deep in the middle and at the border;
every frame has a level of its own. Errors within a frame go together, so that frames are what intervals count: the
slope's is the jackknife's, as wide as Student's t makes it for so few; the factor's is made of order statistics,
which ask nothing of the distribution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.stats import binom, norm
from scipy.stats import t as student

from vlm3_ros.config import Config
from vlm3_ros.offline.progress import Progress
from vlm3_ros.offline.sources import FrameError, Source
from vlm3_ros.perception.depth import ask_depth, ray_factors
from vlm3_ros.perception.scene import Frame, Tally
from vlm3_ros.perception.sight import Sight
from vlm3_ros.vlm.models import Models

MIN_FRAMES = 5  # fewer have no interval worth its name
MIN_ANSWERS = 20  # of a frame that counts
LEVEL = 0.95
HUBER = 1.345  # residuals beyond this many standard deviations count less (95 % efficient for normal ones)
STEPS = 20  # of reweighting
MEANINGS = {"z": 0.0, "ray": 1.0}  # values of depth.answer, and the slope that each has
NEAR = 0.25  # a slope this near to 0 or 1 is one
WIDEST = 1.25  # interval of a slope that tells 0 from 1
SCALE_WIDTH = 1.1  # a factor is known if its interval is narrower than this ratio
NARROW = 1.05  # images whose rays differ in length by less than this factor are narrow


@dataclass(frozen=True)
class Interval:
    """A value and what holds it with LEVEL."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass
class Answers:
    """What was answered, frame by frame; arrays [N] for its N answers."""

    log_ratio: list[np.ndarray] = field(default_factory=list)  # ln(answer / z)
    log_ray: list[np.ndarray] = field(default_factory=list)  # ln r
    log_depth: list[np.ndarray] = field(default_factory=list)  # ln z
    tally: Tally = field(default_factory=Tally)

    def add(self, ratio: np.ndarray, ray: np.ndarray, z: np.ndarray) -> None:
        """Those of a frame, of which there may be too few."""
        if len(ratio) >= MIN_ANSWERS:
            self.log_ratio.append(np.log(ratio))
            self.log_ray.append(np.log(ray))
            self.log_depth.append(np.log(z))


@dataclass(frozen=True)
class Finding:
    """What the answers say; None is what they cannot tell, and ``doubts`` says why."""

    slope: Interval | None = None
    answer: str | None = None  # depth.answer
    scale: Interval | None = None  # depth.scale
    doubts: tuple[str, ...] = ()

    def settings(self) -> dict[str, str | float]:
        """The settings that were found."""
        found: dict[str, str | float] = {}
        if self.answer is not None:
            found["depth.answer"] = self.answer
        if self.scale is not None:
            found["depth.scale"] = round(self.scale.value, 4)
        return found


def asked(source: Source, config: Config, models: Models, frames: int) -> Answers:
    """Ask depth.points pixels with true depth in so many frames, evenly spread. Raises SourceError and ModelError."""
    config = config.updated({"depth.answer": "z", "depth.scale": 1.0})  # so that nothing is taken out of the answers
    answers, rng = Answers(), np.random.default_rng(0)
    count = len(source.stamps)
    indices = np.linspace(0, count - 1, min(max(frames, 0), count)).round().astype(int)
    with Progress(0, len(indices)) as progress:
        for done, index in enumerate(indices, 1):
            try:
                frame = source.frame(int(index))
            except FrameError:
                continue
            true = source.truth(int(index)).depth
            if true is not None:
                _ask(frame, true, config, models, answers, rng)
            progress(done)
    return answers


def _ask(
    frame: Frame, true: np.ndarray, config: Config, models: Models, answers: Answers, rng: np.random.Generator
) -> None:
    row, column = np.nonzero(np.isfinite(true))
    chosen = rng.permutation(len(row))[: config.depth.points]
    row, column = row[chosen], column[chosen]
    if not len(chosen):
        return
    with models.frame() as looks:
        sight = Sight(frame, looks, answers.tally)
        samples = ask_depth(sight, config, np.stack([column, row], axis=1))
        ray = ray_factors(sight, config, samples.pixels)
    known, z = np.isfinite(samples.z), true[row, column].astype(float)
    answers.add(samples.z[known] / z[known], ray[known], z[known])


def judged(answers: Answers) -> Finding:
    """What the answers tell."""
    frames = len(answers.log_ratio)
    if frames < MIN_FRAMES:
        return Finding(
            doubts=(
                f"there are {frames} frames with at least {MIN_ANSWERS} answers at pixels of known depth, and "
                f"{MIN_FRAMES} are needed: more frames of other places are worth more than more pixels",
            )
        )
    slope = _slope(answers)
    answer, doubt = _meaning(slope, answers.log_ray)
    if not answer and not doubt.fitting:
        return Finding(slope, doubts=(doubt.says, "which factor the camera needs depends on that"))
    # Where both meanings are possible, the factor is one that is right for both.
    scales = [_scale(answers, MEANINGS[name]) for name in ([answer] if answer else MEANINGS)]
    low, high = min(scale.low for scale in scales), max(scale.high for scale in scales)
    scale = Interval(float(np.exp(np.mean(np.log([scale.value for scale in scales])))), low, high)
    doubts = [] if answer else [doubt.says]
    if high / low > SCALE_WIDTH:
        doubts.append(f"the factor is only known to be in [{low:.2f}, {high:.2f}]: take more frames")
        return Finding(slope, answer, None, tuple(doubts))
    return Finding(slope, answer, scale, tuple(doubts))


def report(answers: Answers, found: Finding) -> str:
    """For people."""
    given, refused = sum(map(len, answers.log_ratio)), sum(answers.tally.refused.values())
    lines = [
        f"{given} answers in {len(answers.log_ratio)} frames; {refused} of {answers.tally.asked} without a value"
    ]
    if found.slope is not None:
        lines.append(f"slope over the ray  {found.slope}    0: depth along z, 1: length of the ray")
    lines.append(f"depth.answer        {found.answer or 'cannot be told'}")
    lines.append(f"depth.scale         {found.scale or 'cannot be told'}")
    return "\n".join(lines)


class _Doubt(NamedTuple):
    """Why depth.answer cannot be told, and whether the answers fit any meaning of it."""

    says: str
    fitting: bool


def _meaning(slope: Interval, log_ray: Sequence[np.ndarray]) -> tuple[str | None, _Doubt]:
    """The value of depth.answer, or None and why it cannot be told."""
    fitting = [name for name, at in MEANINGS.items() if slope.low <= at + NEAR and slope.high >= at - NEAR]
    width = float(np.exp(np.median([np.ptp(ray) for ray in log_ray])))
    if width < NARROW:
        says = (
            f"the field of view is too narrow: the longest rays are only {100 * (width - 1):.1f} % longer than the "
            "shortest, so depth along z and length of the ray are nearly the same; use a wider camera"
        )
        return None, _Doubt(says, True)
    if not fitting:
        says = (
            f"the slope {slope} is neither near 0 (depth along z) nor near 1 (length of the ray): the answers "
            "contradict both; check the intrinsics, and whether the true depth is along z"
        )
        return None, _Doubt(says, False)
    if len(fitting) > 1 or slope.high - slope.low > WIDEST:
        says = f"the slope {slope} does not tell depth along z (0) from length of the ray (1): take more frames"
        return None, _Doubt(says, True)
    return fitting[0], _Doubt("", True)


def _slope(answers: Answers) -> Interval:
    """Of ln(answer / z) over ln r, with ln z beside it and a level for each frame; Huber's robust regression.

    The interval is the delete-one jackknife's over frames (Tukey, 1958; for few groups: Cameron and Miller, Journal
    of Human Resources 2015, where it is CV3) with Student's t, whose degrees of freedom are frames less slopes. Few
    frames may agree by chance, but no better than their answers allow (Huber, Robust Statistics, 1981, 7.6).
    """
    frames = [
        np.stack(columns) for columns in zip(answers.log_ray, answers.log_depth, answers.log_ratio, strict=True)
    ]
    weights = [np.ones(frame.shape[1]) for frame in frames]
    for _ in range(STEPS):
        centred = [frame - (frame @ w / w.sum())[:, None] for frame, w in zip(frames, weights, strict=True)]
        moments = np.array([(c * w) @ c.T for c, w in zip(centred, weights, strict=True)])  # [F, 3, 3]
        solution = _solved(moments.sum(axis=0))
        residuals = [c[2] - solution @ c[:2] for c in centred]
        sigma = max(1e-6, float(np.median(np.abs(np.concatenate(residuals)))) / 0.6745)
        weights = [np.minimum(1.0, HUBER * sigma / np.maximum(np.abs(r), sigma)) for r in residuals]
    value, count = float(solution[0]), len(frames)
    without = _solved(moments.sum(axis=0) - moments)[:, 0]  # [F]: of all frames but one
    between = math.sqrt((count - 1) / count * float(((without - value) ** 2).sum()))
    w, r, x = np.concatenate(weights), np.concatenate(residuals), np.concatenate(centred, axis=1)[:2]
    within = math.sqrt(float(((w * r) ** 2).mean()) * float(np.linalg.pinv(x @ x.T, hermitian=True)[0, 0]))
    # With other answers the weights would change, too: those beyond HUBER would not move the slope at all.
    moving = max(0.5, float((w >= 1.0).mean()))
    quantile = (1.0 + LEVEL) / 2.0
    half = (
        max(student.ppf(quantile, count - len(solution)) * between * w.mean(), norm.ppf(quantile) * within) / moving
    )
    return Interval(value, float(value - half), float(value + half))


def _solved(moments: np.ndarray) -> np.ndarray:
    """Coefficients [..., 2] of least squares from the weighted second moments [..., 3, 3] of both x and y."""
    inverse = np.linalg.pinv(moments[..., :2, :2], rcond=1e-6, hermitian=True)
    return (inverse @ moments[..., :2, 2:])[..., 0]


def _scale(answers: Answers, slope: float) -> Interval:
    """The factor from answers to true depth: the median of the frames' medians.

    The interval reaches from one frame to another, so that the median is between them with LEVEL at least (the sign
    test's). So few frames that all of them may not reach that get what Student's t makes of their spread, if it is
    more; the deviation of a median is that of a mean times √(π / 2).
    """
    frames = np.sort([np.median(ray * slope - y) for y, ray in zip(answers.log_ratio, answers.log_ray, strict=True)])
    count, middle = len(frames), float(np.median(frames))
    beyond = max(0, int(binom.ppf((1.0 - LEVEL) / 2.0, count, 0.5)) - 1)
    low, high = float(frames[beyond]), float(frames[-1 - beyond])
    if not beyond:
        deviation = math.sqrt(math.pi / 2.0 / count) * float(np.std(frames, ddof=1))
        half = float(student.ppf((1.0 + LEVEL) / 2.0, count - 1)) * deviation
        low, high = min(low, middle - half), max(high, middle + half)
    return Interval(math.exp(middle), math.exp(low), math.exp(high))

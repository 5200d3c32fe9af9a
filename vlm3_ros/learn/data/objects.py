"""Questions about regions from what is true of the things in them, every kind of the protocol."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vlm3_ros.camera import to_references
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.learn.data.sample import Exchange, Region
from vlm3_ros.tasks import objects

MARGIN = 0.15  # relative; comparisons closer than this are not asked
APART_M = 0.15  # comparisons of places closer than this are not asked
SHORTEST_M = 0.005  # shorter lengths would be 0.00 m
AHEAD = np.array([0.0, 0.0, 1.0])  # the camera's axis
MIN_LEVEL = 0.3  # length of that axis along the floor, below which "away from the camera" is no direction


def about_regions(
    regions: Sequence[Region], size: tuple[int, int], scale: float, count: int, rng: np.random.Generator
) -> list[Exchange]:
    """``count`` questions at most, kinds and things drawn at random, each kind as often as another.

    ``size`` is that of the image the regions' corners are in; lengths are divided by ``scale``.
    """
    possible = list(_all(regions, size, scale))
    kinds = sorted({kind for kind, _ in possible})
    by_kind = {kind: [exchange for k, exchange in possible if k == kind] for kind in kinds}
    chosen: list[Exchange] = []
    while kinds and len(chosen) < count:
        kind = kinds[rng.integers(len(kinds))]
        chosen.append(by_kind[kind].pop(rng.integers(len(by_kind[kind]))))
        kinds = [kind for kind in kinds if by_kind[kind]]
    return chosen


def _all(regions: Sequence[Region], size: tuple[int, int], scale: float) -> Iterator[tuple[str, Exchange]]:
    """Every question that has a clear answer, with its kind; none about two regions that are written the same."""
    references = [_reference(region, size) for region in regions]
    clear = {ref: region for ref, region in zip(references, regions, strict=True) if references.count(ref) == 1}
    for a, of_a in clear.items():
        for kind, value in (("width", _width(of_a.box)), ("height", float(of_a.box.size[2]))):
            yield from _length(kind, value / scale, a)
        for b, of_b in clear.items():
            if of_a is not of_b:
                yield from _about_two(a, of_a.box, b, of_b.box, scale)


def _about_two(
    a: objects.Region, box_a: Box3D, b: objects.Region, box_b: Box3D, scale: float
) -> Iterator[tuple[str, Exchange]]:
    for kind, compare in COMPARE.items():
        is_true = compare(box_a, box_b)
        if is_true is not None:
            yield kind, _exchange(objects.comparison(kind, a, b), objects.comparison_answer(kind, a, b, is_true))
    offset = box_b.center - box_a.center
    up = box_a.rotation[:, 2]
    level = offset - up * (offset @ up)
    lengths = (offset, level, offset - level)
    for kind, part in zip(("distance", "horizontal distance", "vertical distance"), lengths, strict=True):
        yield from _length(kind, float(np.linalg.norm(part)) / scale, a, b)
    if np.linalg.norm(level) > APART_M and np.linalg.norm(_ahead(up)) > MIN_LEVEL:
        yield "direction", _exchange(objects.direction(a, b), objects.direction_answer(a, b, _clock(level, up)))


def _length(kind: str, metres: float, *regions: objects.Region) -> Iterator[tuple[str, Exchange]]:
    if metres >= SHORTEST_M:
        yield kind, _exchange(objects.length(kind, *regions), objects.length_answer(kind, metres, *regions))


def _exchange(question: objects.Question, answer: str) -> Exchange:
    return Exchange("objects", question.text, answer)


def _reference(region: Region, size: tuple[int, int]) -> objects.Region:
    x1, y1, x2, y2 = to_references(np.reshape(region.corners, (2, 2)), size, objects.BINS).ravel().tolist()
    return x1, y1, x2, y2


def _width(box: Box3D) -> float:
    """The longer horizontal side."""
    return float(max(box.size[:2]))


def _clock(level: np.ndarray, up: np.ndarray) -> int:
    """The direction of a horizontal offset [3] in hours: 12 is away from the camera, 3 to the right."""
    ahead = _ahead(up)
    right = np.cross(ahead, up)
    hours = math.atan2(level @ right, level @ ahead) / (2 * math.pi) * 12
    return round(hours) % 12 or 12


def _ahead(up: np.ndarray) -> np.ndarray:
    """The part of the camera's axis [3] along the floor; its length is the cosine of the camera's pitch."""
    return AHEAD - up * (AHEAD @ up)


def _clearly(difference: float, margin: float) -> bool | None:
    """Whether a difference is positive; None where it is too small to tell."""
    return None if abs(difference) < margin else difference > 0.0


def _ratio(of: Callable[[Box3D], float], sign: int) -> Callable[[Box3D, Box3D], bool | None]:
    return lambda a, b: _clearly(sign * math.log(of(a) / of(b)), MARGIN)


def _agreed(*ways: Callable[[Box3D], float], sign: int) -> Callable[[Box3D, Box3D], bool | None]:
    """Two ways to say it, of which the first has to differ by APART_M: where they disagree it is not asked."""

    def compare(a: Box3D, b: Box3D) -> bool | None:
        first, second = (sign * (of(a) - of(b)) for of in ways)
        return _clearly(first, APART_M) if first * second > 0.0 else None

    return compare


def _right(sign: int) -> Callable[[Box3D, Box3D], bool | None]:
    """In metres to the right, and as seen by the viewer: one farther away may be left in the image all the same."""
    return _agreed(lambda box: float(box.center[0]), lambda box: float(box.center[0] / box.center[2]), sign=sign)


def _behind(sign: int) -> Callable[[Box3D, Box3D], bool | None]:
    """Along the camera's axis, and in distance from the camera."""
    return _agreed(lambda box: float(box.center[2]), lambda box: float(np.linalg.norm(box.center)), sign=sign)


def _higher(sign: int) -> Callable[[Box3D, Box3D], bool | None]:
    return lambda a, b: _clearly(sign * float((a.center - b.center) @ a.rotation[:, 2]), APART_M)


COMPARE: dict[str, Callable[[Box3D, Box3D], bool | None]] = {
    "above": _higher(1),
    "below": _higher(-1),
    "left": _right(-1),
    "right": _right(1),
    "bigger": _ratio(Box3D.volume, 1),
    "smaller": _ratio(Box3D.volume, -1),
    "taller": _ratio(lambda box: float(box.size[2]), 1),
    "shorter": _ratio(lambda box: float(box.size[2]), -1),
    "wider": _ratio(_width, 1),
    "thinner": _ratio(_width, -1),
    "behind": _behind(1),
    "front": _behind(-1),
}

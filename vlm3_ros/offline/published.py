"""What the paper reports for VLM³-4B (arXiv 2605.30561), by the kind of labels.

Depth: δ1. Matching: end-point error in pixels. Pose: AUC at 30°. Objects: accuracies, and the mean relative error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vlm3_ros.offline.sources import SourceError


@dataclass(frozen=True)
class Row:
    """One number of a table: what it is called here and in print, and what the paper has for it, by data set."""

    metric: str
    title: str
    paper: Mapping[str, float] = field(default_factory=dict)
    percent: bool = False


ROWS = {
    "depth": (
        Row(
            "delta1",
            "δ1",
            {
                "Argoverse2": 0.896,
                "DDAD": 0.818,
                "NuScenes": 0.970,
                "ETH3D": 0.810,
                "ScanNet++": 0.976,
                "sunRGBD": 0.867,
                "iBims-1": 0.960,
                "NYUv2": 0.935,
            },
        ),
    ),
    "matching": (
        Row("epe", "EPE; unanswered: the diagonal", {"ETH3D": 15.18, "DTU": 10.71, "TartanAir": 20.21}),
        Row("epe_answered", "EPE of answered ones alone"),
    ),
    "pose": (Row("auc30", "AUC@30, %", {"ETH3D": 93.3, "ScanNet++": 94.7}, percent=True),),
    "objects": (
        Row("qualitative", "qualitative, mean of questions, %", {"SpatialRGPT-Bench": 91.35}, percent=True),
        Row("quantitative", "quantitative, mean of categories, %", {"SpatialRGPT-Bench": 58.51}, percent=True),
        Row("quantitative_questions", "quantitative, mean of questions, %", percent=True),
        Row("length_rel", "relative error, mean of categories"),
        Row("length_rel_questions", "relative error, mean of questions"),
        Row("length_rel_answered", "the same of answered ones alone", {"SpatialRGPT-Bench": 0.35}),
        Row("length_rel_questions_answered", "the same, mean of questions"),
    ),
}
NOTES = {
    "depth": "answers are compared with labels as they are, be they lengths of rays or depth along z, as published",
    "matching": "EPE in thousandths of the image's sides, as the published notebook has it; the paper's is in pixels "
    "of a size that it does not give, so the two are only roughly comparable",
    "pose": "the paper does not say how its AUC is interpolated; here as SuperGlue's, with the larger of both angles",
    "objects": "a length is right within 25 %, a clock direction within one hour; the relative error is that of "
    "lengths, which is 1 at most and for an answer without a value; the paper's 58.51 and 0.35 are the means of its "
    "six and five categories",
}
SPLITS = {  # what of a data set is evaluated, where it is not all of DepthLM's list
    (
        "depth",
        "ScanNet++",
    ): "DepthLM evaluates the last 2 % of its ScanNet++ list and trains on the others: --last 0.02",
}
ALIASES = {"tartanairwb": "TartanAir", "nyudepthv2": "NYUv2", "spatialrgpt": "SpatialRGPT-Bench"}


def known_dataset(kind: str, name: str) -> str:
    """The paper's own spelling of a data set's name, which may be written with other case, hyphens or "pp" for "++".

    Raises SourceError for one that its table does not have: never another set for one that is called alike.
    """
    names = ROWS[kind][0].paper
    plain = _plain(name)
    for known in names:
        if plain == _plain(known) or ALIASES.get(plain) == known:
            return known
    raise SourceError(f"the paper's table for {kind} has no {name!r}; --dataset may be {', '.join(names)}")


def table(kind: str, result: Mapping[str, float], dataset: str) -> str:
    """Our numbers with the paper's beside them: those of a data set, or all where none is named."""
    lines = [f"{kind + (' on ' + dataset if dataset else ''):<36}{'here':>10}    paper (VLM³-4B)"]
    for row in ROWS[kind]:
        value = result[row.metric] * (100.0 if row.percent else 1.0)
        shown = {name: number for name, number in row.paper.items() if dataset in ("", name)}
        paper = ", ".join(f"{number:g}" if dataset else f"{name} {number:g}" for name, number in shown.items())
        lines.append(f"{row.title:<36}{value:>10.4g}    {paper}".rstrip())
    lines.append(f"{'answered':<36}{result['coverage']:>10.1%}")
    notes = [NOTES[kind], *(note for of, note in SPLITS.items() if of == (kind, dataset))]
    return "\n".join([*lines, *(f"({note})" for note in notes)])


def _plain(name: str) -> str:
    return name.lower().replace("+", "p").translate(str.maketrans("", "", " -_."))

"""What is in a model's layers of pictures that it was not trained on, as its auxiliary heads read it there: what
answers do not say of that, questions have yet to learn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from vlm3_ros.geometry import motion
from vlm3_ros.learn.curriculum import Look
from vlm3_ros.learn.data import reading
from vlm3_ros.learn.data.sample import Exchange
from vlm3_ros.learn.looks import SharedPrefix
from vlm3_ros.learn.picture_heads import PictureHeads
from vlm3_ros.learn.places import by_picture
from vlm3_ros.learn.targets import depths_answered, motion_read, places_answered, places_asked
from vlm3_ros.metrics.depth import depth_errors
from vlm3_ros.metrics.matches import match_errors
from vlm3_ros.metrics.poses import pair_errors

Read = tuple[Tensor, Tensor]  # what heads have read, and the truth


@torch.no_grad()
def seen(run: SharedPrefix, heads: PictureHeads, looks: Iterable[Look]) -> dict[str, float]:
    """Measures as "seen task measure", like those of `scores`.

    Depth is that of looks at one picture, at the size at which depth is asked; matches are told from the second
    picture back to the first.
    """
    depths: list[Read] = []
    matches: list[Read] = []
    motions: list[tuple[Tensor, Sequence[Exchange]]] = []
    for look in looks:
        visual = run.see(look.sample.pictures)
        if len(look.sample.pictures) == 1:
            (picture,) = by_picture(visual.sizes, visual.tokens)
            (known,), (scale,) = look.facts.alone, look.facts.scales
            if asked := [exchange for exchange in known if exchange.task == "depth"]:
                depths.append((heads.log_depths(picture, scale, places_asked(asked)).exp(), depths_answered(asked)))
        else:
            prefix = run.read(visual)
            if asked := look.facts.of_both("matching"):
                matches.append((heads.origins(prefix, places_answered(asked)), places_asked(asked)))
            if asked := look.facts.of_both("pose"):
                motions.append((heads.moved(prefix)[0], asked))
    return {f"seen {name}": value for name, value in {**_depth(depths), **_match(matches), **_pose(motions)}.items()}


def _depth(read: Sequence[Read]) -> dict[str, float]:
    if not read:
        return {}
    perceived, true = (torch.cat(parts).cpu().numpy() for parts in zip(*read, strict=True))
    errors = depth_errors(perceived, true)
    return {f"depth {name}": errors[name] for name in ("delta1", "abs_rel")}


def _match(read: Sequence[Read]) -> dict[str, float]:
    if not read:
        return {}
    perceived, true = (torch.cat(parts).cpu().numpy() for parts in zip(*read, strict=True))
    errors = match_errors(perceived, true, (1, 1))
    return {f"matching {name}_percent": 100.0 * errors[name] for name in ("epe", "epe_median")}


def _pose(read: Sequence[tuple[Tensor, Sequence[Exchange]]]) -> dict[str, float]:
    if not read:
        return {}
    perceived = [motion.relative_pose(motion_read(way.cpu())) for way, _ in read]
    true = [motion.relative_pose(reading.motion(asked)) for _, asked in read]
    return {f"pose {name}": value for name, value in pair_errors(perceived, true).items()}

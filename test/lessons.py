"""Training data made in a moment, for the tests of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vlm3_ros.learn.data.build import Plan, build
from vlm3_ros.learn.data.compose import Amounts
from vlm3_ros.learn.data.sample import Exchange, Facts, Sample
from vlm3_ros.learn.data.simulated import SimulatedRooms
from vlm3_ros.learn.scores import question
from vlm3_ros.tasks import depth, grounding, matching, objects, pose
from vlm3_ros.tasks.pose import PoseAnswer
from vlm3_ros.vlm import Picture

LABELS = ("chair", "table", "sofa")


def mixture(folder: Path) -> Path:
    """The mixture file of a small data set of two simulated rooms, one of them held out."""
    amounts = Amounts(depth=12, matching=6, labels=LABELS, image_scale=0.25)
    build(Plan(SimulatedRooms(0, 2), amounts), folder / "rooms")
    path = folder / "mixture.yaml"
    path.write_text("sources:\n  - data: rooms\n    held_out: [room000001]\n")
    return path


def sample(seed: int = 0, pictures: int = 1, things: bool = False) -> Sample:
    """Noise, and questions of the protocol about it."""
    rng = np.random.default_rng(seed)
    shown = tuple(Picture(rng.integers(0, 256, (96, 128, 3), np.uint8), (128, 96)) for _ in range(pictures))
    if pictures == 1:
        asked = depth.questions(rng.integers(0, depth.BINS, (5, 2)).tolist())
        exchanges = [Exchange("depth", q.text, depth.answer(rng.uniform(0.1, 99.0))) for q in asked]
        if things:
            boxes = [grounding.Box2D("table", 100, 200, 500, 900), grounding.Box2D("sofa", 300, 300, 400, 500)]
            for label in LABELS:
                named = grounding.answer([box for box in boxes if box.label == label])
                exchanges.append(Exchange("grounding", grounding.question(label).text, named))
            table, sofa = (100, 200, 500, 900), (300, 300, 400, 503)
            bigger = objects.comparison("bigger", table, sofa).text
            exchanges.append(Exchange("objects", bigger, objects.comparison_answer("bigger", table, sofa, True)))
            width = objects.length("width", table).text
            exchanges.append(Exchange("objects", width, objects.length_answer("width", 1.23, table)))
    else:
        asked = matching.questions(rng.integers(0, matching.BINS, (4, 2)).tolist())
        exchanges = [Exchange("matching", q.text, matching.answer(*rng.integers(0, 1000, 2))) for q in asked]
        answers = pose.answers(PoseAnswer(12.3, (-10.0, 3.3, 0.4), (0.6, 0.0, -0.8), 0.45))
        exchanges += [Exchange("pose", q.text, a) for q, a in zip(pose.QUESTIONS, answers, strict=True)]
    return Sample(f"noise-{seed}", "noise", shown, tuple(exchanges))


def facts(of: Sample) -> Facts:
    """What is known of the pictures of a sample: of those of a pair, each for itself, what is known of any one."""
    if len(of.pictures) == 1:
        return Facts((of.exchanges,), (1.0,), ())
    first, second = (sample(seed, things=True).exchanges for seed in (0, 1))
    return Facts((first, second), (1.0, 0.75), of.exchanges)


__all__ = ["LABELS", "facts", "mixture", "question", "sample"]

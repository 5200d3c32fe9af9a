"""Which look comes when, and what is asked in it: decided by the seed and its number alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlm3_ros.learn.data.mixture import Mixture
from vlm3_ros.learn.data.sample import Exchange, Facts, Sample
from vlm3_ros.learn.data.shards import DataError, DataSet
from vlm3_ros.learn.recipe import BRIEFER, Recipe

OF_KIND = {"single": {"depth", "objects", "grounding"}, "matching": {"matching"}, "pose": {"pose"}}  # tasks
KINDS = tuple(OF_KIND)


@dataclass(frozen=True, eq=False)
class Look:
    """A sample, without questions where there is only to see, all that is known of its pictures, and whether what is
    constant in its text is left out."""

    sample: Sample
    facts: Facts
    is_brief: bool


class Curriculum:
    """The looks of a training run in order: a map-style data set, so that a run can go on in its middle.

    A kind of look is drawn by the recipe's shares, then a data set by the mixture's weights, then a sample.
    Raises DataError where there is nothing of what the recipe asks for.
    """

    def __init__(self, recipe: Recipe, mixture: Mixture):
        self._recipe = recipe
        parts = {kind: _of_kind(mixture, _taught(recipe, kind)) for kind in KINDS}
        self._parts = {kind: found for kind, found in parts.items() if found and getattr(recipe.shares, kind) > 0.0}
        if not self._parts:
            raise DataError(f"{mixture.path} holds nothing of what the recipe's shares and questions ask for")
        self._shares = _normalized([getattr(recipe.shares, kind) for kind in self._parts])

    def __len__(self) -> int:
        return self._recipe.steps * self._recipe.looks

    def __getitem__(self, number: int) -> Look:
        rng = np.random.default_rng([self._recipe.seed, number])
        parts = list(self._parts.values())[rng.choice(len(self._shares), p=self._shares)]
        data, samples, _ = parts[rng.choice(len(parts), p=_normalized([weight for *_, weight in parts]))]
        is_brief = bool(rng.random() < self._brief(number / len(self)))
        which = samples[rng.integers(len(samples))]
        sample = some_questions(data[which], self._recipe, rng, is_brief)
        if rng.random() >= self._recipe.asked:
            sample = replace(sample, exchanges=())
        return Look(sample, data.facts(which), is_brief)

    def _brief(self, done: float) -> float:
        """The share of brief looks when so much of a run is done: it falls evenly, and its mean is the recipe's."""
        mean = self._recipe.brief
        return mean + (1.0 - 2.0 * done) * min(mean, 1.0 - mean)


def held_out(recipe: Recipe, mixture: Mixture) -> list[Look]:
    """The looks that a model is measured on during training: of each kind that it is taught, evenly spread."""
    rng = np.random.default_rng(recipe.seed)
    chosen = []
    for kind in KINDS:
        tasks = _taught(recipe, kind)
        listed = [(part.data, i) for part in mixture.sources for i in part.test if part.data.tasks[i] & tasks]
        if listed and getattr(recipe.shares, kind) > 0.0:
            spread = np.linspace(0, len(listed) - 1, min(recipe.measured_looks, len(listed))).astype(int)
            for data, i in (listed[s] for s in spread):
                chosen.append(Look(some_questions(data[i], recipe, rng), data.facts(i), is_brief=False))
    return chosen


def some_questions(sample: Sample, recipe: Recipe, rng: np.random.Generator, is_brief: bool = False) -> Sample:
    """A sample with as many of its questions as the recipe says, drawn at random."""
    by_task: dict[str, list[Exchange]] = {}
    for exchange in sample.exchanges:
        by_task.setdefault(exchange.task, []).append(exchange)
    chosen: list[Exchange] = []
    for task, exchanges in by_task.items():
        count = getattr(recipe.questions, task) * (BRIEFER if is_brief else 1)
        chosen += [exchanges[i] for i in np.sort(rng.permutation(len(exchanges))[:count])]
    return replace(sample, exchanges=tuple(chosen))


def _taught(recipe: Recipe, kind: str) -> set[str]:
    """The tasks for which looks of a kind are taken."""
    return {task for task in OF_KIND[kind] if recipe.asked == 0.0 or getattr(recipe.questions, task) > 0}


def _of_kind(mixture: Mixture, tasks: set[str]) -> list[tuple[DataSet, list[int], float]]:
    """The samples with some of these tasks that are trained on, in each data set that has any, and its weight."""
    found = []
    for part in mixture.sources:
        samples = [i for i in part.train if part.data.tasks[i] & tasks]
        if samples:
            found.append((part.data, samples, part.weight))
    return found


def _normalized(weights: Sequence[float]) -> np.ndarray:
    return np.array(weights) / sum(weights)

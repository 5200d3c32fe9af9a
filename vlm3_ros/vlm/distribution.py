"""What a number in an answer could have been."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Distribution:
    """The values a number could have had with their probabilities, in rising order of value.

    The probabilities sum to at most 1; what is missing was too unlikely to follow up. At depth edges there are two
    groups of values with nothing between them: there is no mean here on purpose, it would lie in the air between.
    """

    values: np.ndarray  # [K]
    probabilities: np.ndarray  # [K]

    @property
    def mass(self) -> float:
        """How much of the probability these values hold, at most 1."""
        return float(self.probabilities.sum())

    def quantile(self, q: float) -> float:
        """The first value with at least the share ``q`` of the mass at or below it; NaN where there are no values."""
        if not self.values.size:
            return float("nan")
        cumulative = np.cumsum(self.probabilities)
        return float(self.values[np.searchsorted(cumulative, q * cumulative[-1] * (1.0 - 1e-12))])

    def median(self) -> float:
        """The value in the middle of the mass."""
        return self.quantile(0.5)

    def spread(self) -> float:
        """Half the width of the central 68 % of the mass: the standard deviation, were this a normal distribution."""
        return 0.5 * (self.quantile(0.84) - self.quantile(0.16))

    def between(self, low: float, high: float) -> float:
        """The mass of the values in [low, high]."""
        return float(self.probabilities[(low <= self.values) & (self.values <= high)].sum())

    def groups(self, gap: float = 0.0, ratio: float = 0.0) -> list[Distribution]:
        """Groups of values; neighbours a < b stay together where b − a ≤ gap + ratio · |a|."""
        if not self.values.size:
            return []
        steps = np.diff(self.values)
        cuts = np.flatnonzero(steps > gap + ratio * np.abs(self.values[:-1])) + 1
        pairs = zip(np.split(self.values, cuts), np.split(self.probabilities, cuts), strict=True)
        return [Distribution(values, probabilities) for values, probabilities in pairs]

    def mode(self, gap: float = 0.0, ratio: float = 0.0) -> Distribution:
        """The heaviest of the `groups`; this distribution itself where there are no values."""
        return max(self.groups(gap, ratio), key=lambda group: group.mass, default=self)

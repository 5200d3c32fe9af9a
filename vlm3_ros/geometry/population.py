"""Draws from a posterior with several narrow peaks: importance sampling that closes in on them round by round.

Population Monte Carlo (Cappé et al., JCGS 2004): each round draws around some of the draws before and weighs them by
their posterior against the density they were drawn with. In the first rounds answers are allowed a larger error than
they have, and parents are chosen by a flattened weight (tempering), so that a peak that is hard to hit is not lost to
one that is easy.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import logsumexp

COOLING = 0.75  # of the allowed error, a round
LAST = 6  # rounds, at most, at the error that answers have
SHRINK = 0.7  # of the steps, in each of these
EFFECTIVE = 50  # draws that weights amount to: flattened ones at least, and exact ones where that is enough

LogPosterior = Callable[[np.ndarray, float], np.ndarray]  # of draws [H, D] where an error is allowed → [H]


def close_in(
    first: np.ndarray,
    log_q: np.ndarray,
    log_posterior: LogPosterior,
    steps: Callable[[float], np.ndarray],
    allowed: float,
    exact: float,
    count: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Draws [H, D] and log weights [H], from ``first`` draws [F, D] with log density ``log_q`` [F].

    The allowed error falls from ``allowed`` to ``exact``; ``steps`` [V, D] are the standard deviations of children
    about their parents for each, of several kinds (some explore, some refine), and ``count`` how many draws a round
    has. All log weights are -inf where none is possible.
    """
    rng = np.random.default_rng(0)
    x, log_weight = first, log_posterior(first, allowed) - log_q
    cooler = allowed * COOLING ** np.arange(1, 1 + math.ceil(math.log(exact / allowed) / math.log(COOLING)))
    last = [(exact, SHRINK**k) for k in range(LAST)]
    is_exact = allowed <= exact
    for error, shrunk in [*((error, 1.0) for error in cooler[:-1]), *last]:
        if not np.isfinite(log_weight).any() or (is_exact and _effective(weights(log_weight)) >= EFFECTIVE):
            break
        allowed, is_exact = error, error <= exact
        parents = x[np.unique(rng.choice(len(x), count // 4, p=flattened(log_weight)))]
        step = steps(allowed) * shrunk
        kind = rng.integers(0, len(step), count - len(parents))
        near = parents[rng.integers(0, len(parents), len(kind))]
        x = np.concatenate([parents, near + rng.normal(size=near.shape) * step[kind]])
        log_q = _log_density(x, parents, step)
        log_weight = log_posterior(x, allowed) - log_q
    return x, log_weight


def _log_density(x: np.ndarray, parents: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Log density [H], but for a constant, of children of ``parents`` [K, D] by all kinds of ``steps`` [V, D]."""
    parts = [-0.5 * (((x[:, None] - parents) / step) ** 2).sum(axis=2) - np.log(step).sum() for step in steps]
    return logsumexp(np.concatenate(parts, axis=1), axis=1)


def weights(log_weight: np.ndarray) -> np.ndarray:
    """Weights [H] that sum to 1."""
    weight = np.exp(log_weight - log_weight.max())
    return weight / weight.sum()


def _effective(weight: np.ndarray) -> float:
    """How many equal draws weights that sum to 1 amount to."""
    return float(1.0 / (weight**2).sum())


def flattened(log_weight: np.ndarray) -> np.ndarray:
    """Weights to the power of the largest exponent up to 1 that leaves `EFFECTIVE` draws."""
    low, high = 0.0, 1.0
    possible = np.isfinite(log_weight)
    finite, weight = log_weight[possible], np.zeros(len(log_weight))
    for _ in range(12):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if _effective(weights(middle * finite)) >= EFFECTIVE else (low, middle)
    weight[possible] = weights(low * finite)
    return weight

"""Damaged inputs, by the ten thousand: whatever is wrong with a file or an answer must end in a sentence.

    python -m benchmarks.fuzz [KIND ...] [--count N] [--seed N] [--out FOLDER]

Each kind of input is a module here with two functions:

    mutants(seed, folder)   an endless iterator of damaged inputs, the same for the same seed; files go to folder
    attempt(mutant)         gives one to the product; what came out if that was no typed error and no result, or None

A run goes on where one with the same seed and folder stopped. It ends with status 1 if anything was found: an
exception that is not the product's own, no end within some seconds, or memory without bounds.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol


class Mutant(Protocol):
    """A damaged input."""

    name: str  # says what was damaged, and how


class Kind(Protocol):
    """A module of this package."""

    def mutants(self, seed: int, folder: Path) -> Iterator[Mutant]: ...

    def attempt(self, mutant: Mutant) -> str | None: ...

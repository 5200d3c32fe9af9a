"""The command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.fuzz.harness import fuzz

KINDS = ("recordings", "labels", "checkpoints", "answers")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--count", type=int, default=25_000, help="mutants of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=Path("results/fuzz"), help="what was found (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if unknown := {*arguments.kinds} - {*KINDS}:
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = [fuzz(kind, arguments.count, arguments.seed, arguments.out) for kind in arguments.kinds or KINDS]
    return 1 if any(found) else 0


if __name__ == "__main__":
    sys.exit(main())

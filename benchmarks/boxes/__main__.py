"""How well 3D boxes fit the truth, by how noisy a model's answers are, as one table.

python -m benchmarks.boxes [--rooms 8] [--views 12] [--kinds] [--recorded FOLDER…]

Rooms of the benchmark's own are seen by cameras of several fields of view, heights and pitches; a model that knows
the truth answers with noise, through the public pipeline. Beside the product stands `baseline`: the depth in the
middle of the 2D box, and the 2D box's size at that depth, with the true direction of gravity given. ``--recorded``
measures recordings with truth boxes instead (`recorded`).
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.boxes import recorded
from benchmarks.boxes.measure import CASES, Score, by_kind, measured, table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=8)
    parser.add_argument("--views", type=int, default=12, help="of each room")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--kinds", action="store_true", help="a second table by kind of thing")
    parser.add_argument("--recorded", type=Path, nargs="+", metavar="FOLDER", help="recordings with truth boxes")
    arguments = parser.parse_args()
    if arguments.recorded:
        recorded.report(arguments.recorded)
        return
    scores: dict[str, Sequence[Score]] = {
        case: measured(CASES[case], arguments.rooms, arguments.views) for case in arguments.cases
    }
    print(table(scores))
    if arguments.kinds:
        print("\n" + by_kind(scores))


if __name__ == "__main__":
    main()

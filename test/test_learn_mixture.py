"""Mixtures: nothing is both trained on and held out, and what cannot be used is refused."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from learning import recording, tour, write_recording

from vlm3_ros.learn.data.build import Plan, build
from vlm3_ros.learn.data.compose import Amounts
from vlm3_ros.learn.data.mixture import Mixture
from vlm3_ros.learn.data.shards import DataError
from vlm3_ros.learn.data.simulated import SimulatedRooms

FEW = Amounts(depth=10, matching=4, objects=4, image_scale=0.25)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data sets: rooms 0 to 2, rooms 2 and 3, a walk, and the same walk as another recording."""
    root = tmp_path_factory.mktemp("sets")
    for name, first, count in (("rooms", 0, 3), ("more", 2, 2)):
        build(Plan(SimulatedRooms(first, count), FEW), root / name)
    for name in ("walk", "copy"):
        recorded = write_recording(root / "recorded" / name, tour(6) if name == "walk" else tour(6)[3:])
        build(Plan(recording(recorded), FEW), root / name)
    build(Plan(SimulatedRooms(9, 1), replace(FEW, image_scale=0.5)), root / "large")
    build(Plan(SimulatedRooms(9, 1), replace(FEW, ray=False)), root / "z")
    return root


def mixture(folder: Path, *sources: str) -> Mixture:
    path = folder / "mixture.yaml"
    path.write_text("\n".join(["sources:", *(f"  - {{{source}}}" for source in sources)]))
    return Mixture(path)


def test_what_is_held_out_is_not_trained_on(folder):
    parts = mixture(folder, "data: rooms, weight: 3, held_out: [room000001]", "data: walk").sources
    for part, (trained_on, held_out) in zip(
        parts, (({"room000000", "room000002"}, {"room000001"}), ({"walk"}, set())), strict=True
    ):
        assert {part.data[i].scene for i in part.train} == trained_on
        assert {part.data[i].scene for i in part.test} == held_out
        assert sorted(part.train + part.test) == list(range(len(part.data)))


# ------------------------------------------------------------------------------------------------------------- leaks


def test_a_scene_in_two_data_sets_is_held_out_of_both_or_none(folder):
    with pytest.raises(DataError, match=r"a scene is both trained on and held out \(1 in all\).*room000002.*more"):
        mixture(folder, "data: rooms", "data: more, held_out: ['*']")
    assert all(
        p.test for p in mixture(folder, "data: rooms, held_out: [room000002]", "data: more, held_out: ['*']").sources
    )


def test_a_recording_under_another_name_is_found_by_its_pictures(folder):
    with pytest.raises(DataError, match=r"a picture is both trained on and held out \(3 in all\).*'walk'.*'copy'"):
        mixture(folder, "data: walk", "data: copy, held_out: [copy]")


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["data: nowhere"], "no training data"),
        (["weight: 2"], "needs the folder"),
        (["data: rooms, weight: 0"], "above 0"),
        (["data: rooms, weight: much"], "above 0"),
        (["data: rooms, held_out: room000001"], "must be a list"),
        (["data: rooms, held_out: [kitchen]"], "no scene kitchen; it has room000000"),
        (["data: rooms, held: [room000001]"], "has 'held'; what may be there is data, held_out, weight"),
        (["data: rooms", "data: large"], "different image_scale"),
        (["data: rooms", "data: z"], "different depth.answer"),
        ([], "needs a list `sources`"),
    ],
)
def test_what_cannot_be_used_is_refused(folder, sources, message):
    with pytest.raises(DataError, match=message):
        mixture(folder, *sources)


def test_check_on_the_command_line(folder):
    path = folder / "mixture.yaml"
    for sources, status, said in (
        (
            ["data: rooms, weight: 3, held_out: [room000001]", "data: walk"],
            0,
            r"75\.0%(.|\n)*25\.0%(.|\n)*No scene and no",
        ),
        (["data: walk", "data: rooms, held_out: ['*']"], 0, r"100\.0%(.|\n)* 0\.0%"),
        (["data: walk", "data: copy, held_out: ['*']"], 1, "both trained on and held out"),
    ):
        path.write_text("\n".join(["sources:", *(f"  - {{{source}}}" for source in sources)]))
        command = [sys.executable, "-m", "vlm3_ros.cli", "data", "check", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        assert done.returncode == status
        assert re.search(said, done.stdout + done.stderr)

"""Mixtures: shares by weight, every sample in its turn, and nothing both trained on and held out."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from learning import recording, tour, write_recording

from vlm3_ros.learn.data.build import Plan, build
from vlm3_ros.learn.data.compose import Amounts
from vlm3_ros.learn.data.mixture import Drawn, Mixture
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


def mixture(folder: Path, *sources: str, top: str = "seed: 4") -> Mixture:
    path = folder / "mixture.yaml"
    path.write_text("\n".join([top, "sources:", *(f"  - {{{source}}}" for source in sources)]))
    return Mixture(path)


def test_what_is_held_out_is_not_drawn(folder):
    mixed = mixture(folder, "data: rooms, weight: 3, held_out: [room000001]", "data: walk")
    train = mixed.train()
    assert {s.scene for s in map(train.__getitem__, range(len(train)))} == {"room000000", "room000002", "walk"}
    held_out = mixed.held_out
    assert {held_out[i].scene for i in range(len(held_out))} == {"room000001"}
    assert len(train) + len(held_out) == sum(len(part.data) for part in mixed.sources)
    assert len({held_out[i].key for i in range(len(held_out))}) == len(held_out)
    with pytest.raises(IndexError):
        held_out[len(held_out)]


def test_weights_are_shares_of_what_is_drawn(folder):
    train = mixture(folder, "data: rooms, weight: 3", "data: walk").train(length=200)
    drawn = Counter(train[i].scene == "walk" for i in range(200))
    assert drawn == {False: 150, True: 50}


def test_order_is_that_of_seed_and_epoch(folder):
    def keys(seed: int, epoch: int) -> list[str]:
        train = mixture(folder, "data: rooms", "data: walk", top=f"seed: {seed}").train(epoch, length=40)
        return [train[i].key for i in range(40)]

    assert keys(0, 0) == keys(0, 0)
    assert len({tuple(keys(seed, epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))}) == 3


@given(
    st.lists(st.tuples(st.integers(1, 9), st.floats(0.01, 100)), min_size=1, max_size=5),
    st.integers(0, 60),
    st.integers(0, 9),
)
def test_shares_are_exact_and_samples_take_turns(parts, length, seed):
    """With lists of numbers for data sets."""
    data = [[100 * k + i for i in range(count)] for k, (count, _) in enumerate(parts)]
    of = [(numbers, range(len(numbers)), weight) for numbers, (_, weight) in zip(data, parts, strict=True)]
    drawn = Drawn(of, [seed], length)  # type: ignore[arg-type]
    values = Counter(drawn[i] for i in range(len(drawn)))
    assert values.total() == len(drawn) == length
    total = sum(weight for _, weight in parts)
    for numbers, (_, weight) in zip(data, parts, strict=True):
        times = [values[number] for number in numbers]
        assert abs(sum(times) - length * weight / total) < 1.0
        assert max(times) - min(times) <= 1


# ------------------------------------------------------------------------------------------------------------- leaks


def test_a_scene_in_two_data_sets_is_held_out_of_both_or_none(folder):
    with pytest.raises(DataError, match=r"a scene is both trained on and held out \(1 in all\).*room000002.*more"):
        mixture(folder, "data: rooms", "data: more, held_out: ['*']")
    assert len(mixture(folder, "data: rooms, held_out: [room000002]", "data: more, held_out: ['*']").held_out)


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
        (["data: rooms, weight: 3, held_out: [room000001]", "data: walk"], 0, "No scene and no picture"),
        (["data: walk", "data: copy, held_out: ['*']"], 1, "both trained on and held out"),
    ):
        path.write_text("\n".join(["sources:", *(f"  - {{{source}}}" for source in sources)]))
        command = [sys.executable, "-m", "vlm3_ros.cli", "data", "check", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        assert done.returncode == status
        assert said in done.stdout + done.stderr

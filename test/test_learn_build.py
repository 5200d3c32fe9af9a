"""Building data sets and reading them: the same bytes whatever happens, and all that was made."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from learning import recording, tour, write_recording

from vlm3_ros.learn.data.build import Plan, build, fingerprint
from vlm3_ros.learn.data.compose import Amounts, compose
from vlm3_ros.learn.data.shards import FORMAT, DataError, DataSet
from vlm3_ros.learn.data.simulated import SimulatedRooms

FEW = Amounts(depth=20, matching=8, objects=6, labels=("chair", "table"), image_scale=0.25)
PATHS = os.pathsep.join(map(str, (Path(__file__).parents[1], Path(__file__).parent)))
KILLED = """
import sys
from pathlib import Path
from vlm3_ros.learn.data.build import Plan, build
from vlm3_ros.learn.data.simulated import SimulatedRooms
from test_learn_build import FEW
if __name__ == "__main__":
    build(Plan(SimulatedRooms(0, 10), FEW, groups_per_shard=2), Path(sys.argv[1]), workers=2)
"""


def rooms(count: int = 2, seed: int = 0, groups_per_shard: int = 1) -> Plan:
    return Plan(SimulatedRooms(0, count), FEW, seed, groups_per_shard)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "rooms"
    build(rooms(), folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".tar", ".json")}


def test_the_same_plan_makes_the_same_bytes(made, tmp_path):
    build(rooms(), tmp_path / "again", workers=2)
    assert contents(tmp_path / "again") == contents(made)
    build(rooms(seed=1), tmp_path / "other")
    other = contents(tmp_path / "other")
    assert other.keys() == contents(made).keys()
    assert other["shard-00000.tar"] != contents(made)["shard-00000.tar"]


def test_a_recording_makes_the_same_bytes(tmp_path):
    folder = write_recording(tmp_path / "walk", tour(8))
    for name in ("a", "b"):
        build(Plan(recording(folder), FEW), tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    manifest = DataSet(tmp_path / "a").manifest
    assert manifest["left_out"] == dict(recording(folder).left_out)
    assert manifest["samples"]["images"] == 8


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_and_ends_with_the_same_bytes(tmp_path):
    plan = rooms(10, groups_per_shard=2)
    build(plan, tmp_path / "whole", workers=2)
    folder, kept = tmp_path / "killed", set()
    for patience in (1, 2, 4):
        command = [sys.executable, "-c", KILLED, folder]
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": PATHS}, start_new_session=True)
        while process.poll() is None and len(list(folder.glob("shard-*.json"))) < patience:
            time.sleep(0.01)
        process.kill()
        process.wait()
        for _ in range(500):
            if not _alive(process.pid):
                break
            time.sleep(0.01)
        assert not _alive(process.pid)  # nobody is left who still writes
        assert kept <= contents(folder).keys()
        kept = set(contents(folder))
    assert not (folder / "manifest.json").exists()
    before = {name: (folder / name).stat().st_mtime_ns for name in kept if name.endswith(".tar")}
    build(plan, folder)
    assert contents(folder) == contents(tmp_path / "whole")
    finished = {name.replace(".json", ".tar") for name in kept if name.startswith("shard") and name.endswith(".json")}
    assert finished
    assert all((folder / name).stat().st_mtime_ns == before[name] for name in finished)  # not made again


def _alive(session: int) -> list[int]:
    """The processes of a session that are running."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, _, _, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            except OSError:
                continue
            if int(its_session) == session and state != "Z":
                found.append(int(entry.name))
    return found


def test_a_worker_that_is_ended_from_outside_is_told_of(tmp_path, monkeypatch):
    monkeypatch.setattr("vlm3_ros.learn.data.build._start", _die)
    with pytest.raises(DataError, match="the same command goes on"):
        build(rooms(), tmp_path / "data")


def _die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_another_plan_is_refused(made):
    with pytest.raises(DataError, match="another data set"):
        build(rooms(seed=5), made)
    build(rooms(), made)


def test_two_cannot_build_in_one_folder(tmp_path):
    (tmp_path / "data").mkdir()
    with (tmp_path / "data" / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another process is building"):
            build(rooms(), tmp_path / "data")


def test_nothing_to_learn_from_is_told_with_reasons(tmp_path):
    folder = write_recording(tmp_path / "walk", tour(3))
    for i in range(3):
        (folder / f"rgb/{i}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3 x image that cannot be read"):
        build(Plan(recording(folder), FEW), tmp_path / "data")


# ----------------------------------------------------------------------------------------------------------- reading


def test_samples_come_back(made):
    data = DataSet(made)
    (record, *_) = list(_records(rooms()))
    assert data.image_scale == 0.25
    assert [s.key for s in data][: len(record.samples)] == [s.key for s in record.samples]
    assert data[-1].key == data[len(data) - 1].key
    with pytest.raises(IndexError):
        data[len(data)]
    for written, read in zip(record.samples, data, strict=False):
        assert (read.scene, read.exchanges) == (written.scene, written.exchanges)
        for a, b in zip(written.pictures, read.pictures, strict=True):
            assert a.size == b.size
            assert np.abs(a.pixels.astype(float) - b.pixels).mean() < 3.0  # JPEG
    assert list(data.exchanges()) == [sample.exchanges for sample in data]
    tasks = [e.task for s in data for e in s.exchanges]
    assert data.manifest["exchanges"] == {task: tasks.count(task) for task in sorted(set(tasks))}
    assert data.scenes.keys() == {"room000000", "room000001"}
    assert sorted(i for indices in data.scenes.values() for i in indices) == list(range(len(data)))
    assert all(data[i].scene == scene for scene, indices in data.scenes.items() for i in indices)


def test_of_the_pictures_of_a_sample_all_is_known_that_any_sample_of_its_record_asks(made):
    data = DataSet(made)
    (record, *_) = list(_records(rooms()))
    exchanges = {sample.key.removeprefix(f"{record.key}-"): sample.exchanges for sample in record.samples}
    numbers = {sample.key.removeprefix(f"{record.key}-"): i for i, sample in enumerate(record.samples)}
    first, second, _ = next(key for key in numbers if key.endswith("-matching")).split("-")
    alone = data.facts(numbers[first])
    assert (alone.alone, alone.scales, alone.together) == ((exchanges[first],), (1.0,), ())
    assert 0.7 < data.facts(numbers[f"{first}-{second}-pose"]).scales[0] < 0.8  # 750 / 1000 px, rounded
    for task in ("matching", "pose"):
        facts = data.facts(numbers[f"{first}-{second}-{task}"])  # of pictures at sizes of their own
        for found, asked in zip(facts.alone, (exchanges[first], exchanges[second]), strict=True):
            assert found == tuple(e for e in asked if e.task != "objects") != asked
        assert facts.of_both("matching") == list(exchanges[f"{first}-{second}-matching"])
        assert facts.of_both("pose") == (list(exchanges[f"{first}-{second}-pose"]) if task == "pose" else [])
    back = data.facts(numbers[f"{second}-{first}-pose"])
    assert back.alone == facts.alone[::-1]
    assert back.of_both("matching") == list(exchanges[f"{second}-{first}-matching"])


def _records(plan: Plan):
    for index, group in plan.groups(0):
        yield compose(
            group, f"{plan.source.name}-{index:06d}", plan.amounts, np.random.default_rng([plan.seed, index])
        )


def test_pictures_have_fingerprints_of_their_pixels(tmp_path):
    folder = write_recording(tmp_path / "walk", tour(4))
    build(Plan(recording(folder), FEW), tmp_path / "data")
    assert DataSet(tmp_path / "data").pictures == {"walk": {fingerprint(view.image) for view in tour(4)}}


def test_data_sets_of_another_version_are_refused(made, tmp_path):
    for name, content in contents(made).items():
        (tmp_path / name).write_bytes(content)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    older = {name: value for name, value in manifest.items() if name not in ("format", "records")}
    for changed in ({**manifest, "format": FORMAT - 1}, older):
        (tmp_path / "manifest.json").write_text(json.dumps(changed))
        with pytest.raises(DataError, match="build it again"):
            DataSet(tmp_path)


def test_to_open_a_data_set_no_shard_is_read(made, tmp_path):
    for name, content in contents(made).items():
        (tmp_path / name).write_bytes(content if name == "manifest.json" else b"")
    assert len(DataSet(tmp_path)) == len(DataSet(made))
    (tmp_path / "shard-00001.tar").unlink()
    with pytest.raises(DataError, match=r"shard-00001\.tar"):
        DataSet(tmp_path)


@pytest.mark.parametrize("manifest", ["", "{}", f'{{"format": {FORMAT}, "shards": ["missing.tar"]}}'])
def test_what_is_no_data_set_is_refused(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(DataError, match="no training data"):
        DataSet(tmp_path)


@pytest.mark.parametrize("name", ["manifest.json", "shard-00000.tar"])
def test_damaged_bytes_of_a_data_set_are_a_data_error(made, tmp_path, rng, name):
    """Wherever they are; pixels may be others without a word."""
    shutil.copytree(made, tmp_path / "damaged")
    data, found = (made / name).read_bytes(), []
    for at in rng.integers(len(data), size=20):
        damaged = bytearray(data)
        damaged[at : at + 600] = rng.bytes(len(damaged[at : at + 600]))
        (tmp_path / "damaged" / name).write_bytes(damaged)
        try:
            samples = DataSet(tmp_path / "damaged")
            for i in range(0, len(samples), 1 + len(samples) // 4):
                samples.facts(i), samples[i]
        except DataError as error:
            found.append(str(error))
    assert len(found) > 2
    assert all(found)

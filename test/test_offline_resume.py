"""A run that was stopped goes on, and gives what it would have given."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import checkpoints
import doubles
import pytest
import ros
from rosbags.rosbag2 import Reader
from servers import Echo, Reply, said, serving
from test_offline_run import TASKS, bag, settings, vlm3

from vlm3_ros.offline.mcap import McapWriter, kept
from vlm3_ros.offline.types import typestore
from vlm3_ros.tasks import depth
from vlm3_ros.vlm import ModelError

__all__ = ["bag"]  # a fixture


@pytest.mark.parametrize(
    "fault", [ModelError("the server is gone"), RuntimeError("CUDA error: an illegal memory access"), MemoryError()]
)
def test_model_that_fails_stops_the_run_and_the_same_command_goes_on(bag, tmp_path, capsys, request, fault):
    wall = doubles.shared(request.node.name)
    assert vlm3("run", bag, "--out", tmp_path / "whole", *settings(request.node.name)) == 0
    command = ("run", bag, "--out", tmp_path / "out", *settings(request.node.name))
    for _ in range(4):
        already = wall.in_hand
        look, looks = wall.look, []

        def failing(pictures: Any, look: Any = look, looks: list = looks) -> Any:
            looks.append(1)
            if len(looks) > 4:
                raise fault
            return look(pictures)

        wall.look = failing  # type: ignore[method-assign]
        assert vlm3(*command) == 1
        wall.look = look  # type: ignore[method-assign]
        assert wall.in_hand > already
        assert "goes on" in capsys.readouterr().err
        assert not (tmp_path / "out" / "bag" / "metadata.yaml").exists()
    assert vlm3(*command) == 0
    assert_same(tmp_path / "whole", tmp_path / "out")


def test_interrupted_run_says_how_to_go_on(bag, tmp_path, capsys, monkeypatch, request):
    command = ("run", bag, "--out", tmp_path / "out", *settings(request.node.name))

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(doubles.shared(request.node.name), "look", interrupted)
        assert vlm3(*command) == 130
    assert "goes on where it stopped" in capsys.readouterr().err
    assert vlm3(*command) == 0


def test_finished_run_is_left_alone_and_another_one_is_refused(bag, tmp_path, capsys, request):
    out = tmp_path / "out"
    assert vlm3("run", bag, "--out", out, *settings(request.node.name)) == 0
    before = (out / "bag" / "bag.mcap").stat()
    assert vlm3("run", bag, "--out", out, *settings(request.node.name)) == 0
    assert (out / "bag" / "bag.mcap").stat() == before
    assert vlm3("run", bag, "--out", out, *settings(request.node.name, "depth.points=40")) == 1
    assert "other settings (depth.points: 432 there, 40 now)" in capsys.readouterr().err
    assert sorted(p.name for p in out.iterdir()) == ["bag", "config.yaml", "frames.csv", "run.json", "trajectory.txt"]


def test_run_with_a_damaged_note_is_refused(bag, tmp_path, capsys, request):
    words = ("run", bag, "--out", tmp_path / "out", *settings(request.node.name))
    assert vlm3(*words) == 0
    (tmp_path / "out" / "bag" / "metadata.yaml").unlink()
    file = tmp_path / "out" / "bag" / "bag.mcap"
    whole = file.read_bytes()
    for note, other in ((b'{"record"', b'{"r\xffcord"'), (b'{"record"', b'["record"'), (b'"stamp"', b'"stomp"')):
        file.write_bytes(whole.replace(note, other, 1))
        assert vlm3(*words) == 1
        assert "is damaged, so that it cannot be gone on with" in capsys.readouterr().err


def test_run_of_other_weights_of_the_same_name_is_refused(bag, tmp_path, capsys):
    words = [w for s in ("node.tasks=[depth]", "depth.points=16") for w in ("--set", s)]
    command = ("run", bag, "--out", tmp_path / "out", "--model", tmp_path / "model", *words)
    checkpoints.make(tmp_path / "model", seed=0)
    for _ in range(2):
        assert vlm3(*command) == 1  # a random checkpoint's answers have no value
        assert "6 of 6 frames perceived" in capsys.readouterr().out
    checkpoints.make(tmp_path / "model", seed=1)
    assert vlm3(*command) == 1
    assert f"other weights ({tmp_path / 'model'}: " in capsys.readouterr().err


@pytest.mark.parametrize("part", ["_table", "_trajectory", "McapWriter.finish"])
def test_killed_while_the_bag_is_completed_it_is_completed_anew(bag, tmp_path, monkeypatch, request, part):
    command = ("run", bag, "--out", tmp_path / "out", *settings(request.node.name))
    assert vlm3("run", bag, "--out", tmp_path / "whole", *settings(request.node.name)) == 0
    monkeypatch.setattr(f"vlm3_ros.offline.results.{part}", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        vlm3(*command)
    monkeypatch.undo()
    assert vlm3(*command) == 0
    assert_same(tmp_path / "whole", tmp_path / "out")


def test_cut_at_any_byte_the_bag_is_gone_on_with(tmp_path):
    """What a kill in the middle of a write leaves: every whole frame is kept, and nothing else."""
    frames = [
        (time_, {"/a": b"\0\1\0\0" + bytes([time_]), "/b": b"\0\1\0\0"}, f"note {time_}") for time_ in range(1, 5)
    ]
    frames[2] = (3, {}, "without messages")

    def written(path: Path, finish: bool = True) -> bytes:
        writer = McapWriter(path, {"/a": "std_msgs/msg/UInt8", "/b": "std_msgs/msg/Empty"}, typestore())
        assert [frame.note for frame in kept(path)] == [note for _, _, note in frames[: writer.frames]]
        for frame in frames[writer.frames :]:
            writer.add(*frame)
        (writer.finish if finish else writer.close)()
        return path.read_bytes()

    whole = written(tmp_path / "whole.mcap")
    for size in range(0, len(whole), 7):
        cut = tmp_path / "cut.mcap"
        cut.write_bytes(whole[:size])
        assert written(cut) == whole, size
    with Reader(tmp_path / "whole.mcap") as reader:
        read = [(connection.topic, time_, raw) for connection, time_, raw in reader.messages()]
        assert {c.topic: c.msgcount for c in reader.connections} == {"/a": 3, "/b": 3}
    assert read == [(topic, time_, raw) for time_, messages, _ in frames for topic, raw in messages.items()]


def test_two_runs_do_not_write_to_one_folder(bag, tmp_path, capsys, request):
    command = ("run", bag, "--out", tmp_path / "out", *settings(request.node.name))
    (tmp_path / "out" / "bag").mkdir(parents=True)
    other = McapWriter(tmp_path / "out" / "bag" / "bag.mcap", {}, typestore())
    assert vlm3(*command) == 1
    assert "another `vlm3 run` is writing" in capsys.readouterr().err
    other.close()
    assert vlm3(*command) == 0


def test_full_disk_is_said_and_the_run_goes_on_when_there_is_room(bag, tmp_path, request):
    out, options = tmp_path / "out", settings(request.node.name)
    process = start(["-m", "vlm3_ros.cli", "run", bag, "--out", out, *options], bytes_at_most=200_000)
    _, error = process.communicate()
    assert process.returncode == 1
    assert re.search(r"out cannot be written, the disk is full \(File too large\): make room", error.decode())
    assert "goes on with the next frame" in error.decode()
    assert 0 < len(list(kept(out / "bag" / "bag.mcap"))) < 6
    assert vlm3("run", bag, "--out", out, *options) == 0
    assert vlm3("run", bag, "--out", tmp_path / "whole", *options) == 0
    assert_same(tmp_path / "whole", out)


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_server(bag, tmp_path):
    """A frame's answers trickle in; the frames before it are kept."""
    with serving(Echo()) as echo:
        options = ["--model", echo.url, "--set", "node.tasks=[depth]", "--set", "depth.points=12"]
        command = ["run", bag, "--out", tmp_path / "out", *options]

        def chat(request: dict[str, Any]) -> Reply:
            echo.trickles = len(echo.requests) > 30
            return said(depth.answer(2.0))

        echo.chat = chat  # type: ignore[method-assign]
        with ros.Process("-m", "vlm3_ros.cli", *command) as process:
            assert echo.trickling.wait(60.0), process.output
            time.sleep(0.5)
            assert process.interrupt(timeout_s=5.0) == 130
            assert "goes on where it stopped" in process.output
            assert "Traceback" not in process.output
        echo.trickles = False
        file = tmp_path / "out" / "bag" / "bag.mcap"
        done = len(list(kept(file)))
        assert done >= 1
        echo.chat = lambda _: said(depth.answer(2.0))  # type: ignore[method-assign]
        assert vlm3(*command) == 0
        assert len(list(kept(file))) > done


def test_killed_twenty_times_it_gives_the_same(data, tmp_path):
    """Over the recorded bag: ten kills in the middle of a write, ten at any other moment."""
    chance, out = random.Random(0), tmp_path / "killed"
    sets = ["--model", f"test:truth:recorded:{data / 'tum_fr3_cabinet'}"]
    sets += [w for s in (TASKS, "objects.labels=[cabinet]", "depth.points=48") for w in ("--set", s)]
    command = ["run", data / "bags_made" / "tum_fr3_cabinet", "--out"]
    assert vlm3(*command, tmp_path / "whole", *sets) == 0
    total = len(list(kept(tmp_path / "whole" / "bag" / "bag.mcap")))
    frame_bytes = (tmp_path / "whole" / "bag" / "bag.mcap").stat().st_size // total
    file, frames, torn = out / "bag" / "bag.mcap", [0], 0
    for i in range(20):
        size = file.stat().st_size if file.exists() else 0
        at, moment_s = size + chance.randrange(2 * frame_bytes), chance.uniform(0.001, 0.05) * (i % 2)
        process = start([ros.TEST / "killed.py", at, moment_s, *command, out, *sets])
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        found = list(kept(file))
        frames.append(len(found))
        torn += file.stat().st_size > (found[-1].end if found else 0)
    assert frames == sorted(frames)
    assert frames[-1] < total
    assert torn >= 10  # there was something to cut off
    assert vlm3(*command, out, *sets) == 0
    assert_same(tmp_path / "whole", out)


def start(words: list[object], bytes_at_most: int = -1) -> subprocess.Popen[bytes]:
    """A Python process that may write files no longer than so many bytes."""
    path = os.pathsep.join(map(str, (ros.ROOT, ros.TEST)))
    limit = (bytes_at_most, resource.RLIM_INFINITY)
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env={**os.environ, "PYTHONPATH": path},
        cwd="/",
        stderr=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit),
    )


def assert_same(a: Path, b: Path) -> None:
    """Messages of two runs in their order, and trajectories, byte for byte."""
    for name in ("bag/metadata.yaml", "trajectory.txt"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    with Reader(a / "bag") as one, Reader(b / "bag") as other:
        for (c1, time_1, raw_1), (c2, time_2, raw_2) in zip(one.messages(), other.messages(), strict=True):
            assert (c1.topic, time_1) == (c2.topic, time_2)
            assert raw_1 == raw_2, (c1.topic, time_1)

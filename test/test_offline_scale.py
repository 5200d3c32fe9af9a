"""Several recordings in one run: one after the other, or by workers on Ray; the results are the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import bags
import pytest
import ros
from bags import SECOND
from test_offline_resume import assert_same
from test_offline_run import START, TASKS, ahead, vlm3

from vlm3_ros.offline import scale
from vlm3_ros.offline.mcap import kept
from vlm3_ros.offline.results import RunError

SETTINGS = ["--model", "test:doubles:slow:0.05", "--set", TASKS, "--set", "depth.points=60"]
LOOPBACK, LISTEN = "0100007F", "0A"  # as /proc/net/tcp has them
FRAMES = {"a": 9, "b": 3, "c": 5}


@pytest.fixture
def recordings(tmp_path: Path) -> list[Path]:
    return [
        bags.write(tmp_path / name, ahead([START + i * SECOND // 10 for i in range(count)]))
        for name, count in FRAMES.items()
    ]


def test_several_recordings_have_a_folder_each(recordings, tmp_path, capsys):
    assert vlm3("run", *recordings, tmp_path / "missing", "--out", tmp_path / "all", *SETTINGS) == 1
    said = capsys.readouterr()
    assert "missing does not exist" in said.err
    assert said.out.count("frames perceived") == 3
    assert vlm3("run", recordings[1], "--out", tmp_path / "b_alone", *SETTINGS) == 0
    assert_same(tmp_path / "b_alone", tmp_path / "all" / "b")


def test_recordings_of_one_name_are_refused(recordings, tmp_path, capsys):
    (tmp_path / "x").mkdir()
    twin = bags.write(tmp_path / "x" / "a", ahead([START]))
    assert vlm3("run", *recordings, twin, "--out", tmp_path / "all", *SETTINGS) == 1
    assert "several recordings named a" in capsys.readouterr().err
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("workers", ["0", "-1", "two"])
def test_no_worker_is_none(tmp_path, capsys, workers):
    with pytest.raises(SystemExit):
        vlm3("run", tmp_path, "--out", tmp_path / "out", "--workers", workers)
    assert "is no number from 1 on" in capsys.readouterr().err


def test_without_ray_it_is_said_what_to_install(recordings, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert vlm3("run", *recordings, "--out", tmp_path / "all", *SETTINGS, "--workers", 2) == 1
    assert "vlm3_ros[scale]" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("there", "gpus", "share"),
    [
        ({"CPU": 2.0}, None, {"num_cpus": 1.0, "num_gpus": 0.0}),
        ({"CPU": 2.0, "GPU": 2.0}, None, {"num_cpus": 1.0, "num_gpus": 1.0}),
        ({"CPU": 2.0, "GPU": 1.0}, 0.5, {"num_cpus": 1.0, "num_gpus": 0.5}),
        ({"CPU": 2.0, "GPU": 1.0}, None, "2 workers need 2 GPUs, and Ray has 1"),
        ({"CPU": 1.0}, None, "2 workers need 2 CPUs, and Ray has 1"),
    ],
)
def test_a_worker_has_a_gpu_where_there_are_any(there, gpus, share):
    if isinstance(share, str):
        with pytest.raises(RunError, match=share):
            scale._share(there, 2, gpus)
    else:
        assert scale._share(there, 2, gpus) == share


@pytest.mark.slow
def test_workers_give_the_same_one_killed_in_mid_run_included(recordings, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: pip install ray")
    assert vlm3("run", *recordings, "--out", tmp_path / "serial", *SETTINGS) == 0
    out, words = tmp_path / "shared", ["--workers", "2", *SETTINGS]
    path = os.pathsep.join(map(str, (ros.ROOT, ros.TEST)))
    with subprocess.Popen(
        [sys.executable, "-m", "vlm3_ros.cli", "run", *recordings, tmp_path / "missing", "--out", out, *words],
        env={**os.environ, "PYTHONPATH": path},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        file, victim = out / "a" / "bag" / "bag.mcap", None
        while victim is None and process.poll() is None:
            time.sleep(0.01)
            if file.exists() and len(list(kept(file))) >= 2:
                started = descendants(process.pid)
                (victim,) = (pid for pid in started if str(file) in open_files(pid))
                os.kill(victim, signal.SIGKILL)
                assert not file.with_name("metadata.yaml").exists()  # it had not ended
                assert all(address.endswith(LOOPBACK) for address in listening(started))
        said, _ = process.communicate(timeout=240)
    assert victim is not None, said
    assert process.returncode == 1, said  # for the one that is missing
    assert "missing does not exist" in said
    for name in FRAMES:
        assert said.count(f"frames perceived: {out / name / 'bag'}") == 1, said
        assert_same(tmp_path / "serial" / name, out / name)


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    children = [int(child) for tasks in Path(f"/proc/{pid}/task").glob("*/children") for child in read(tasks).split()]
    return children + [other for child in children for other in descendants(child)]


def read(path: Path) -> str:
    """A file of a process, which may have ended."""
    try:
        return path.read_text()
    except OSError:
        return ""


def open_files(pid: int) -> set[str]:
    """Paths, and sockets as socket:[inode]."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):  # closed meanwhile
            found.add(os.readlink(file))
    return found


def listening(pids: list[int]) -> list[str]:
    """The addresses, in hexadecimal, at which processes wait for others."""
    theirs = {file for pid in pids for file in open_files(pid)}
    rows = [row.split() for kind in ("tcp", "tcp6") for row in read(Path("/proc/net") / kind).splitlines()[1:]]
    return [row[1].split(":")[0] for row in rows if row[3] == LISTEN and f"socket:[{row[9]}]" in theirs]

"""What killed processes leave in shared memory, over real DDS."""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path

import pytest
import ros

from vlm3_ros.ros.shared_memory import FOLDER, LOCK, remove_dead_segments


def own(process: ros.Process) -> set[Path]:
    """The segments of which a process holds the locks."""
    held = [path.readlink() for path in Path(f"/proc/{process.pid}/fd").iterdir() if path.is_symlink()]
    return {path.with_name(path.name.removesuffix("_el")) for path in held if LOCK.fullmatch(path.name)}


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no /dev/shm")
def test_segments_of_the_killed_go_and_those_of_the_living_stay():
    simulator = Path(sys.prefix, "lib", "vlm3_ros", "sim_node")
    with ros.Process(simulator) as living, ros.Process(simulator) as killed:
        living.wait_for("walking")
        killed.wait_for("walking")
        of_living, of_killed = own(living), own(killed)
        assert of_living
        assert of_killed
        killed.kill()
        assert all(path.exists() for path in of_killed)  # nobody else takes them away
        assert remove_dead_segments(being_made_s=0.05) >= len(of_killed)
        assert not any(path.exists() for path in of_killed)
        assert all(path.exists() for path in of_living)
        assert living.alive


def test_only_what_nobody_holds_is_removed(tmp_path):
    """Locked ones, young ones, and files of others stay."""
    names = [
        "fastrtps_0123456789abcdef",
        "fastdds_0123456789abcdef",
        "fastrtps_port7411",
        "fastrtps_fedcba9876543210",
    ]
    for name in names:
        (tmp_path / name).write_bytes(b"memory")
        (tmp_path / f"{name}_el").touch()
    (tmp_path / "sem.fastrtps_port7411_mutex").touch()
    with (tmp_path / f"{names[3]}_el").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert remove_dead_segments(tmp_path) == 0  # all too young
        assert remove_dead_segments(tmp_path, being_made_s=0.0) == 2
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {*(n + end for n in names[2:] for end in ("", "_el")), "sem.fastrtps_port7411_mutex"}
    assert remove_dead_segments(tmp_path / "nowhere") == 0

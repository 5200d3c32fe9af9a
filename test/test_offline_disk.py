"""A disk that is full or may not be written to is said, whatever wrote to it."""

from __future__ import annotations

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import checkpoints
import pytest
import torch
from safetensors.torch import save_file
from test_offline_run import vlm3

from vlm3_ros.offline.disk import trouble


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As if the disk were full after so many bytes of each file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def by_python(path: Path) -> None:
    path.write_bytes(bytes(100_000))


def by_safetensors(path: Path) -> None:
    save_file({"a": torch.zeros(100_000)}, path)


def by_torch(path: Path) -> None:
    torch.save({"a": torch.zeros(100_000)}, path)


@pytest.mark.parametrize("write", [by_python, by_safetensors, by_torch])
def test_a_full_disk_is_known_by_the_errors_of_all_that_write(tmp_path, write):
    with files_of_at_most(10_000), pytest.raises(Exception) as raised:  # noqa: PT011
        write(tmp_path / "file")
    said = trouble(raised.value, tmp_path, goes_on=True)
    assert said is not None
    assert str(tmp_path) in said
    assert "make room, and the same command then goes on" in said


@pytest.mark.parametrize("write", [by_python, by_safetensors])
def test_a_place_that_is_no_folder_is_known_too(tmp_path, write):
    (tmp_path / "file").write_text("")
    with pytest.raises(Exception) as raised:  # noqa: PT011
        write(tmp_path / "file" / "inside")
    assert "choose another --out" in (trouble(raised.value, tmp_path) or "")


def test_other_errors_are_not_the_disk():
    unread = PermissionError(errno.EACCES, "Permission denied", "/elsewhere/recording.mcap")
    for error in (
        unread,
        ValueError("no"),
        RuntimeError("CUDA error"),
        ConnectionResetError("gone"),
        FileNotFoundError("no"),
    ):
        assert trouble(error, Path("out")) is None


def test_what_could_not_be_built_is_said_and_the_same_command_goes_on(tmp_path, capsys):
    command = (
        "data",
        "build",
        "rooms:0:1",
        "--out",
        tmp_path / "set",
        "--workers",
        1,
        "--depth",
        4,
        "--image-scale",
        0.25,
    )
    with files_of_at_most(20_000):
        assert vlm3(*command) == 1
    assert "cannot be written, the disk is full" in (said := capsys.readouterr().err)
    assert "Traceback" not in said
    assert vlm3(*command) == 0


def test_a_mean_that_could_not_be_written_is_said(tmp_path, capsys):
    pytest.importorskip("peft", reason="training needs peft: pip install vlm3_ros[train]")
    folder = checkpoints.make(tmp_path / "checkpoint")
    with files_of_at_most(20_000):
        assert vlm3("average", folder, folder, "--out", tmp_path / "mean") == 1
    assert "the disk is full" in capsys.readouterr().err
    assert vlm3("average", folder, folder, "--out", tmp_path / "mean") == 0

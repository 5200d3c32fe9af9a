"""Files of a checkpoint folder, read so that whatever is in them gives a value or a ModelError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vlm3_ros.vlm.interface import ModelError

MOST_BYTES = 64 << 20  # of a JSON file; the index of a very large model takes a few MB
LFS = b"version https://git-lfs.github.com/spec/"


def is_lfs_pointer(file: Path) -> bool:
    """Whether a file is what `git clone` leaves where Git LFS is not installed."""
    if not file.is_file() or file.stat().st_size > 1024:
        return False
    with file.open("rb") as content:
        return content.read(len(LFS)) == LFS


def refuse_lfs_pointer(file: Path) -> None:
    """Raise ModelError where only a pointer was downloaded."""
    if is_lfs_pointer(file):
        raise ModelError(
            f"{file} is only a Git LFS pointer, the file itself was not downloaded: install git-lfs and run "
            f"`git lfs pull` in {file.parent}, or use `hf download`"
        )


def read_text(file: Path) -> str:
    """A text file in UTF-8. Raises ModelError."""
    refuse_lfs_pointer(file)
    try:
        if (size := file.stat().st_size) > MOST_BYTES:
            raise ModelError(f"{file} has {size / 1e6:.0f} MB: that is no text file of a checkpoint")
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {error}") from error


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object. Raises ModelError."""
    try:
        content = json.loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} does not hold a JSON object")
    return content

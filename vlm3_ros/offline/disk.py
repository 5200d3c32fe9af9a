"""What is said where files cannot be written: a full or read-only disk is nobody's bug."""

from __future__ import annotations

import errno
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
# Libraries that write by themselves (safetensors, PyTorch's zip files) raise errors of their own, without a number.
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "File too large", "inline_container.cc")
CLOSED_WORDS = ("Read-only file system", "Permission denied", "Not a directory", "Is a directory")


def trouble(error: BaseException, folder: Path, goes_on: bool = False) -> str | None:
    """Why nothing more could be written to ``folder`` and what to do; None where an error is about something else.

    ``goes_on``: the same command goes on with what it has already written.
    """
    if type(error).__module__.startswith("vlm3_ros."):  # says what is the matter by itself
        return None
    number, words = getattr(error, "errno", None), str(error)
    reason = getattr(error, "strerror", None) or " ".join(words.split())[:200]
    where = getattr(error, "filename", None) or folder
    if number in FULL or any(sign in words for sign in FULL_WORDS):
        then = "the same command then goes on" if goes_on else "call the same command again"
        return f"{where} cannot be written, the disk is full ({reason}): make room, and {then}"
    is_closed = number in CLOSED or any(sign in words for sign in CLOSED_WORDS)
    if is_closed and _belongs(Path(where), folder):  # not a file that could not be read
        return f"{where} cannot be written ({reason}): choose another --out, or change who may write there"
    return None


def _belongs(path: Path, folder: Path) -> bool:
    """Whether a path is in a folder, or is on the way to it."""
    path, folder = path.absolute(), folder.absolute()
    return path.is_relative_to(folder) or folder.is_relative_to(path)

"""What killed processes leave in shared memory: Fast DDS gives it back only at the regular end of a process."""

from __future__ import annotations

import fcntl
import os
import re
import time
from contextlib import suppress
from pathlib import Path

FOLDER = Path("/dev/shm")
LOCK = re.compile(r"(?:fastrtps|fastdds)_[0-9a-f]{16}_el")  # beside each segment; locked while its process lives
BEING_MADE_S = 2.0  # a lock file may be this young before it is locked


def remove_dead_segments(folder: Path = FOLDER, being_made_s: float = BEING_MADE_S) -> int:
    """Remove this user's segments of Fast DDS whose processes have ended; how many there were.

    The same test as that of Fast DDS's own `fastdds shm clean`: nobody holds the lock. One that is younger than
    ``being_made_s`` is left alone.
    """
    removed = 0
    for lock in _files(folder):
        with suppress(OSError), lock.open("rb") as file:  # gone meanwhile, or not ours to open
            found = os.fstat(file.fileno())
            if found.st_uid != os.getuid() or time.time() - found.st_ctime < being_made_s:
                continue
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.with_name(lock.name.removesuffix("_el")).unlink(missing_ok=True)
            lock.unlink()
            removed += 1
    return removed


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if LOCK.fullmatch(path.name)]
    except OSError:  # no such folder: not Linux
        return []

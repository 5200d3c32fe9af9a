"""`vlm3 run` that kills itself, as `kill -9` would, when its bag is so many bytes long or a moment later.

python killed.py BYTES SECONDS ARGUMENT...: without a moment the kill is in the middle of a write.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

from vlm3_ros import cli
from vlm3_ros.offline.mcap import McapWriter


def main() -> int:
    limit, moment_s, sys.argv[1:] = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    write = McapWriter._write

    def killing(writer: McapWriter, *parts: Any) -> None:
        for part in map(memoryview, parts):
            before = writer._end
            if before + len(part) <= limit or before > limit:
                write(writer, part)
            elif moment_s:
                threading.Timer(moment_s, kill).start()
                write(writer, part)
            else:
                write(writer, part[: limit - before])
                kill()

    McapWriter._write = killing  # type: ignore[method-assign]
    return cli.main()


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())

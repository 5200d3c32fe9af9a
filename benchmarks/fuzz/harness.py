"""Runs the kinds one after the other, each in a process of its own that may hang, swell or die."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

PATIENCE_S = 20.0  # longer is a hang; a slow start of the process is not counted
MOST_BYTES = 2e9  # resident, of the process; PyTorch alone takes half a gigabyte


def fuzz(kind: str, total: int, seed: int, out: Path) -> int:
    """Try the mutants of a kind that were not tried before; returns how many went wrong in all."""
    record = out / f"{kind}-{seed}.json"
    about: dict[str, Any] = {"tried": 0, "found": []}
    if record.exists():
        about = json.loads(record.read_text())
    start, said = time.monotonic(), time.monotonic()
    for index, name, wrong in _attempts(kind, seed, about["tried"]):
        about["tried"] = index + 1
        if wrong is not None:
            about["found"].append({"mutant": index, "name": name, "what": wrong})
            print(f"{kind} {index} ({name}): {wrong}", flush=True)
        ended = about["tried"] >= total
        if wrong is not None or ended or time.monotonic() - said > 5.0:
            said = time.monotonic()
            record.write_text(json.dumps(about, indent=1))
        if ended:
            break
    found = len(about["found"])
    print(f"{kind}: {about['tried']} tried, {found} wrong, {time.monotonic() - start:.0f} s: {record}", flush=True)
    return found


def _attempts(kind: str, seed: int, first: int) -> Iterator[tuple[int, str, str | None]]:
    """Number, name and outcome of each mutant, from the first on, without end."""
    while True:
        ours, theirs = multiprocessing.Pipe()
        folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-"))
        worker = multiprocessing.get_context("spawn").Process(
            target=_work, args=(kind, seed, first, folder, theirs), daemon=True
        )
        worker.start()
        theirs.close()
        try:
            for outcome in _watched(ours, worker.pid, first):
                yield outcome
                first = outcome[0] + 1
        finally:
            worker.kill()
            worker.join()
            shutil.rmtree(folder, ignore_errors=True)


def _watched(pipe: Connection, pid: int | None, first: int) -> Iterator[tuple[int, str, str | None]]:
    """Outcomes of a worker until one of them is its end."""
    pipe.recv()  # it is ready, and has passed over the mutants of before
    for index in count(first):
        name = "?"
        try:
            if not pipe.poll(PATIENCE_S):
                yield index, name, "the mutant could not be made"
                return
            name = pipe.recv()
            if not pipe.poll(PATIENCE_S):
                yield index, name, f"no end within {PATIENCE_S:.0f} s"
                return
            wrong = pipe.recv()
        except EOFError:
            yield index, name, "the process died"
            return
        swollen = _resident(pid) > MOST_BYTES
        yield index, name, f"takes {_resident(pid) / 1e9:.1f} GB" if swollen and wrong is None else wrong
        if swollen:
            return


def _work(kind: str, seed: int, first: int, folder: Path, pipe: Connection) -> None:
    logging.disable(logging.CRITICAL)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what C libraries say of each damaged file
    module: Any = import_module(f"benchmarks.fuzz.{kind}")
    for index, mutant in enumerate(module.mutants(seed, folder)):
        if index < first:
            continue
        if index == first:
            pipe.send("ready")
        pipe.send(mutant.name)
        try:
            wrong = module.attempt(mutant)
        except Exception as error:
            wrong = f"{type(error).__name__}: {error}"
        pipe.send(wrong)


def _resident(pid: int | None) -> float:
    """Bytes of memory that a process really has."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0.0

"""Which files are a bag: metadata.yaml says it, or else their names; what is left out is named."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ruamel.yaml import YAML

from vlm3_ros.offline.sources import SourceError, read_text

log = logging.getLogger(__name__)

STORAGES = (".mcap", ".db3")
PACKED = (".zstd", ".zst")  # a file that was compressed as a whole
JOURNALS = (".db3-wal", ".db3-shm", ".db3-journal")  # what a recorder that did not end leaves beside a database
METADATA = "metadata.yaml"
POINTER = b"version https://git-lfs.github.com/spec/"
CONVERT = "`rosbags-convert --src FILE.bag --dst FOLDER` (pip install rosbags)"
BEGINNINGS = {  # of a file: what it is
    b"\x89MCAP0\r\n": "mcap",
    b"SQLite format 3\0": "db3",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"#ROSBAG V": "ros1",
    POINTER: "pointer",
}


def nature(path: Path) -> str:
    """What a file is by its first bytes: one of BEGINNINGS, "empty", or nothing that is known. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(64)
    return next((kind for start, kind in BEGINNINGS.items() if head.startswith(start)), "" if head else "empty")


def refusal(path: Path) -> str:
    """Why a file is none that can be read, if its first bytes tell; else nothing."""
    return {
        "ros1": f"it is a bag of ROS 1, which has to be converted: {CONVERT}",
        "pointer": "it is a pointer of Git LFS and not the file itself, which `git lfs pull` fetches",
        "empty": "it is empty",
    }.get(nature(path), "")


def is_piece(path: Path) -> bool:
    """Whether a file may be one of a bag, by its name."""
    return unpacked(path.name).lower().endswith(STORAGES)


def is_bag(path: Path) -> bool:
    """Whether a folder or file is a bag, by the names in it or by its name and first bytes."""
    if path.is_dir():
        return any(file.name == METADATA or is_piece(file) for file in path.iterdir())
    return path.is_file() and (is_piece(path) or nature(path) in ("mcap", "db3", "zstd"))


def of_bag(path: Path) -> list[list[Path]]:
    """The pieces of a bag in their order: each the file that holds it, and others that hold the same. SourceError."""
    if path.is_file():
        return [[path]]
    pieces: dict[str, list[Path]] = defaultdict(list)  # by name; what is not compressed comes first
    names = _named(path)
    files = [*path.iterdir(), *(path / name for name in names if "/" in name)]
    for file in sorted(filter(Path.is_file, files), key=lambda f: (_order(f.name), unpacked(f.name) != f.name)):
        if is_piece(file):
            pieces[unpacked(file.relative_to(path).as_posix())].append(file)
    spelled = {name.lower(): name for name in pieces}  # some file systems do not tell capitals
    named = [name if name in pieces else spelled.get(name.lower(), name) for name in map(unpacked, names)]
    named = list(dict.fromkeys(named))
    if missing := [name for name in named if name not in pieces]:
        log.warning("%s names what is not there: %s", path / METADATA, ", ".join(missing))
    if len(missing) == len(named):  # or the files were given other names
        named = []
    chosen = [name for name in named if name in pieces] if named else _by_name(path, list(pieces))
    beside = [name for name in pieces if name not in chosen]
    split = [name for name in beside if _group(name) in map(_group, named)]
    if split:  # as where the recorder was killed before it could name its last piece
        log.warning(
            "%s does not name %s, but they look like parts of it: read too", path / METADATA, ", ".join(split)
        )
    if other := [name for name in beside if name not in split]:
        log.warning(
            "%d beside the files of %s that its metadata name are left out: %s; each can be given by itself",
            len(other),
            path,
            ", ".join(other),
        )
    if not chosen + split:
        raise SourceError(f"{path} holds no file of a bag (*.mcap, *.db3) that can be read")
    return [pieces[name] for name in chosen + split]


def _named(folder: Path) -> list[str]:
    """The files that metadata.yaml names, in its order; none where it cannot be used, which is said."""
    path = folder / METADATA
    if not path.exists():
        return []
    try:
        found = YAML(typ="safe", pure=True).load(read_text(path))
        names = found["rosbag2_bagfile_information"]["relative_file_paths"]
        if not isinstance(names, (str, list)):
            raise ValueError("relative_file_paths is no list")
        return [_beneath(folder, name) for name in ([names] if isinstance(names, str) else names)]
    except Exception as error:  # a parser in Python, on any bytes
        why = str(error).partition("\n")[0] or type(error).__name__
        log.warning("%s cannot be used, so names decide what is a bag: %s", path, why)
        return []


def _beneath(folder: Path, name: str) -> str:
    """A named file as it lies in the folder: in one below it, or else in itself, wherever it was recorded."""
    path = PurePosixPath(name.replace("\\", "/"))
    inside = not path.is_absolute() and ".." not in path.parts and (folder / path).is_file()
    return path.as_posix() if inside else path.name


def _by_name(folder: Path, names: Sequence[str]) -> list[str]:
    """Without metadata: the pieces bag_0, bag_1, …, of one recording. Raises SourceError where there are several."""
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        groups[_group(name)].append(name)
    if len(groups) > 1:
        raise SourceError(
            f"{folder} holds {len(groups)} recordings and no {METADATA} that says what belongs together:"
            + "".join(f"\n  {', '.join(group)}" for group in groups.values())
            + "\nGive the one that is meant, or each by itself (of a bag and its conversion only one)"
        )
    numbers = [number for name in names if (number := _number(name)) is not None]
    if gone := sorted({*range(max(numbers, default=-1) + 1)} - {*numbers}):
        log.warning("%s lacks the pieces with the numbers %s", folder, ", ".join(map(str, gone[:5])))
    if len(names) > 1:
        log.warning("%s has no %s that can be used: taken for one bag are %s", folder, METADATA, ", ".join(names))
    return list(names)


def unpacked(name: str) -> str:
    """The name of a file without the suffix that says that it is compressed."""
    return next((name[: -len(end)] for end in PACKED if name.lower().endswith(end)), name)


def _group(name: str) -> tuple[str, str]:
    """What the pieces of one recording have in common: the name without their number, and the storage."""
    return _order(name)[0], Path(name).suffix.lower()


def _number(name: str) -> int | None:
    return _order(name)[1] if re.search(r"_\d+$", Path(name).stem) else None


def _order(name: str) -> tuple[str, int]:
    """bag_2.mcap before bag_10.mcap."""
    stem = Path(unpacked(name)).stem
    base, number = re.fullmatch(r"(.*?)(?:_(\d{1,9}))?", stem, re.DOTALL).groups()  # type: ignore[union-attr]
    return base, int(number or 0)

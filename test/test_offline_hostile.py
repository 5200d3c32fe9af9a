"""Bags as they should not be, through the command: what is wrong is said, and whatever can be read is perceived."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import bags
import lz4.frame
import numpy as np
import pytest
from bags import Entry
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionMode
from test_offline_run import STAMPS, ahead, messages, vlm3

from vlm3_ros.offline.compression import decompressed, zstd
from vlm3_ros.offline.mcap import DATA_END, FOOTER, MAGIC, OVERHEAD, records
from vlm3_ros.offline.types import typestore

SMALL, LARGE = bags.CAMERA.resized(32, 24), bags.CAMERA.resized(320, 240)
WITHOUT_INFO = ("--set", "camera.hfov_deg=60")


def written(change: Callable[[list[Entry]], object]) -> Callable[[Path], Path]:
    """A bag of six images, changed."""

    def make(folder: Path) -> Path:
        entries = ahead(STAMPS)
        change(entries)
        return bags.write(folder / "bag", entries)

    return make


def cut(
    part: float,
    compression: CompressionMode = CompressionMode.NONE,
    storage: StoragePlugin = StoragePlugin.MCAP,
) -> Callable[[Path], Path]:
    """The first part of a file with six noisy images of 230 kB, five of them in the first chunk."""

    def make(folder: Path) -> Path:
        noise = np.random.default_rng(0)
        entries = [("/camera/camera_info", STAMPS[0], bags.info(STAMPS[0], camera=LARGE))]
        for time in STAMPS:
            message = bags.image(time, camera=LARGE)
            message.data[3:] = noise.integers(0, 255, message.data.size - 3)
            entries.append(("/camera/image", time, message))
        (file,) = bags.write(folder / "bag", entries, storage, compression).glob("bag.*")
        file.write_bytes(file.read_bytes()[: int(part * file.stat().st_size)])
        return folder / "bag"

    return make


def without_index(folder: Path) -> Path:
    (file,) = bags.write(folder / "bag", ahead(STAMPS)).glob("*.mcap")
    with file.open("rb") as opened:
        whole = max(at + OVERHEAD + length for _, at, length in records(opened, len(MAGIC)))
    end = struct.pack("<BQI", DATA_END, 4, 0) + struct.pack("<BQQQI", FOOTER, 20, 0, 0, 0) + MAGIC
    file.write_bytes(file.read_bytes()[:whole] + end)
    return file


def cut_database(folder: Path) -> Path:
    (file,) = bags.write(folder / "bag", ahead(STAMPS), StoragePlugin.SQLITE3).glob("*.db3")
    file.write_bytes(file.read_bytes()[:30_000])
    return folder / "bag"


def unknown_types(images: bool) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        store, connections = typestore(), {}
        with Writer(folder / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
            odd = writer.add_connection("/odd", "robot_msgs/msg/Odd", msgdef="nonsense[", rihs01="RIHS01_0")
            writer.write(odd, STAMPS[0], b"\x00\x01\x00\x00?")
            for topic, time, message in ahead(STAMPS) if images else []:
                kind = message.__msgtype__
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=store)
                writer.write(connections[topic], time, store.serialize_cdr(message, kind))
        return folder / "bag"

    return make


def without_pixels(entries: list[Entry]) -> None:
    for _, _, message in entries:
        message.data = np.zeros(0, np.uint8)


def second_resolution(entries: list[Entry]) -> None:
    """The driver changes its mode after three images."""
    entries[4:] = [(topic, time, bags.image(time, camera=SMALL)) for topic, time, _ in entries[4:]]
    entries.insert(4, ("/camera/camera_info", STAMPS[3], bags.info(STAMPS[3], camera=SMALL)))


def out_of_order(entries: list[Entry]) -> None:
    images = [entries[i][2] for i in (3, 1, 5, 2, 6, 4)]
    entries[1:] = [("/camera/image", STAMPS[0] + i, message) for i, message in enumerate(images)]


def replaced(index: int, message: object) -> Callable[[list[Entry]], object]:
    return lambda entries: entries.__setitem__(index, (*entries[index][:2], message))


CASES = {  # how the bag is made, more words for the command, frames perceived, what is said
    "cut before any image": (cut(0.05), (), 0, "has no topic with images"),
    "cut in a chunk": (cut(0.6), (), 3, "is damaged"),
    "cut in a compressed chunk": (cut(0.6, CompressionMode.STORAGE), (), 3, "is damaged"),
    "empty file": (cut(0.0), (), 0, "it is empty"),
    "no index": (without_index, (), 6, ""),
    "cut database of larger images": (cut(0.6, storage=StoragePlugin.SQLITE3), (), 3, "is damaged"),
    "cut database": (cut_database, (), 0, ".recover"),
    "unknown type beside": (unknown_types(images=True), (), 6, ""),
    "unknown types only": (unknown_types(images=False), (), 0, "/odd (robot_msgs/msg/Odd, 1 messages)"),
    "no camera_info": (written(lambda e: e.pop(0)), (), 0, "camera.hfov_deg"),
    "no camera_info, field of view": (written(lambda e: e.pop(0)), WITHOUT_INFO, 6, ""),
    "not calibrated": (
        written(lambda e: e[0][2].k.fill(0)),
        (),
        0,
        "6 of 6 could not be used, the first because: the ",
    ),
    "one image of another size": (written(replaced(3, bags.image(STAMPS[2], camera=SMALL))), (), 5, "is 32x24 but"),
    "second resolution": (written(second_resolution), (), 6, ""),
    "no data in one image": (written(lambda e: without_pixels(e[2:3])), (), 5, "the data is truncated: 0 bytes"),
    "no data in any image": (written(lambda e: without_pixels(e[1:])), (), 0, "the data is truncated: 0 bytes"),
    "stamps out of order": (written(out_of_order), (), 6, "3 messages of /camera/image have an older stamp"),
    "one stamp twice": (written(replaced(3, bags.image(STAMPS[1]))), (), 5, "the stamp of the image before"),
    "no images": (written(lambda e: e.__delitem__(slice(1, None))), (), 0, "camera_info (sensor_msgs/msg/CameraInfo"),
}


@pytest.mark.parametrize(("make", "words", "perceived", "said"), CASES.values(), ids=CASES)
def test_hostile_bag(tmp_path, capsys, caplog, make, words, perceived, said):
    status, text = run(make(tmp_path), tmp_path / "out", words, capsys, caplog)
    assert said in text
    assert "Traceback" not in text
    assert status == (0 if perceived else 1)
    if perceived:
        stamps = [time for time, _ in messages(tmp_path / "out" / "bag")["/depth/image"]]
        assert len(stamps) == perceived
        assert stamps == sorted(set(stamps))


def test_bag_compressed_message_by_message(data, tmp_path, capsys, caplog):
    """A recorded one, with a type name of old and stamps from 0."""
    bag = data / "bags_amber_soccer"
    status, text = run(bag, tmp_path / "refused", (), capsys, caplog)
    assert status == 1
    assert "no camera_info for /camera/image_raw" in text
    status, text = run(bag, tmp_path / "out", WITHOUT_INFO, capsys, caplog)
    assert status == 0
    assert "2 of 2 frames perceived" in text


@pytest.mark.parametrize(("kind", "compress"), [("zstd", zstd.compress), ("lz4", lz4.frame.compress)])
def test_beginning_of_what_was_compressed_can_be_read(kind, compress, rng):
    data = rng.bytes(1 << 20)
    whole = compress(data)
    assert decompressed(whole, kind) == (data, "")
    assert decompressed(whole + whole, kind) == (data + data, "")
    found, complaint = decompressed(whole[: 1 << 19], kind)
    assert data.startswith(found)
    assert len(found) > 1 << 18
    assert "ends too early" in complaint
    found, complaint = decompressed(data, kind)
    assert found == b""
    assert "damaged" in complaint


def run(bag: Path, out: Path, words: tuple[str, ...], capsys, caplog) -> tuple[int, str]:
    """Exit status of the command and all it says."""
    status = vlm3("run", bag, "--out", out, "--model", "test:doubles:slow:0", *words)
    said = capsys.readouterr()
    return status, said.out + said.err + caplog.text

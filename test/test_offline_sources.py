"""Bags and data sets as sources of frames and truth; recorded data is compared with what independent readers say."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import bags
import cv2
import numpy as np
import pytest
import truth
from bags import SECOND
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2.enums import CompressionMode

from vlm3_ros import images
from vlm3_ros.camera import Camera
from vlm3_ros.config import CameraConfig
from vlm3_ros.geometry.box3d import Box3D
from vlm3_ros.offline.compression import zstd
from vlm3_ros.offline.mcap import CHUNK, CHUNK_HEAD, MAGIC, OVERHEAD, McapWriter, records
from vlm3_ros.offline.opening import open_source
from vlm3_ros.offline.sources import Choices, FrameError, Source, SourceError
from vlm3_ros.offline.types import new, typestore

START = 1000 * SECOND
STAMPS = [START + i * SECOND // 10 for i in range(5)]


def opened(path: Path, settings: CameraConfig | None = None, **choices: object) -> Source:
    return open_source(path, Choices(**choices), settings or CameraConfig())  # type: ignore[arg-type]


def levels(source: Source) -> list[int]:
    """What tells the made frames apart."""
    return [int(source.frame(i).image[0, 0, 0]) for i in range(len(source.stamps))]


# ------------------------------------------------------------------------------------------------ recorded data


@pytest.mark.parametrize(
    ("bag", "folder", "frames"),
    [
        ("tum_fr3_cabinet", "tum_fr3_cabinet", range(0, 58, 9)),
        ("tum_fr3_cabinet_3f_raw_db3", "tum_fr3_cabinet", range(1, 4)),
        ("redwood_livingroom_5_raw", "redwood_livingroom_5", range(5)),
    ],
)
def test_recorded_bag_says_what_its_folder_says(data, bag, folder, frames):
    known = list(truth.manifest_frames(data / folder).values())
    images = [entry["rgb"] for entry in json.loads((data / folder / "manifest.json").read_text())["frames"]]
    source = opened(data / "bags_made" / bag)
    offset = frames[0] if bag.endswith("db3") else 0
    for i in frames:
        frame, found = source.frame(i - offset), source.truth(i - offset)
        expected = cv2.cvtColor(cv2.imread(str(data / folder / images[i])), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(frame.image, expected)
        assert frame.camera == known[i].camera
        assert frame.stamp == source.stamps[i - offset]
        np.testing.assert_allclose(found.depth, known[i].depth, atol=6e-4)  # the bags hold millimetres
        np.testing.assert_allclose(found.T_world_camera, known[i].T_world_camera, atol=1e-4)


def test_manifest_folder(data):
    folder = data / "tum_fr3_cabinet"
    source = opened(folder)
    for i, known in enumerate(truth.manifest_frames(folder).values()):
        if i % 20 == 0:
            found = source.truth(i)
            assert source.frame(i).camera == known.camera
            np.testing.assert_allclose(found.depth, known.depth, rtol=1e-6)
            np.testing.assert_allclose(found.T_world_camera, known.T_world_camera, atol=1e-8)
            np.testing.assert_allclose(found.boxes[0].corners(), known.boxes[0].corners(), atol=1e-7)
    assert source.stamps[0] == 1341841278842700000


def test_message_compressed_bag(data):
    source = opened(data / "bags_amber_soccer", CameraConfig(hfov_deg=70.0))
    assert len(source.stamps) == 2
    assert all(source.frame(i).image.shape == (480, 640, 3) for i in range(2))
    assert source.frame(1).image.std() > 10.0  # a picture, not noise or black


def test_tum_folder(data, tmp_path):
    known = list(truth.manifest_frames(data / "tum_fr3_cabinet").values())[:3]
    entries = json.loads((data / "tum_fr3_cabinet" / "manifest.json").read_text())["frames"][:3]
    shutil.copytree(data / "tum_fr3_cabinet", tmp_path / "tum", ignore=shutil.ignore_patterns("manifest.json"))
    for kind, shift in (("rgb", 0.0), ("depth", 0.004)):
        lines = [f"{entry['stamp'] + shift:.6f} {entry[kind]}" for entry in entries]
        (tmp_path / "tum" / f"{kind}.txt").write_text("\n".join(["# timestamp filename", *lines]))
    with pytest.raises(SourceError, match="--intrinsics"):
        opened(tmp_path / "tum")
    source = opened(tmp_path / "tum", intrinsics=(535.4, 539.2, 320.1, 247.6))
    assert list(source.stamps) == [round(entry["stamp"] * 1e4) * 10**5 for entry in entries]
    for i, frame in enumerate(known):
        assert source.frame(i).camera == frame.camera
        np.testing.assert_allclose(source.truth(i).depth, frame.depth, rtol=1e-6)
        np.testing.assert_allclose(source.truth(i).T_world_camera, frame.T_world_camera, atol=1e-3)


# ------------------------------------------------------------------------------------------------- forms of bags


@pytest.mark.parametrize(
    ("storage", "compression"),
    [
        (StoragePlugin.MCAP, CompressionMode.NONE),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
        (StoragePlugin.MCAP, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.FILE),
        (StoragePlugin.SQLITE3, CompressionMode.NONE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.SQLITE3, CompressionMode.FILE),
    ],
)
def test_storage_and_compression(tmp_path, storage, compression):
    source = opened(bags.write(tmp_path / "bag", bags.camera(STAMPS), storage, compression))
    assert list(source.stamps) == STAMPS
    assert levels(source) == [1, 2, 3, 4, 5]
    assert source.frame(1).camera == bags.CAMERA  # and back


@pytest.mark.parametrize("storage", [StoragePlugin.MCAP, StoragePlugin.SQLITE3])
def test_frames_in_any_order(tmp_path, rng, storage):
    """Some were recorded at the same time, and the stamps are not in the order of recording."""
    stamps = [START + i * SECOND // 10 for i in range(60)]
    order = [i ^ 1 for i in range(60)]
    entries = [("/camera/camera_info", START, bags.info(START))]
    entries += [
        ("/camera/image", START + 10**6 * (n // 3), bags.image(stamps[i], i + 1)) for n, i in enumerate(order)
    ]
    source = opened(bags.write(tmp_path / "bag", entries, storage))
    for i in (*rng.permutation(60).tolist(), *range(60)):
        assert int(source.frame(i).image[0, 0, 0]) == i + 1


def test_split_bag_without_metadata(tmp_path):
    parts = [bags.write(tmp_path / f"part_{i}", bags.camera(STAMPS[i : i + 2])) for i in (0, 2)]
    (tmp_path / "bag").mkdir()
    for part in parts:
        shutil.copy(part / f"{part.name}.mcap", tmp_path / "bag")
    assert list(opened(tmp_path / "bag").stamps) == STAMPS[:4]


@pytest.mark.parametrize("part", [0.3, 0.6, 0.95, 0.999])
def test_truncated_file_gives_what_is_whole(tmp_path, caplog, part):
    camera = Camera(640, 480, 600.0, 600.0, 319.5, 239.5)
    entries = [("/image", t, bags.image(t, level, camera=camera)) for level, t in enumerate(STAMPS * 2, 1)]
    entries = [(topic, t + i, message) for i, (topic, t, message) in enumerate(sorted(entries, key=lambda e: e[1]))]
    (file,) = bags.write(tmp_path / "bag", entries).glob("*.mcap")
    whole = file.read_bytes()
    broken = tmp_path / "broken.mcap"
    broken.write_bytes(whole[: int(len(whole) * part)])
    source = opened(broken, CameraConfig(hfov_deg=60.0))
    full = opened(file, CameraConfig(hfov_deg=60.0))
    assert 10 * part - 3 <= len(source.stamps) <= 10
    assert list(source.stamps) == list(full.stamps)[: len(source.stamps)]
    assert int(source.frame(0).image[0, 0, 0]) == int(full.frame(0).image[0, 0, 0])
    assert "damaged" in caplog.text


def test_one_broken_file_takes_no_other_along(tmp_path, caplog):
    bag = bags.write(tmp_path / "bag", bags.camera(STAMPS))
    (bag / "bag_1.mcap").write_bytes(b"no mcap at all")
    (bag / "bag_2.db3").write_bytes(b"")
    assert levels(opened(bag)) == [1, 2, 3, 4, 5]
    assert "bag_1.mcap cannot be read" in caplog.text


@pytest.mark.parametrize("content", [b"", b"no mcap at all", b"\x89MCAP0\r\n"])
def test_unreadable_bag_is_refused(tmp_path, content):
    (tmp_path / "bag.mcap").write_bytes(content)
    with pytest.raises(SourceError, match="nothing of the bag"):
        opened(tmp_path / "bag.mcap")


@pytest.mark.parametrize("name", ["missing", "."])
def test_what_is_no_recording_is_refused(tmp_path, name):
    with pytest.raises(SourceError, match=r"does not exist|is no recording"):
        opened(tmp_path / name)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("bag.mcap", POINTER, "git lfs pull"),
        ("labels.jsonl", POINTER, "git lfs pull"),
        ("old.bag", b"#ROSBAG V2.0\n", "rosbags-convert"),
        ("old.bag.active", b"#ROSBAG V2.0\n", "rosbags-convert"),
        ("bag.db3-wal", b"7\x7f\x06\x82", "a part of bag.db3"),
        ("bag.db3", b"", "it is empty"),
        ("folder/old.bag", b"#ROSBAG V2.0\n", "bags of ROS 1, .*old.bag"),
        ("folder/1.png", b"", r"images alone; a manifest.json.*1.png"),
        ("folder/bag/bag.mcap", b"", "recordings, each to be given by itself: bag"),
    ],
)
def test_what_is_no_recording_is_called_what_it_is(tmp_path, name, content, said):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(SourceError, match=said):
        opened(tmp_path / name.split("/")[0])


def pieces_of(folder: Path, *names: str) -> Path:
    """A bag whose files have two images each."""
    folder.mkdir()
    for i, name in enumerate(names):
        part = bags.write(
            folder.parent / f"part_{i}",
            bags.camera([STAMPS[0] + (2 * i + k) * SECOND // 10 for k in (0, 1)]),
            StoragePlugin.SQLITE3 if ".db3" in name.lower() else StoragePlugin.MCAP,
        )
        (file,) = part.glob("part_*.*")
        data = file.read_bytes()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(zstd.compress(data) if name.lower().endswith((".zstd", ".zst")) else data)
    return folder


@pytest.mark.parametrize(
    ("files", "named", "images", "said"),
    [
        (["b_0.mcap", "b_1.mcap"], ["b_0.mcap"], 4, "does not name b_1.mcap"),
        (["b_0.mcap", "b_1.mcap.zstd"], ["b_0.mcap.zstd", "b_1.mcap.zstd"], 4, ""),
        (["b_0.mcap", "b_1.mcap"], ["b_0.mcap", "b_1.mcap", "b_2.mcap"], 4, "names what is not there: b_2.mcap"),
        (["b.db3", "b.mcap"], ["b.db3"], 2, "left out: b.mcap"),
        (["B_0.MCAP", "B_1.MCAP.ZSTD"], None, 4, "taken for one bag are B_0.MCAP, B_1.MCAP"),
        (["B_0.MCAP", "B_1.DB3.ZST"], ["b_0.mcap", "b_1.db3.zst"], 4, ""),
        (["b_0.mcap", "b_1.mcap"], ["C:\\bags\\b\\b_0.mcap", "b\\b_1.mcap"], 4, ""),
        (["b/b_0.mcap", "b/b_1.mcap"], ["b/b_0.mcap", "b\\b_1.mcap"], 4, ""),
        (["1/b.mcap", "2/b.mcap"], ["1/b.mcap", "2/b.mcap"], 4, ""),
        (["b.mcap", "other.mcap"], "b.mcap", 2, "left out: other.mcap"),
        (["b_0.mcap", "b_1.mcap"], {"b_0.mcap": 1}, 4, "relative_file_paths is no list"),
        (["b.mcap", "other.mcap"], ["b.mcap"], 2, "left out: other.mcap"),
        (["renamed.mcap"], ["b.mcap"], 2, "names what is not there: b.mcap"),
        (["b_0.mcap", "b_2.mcap"], None, 4, "lacks the pieces with the numbers 1"),
        (["b.db3", "b.mcap"], None, 0, "holds 2 recordings"),
        (["monday.mcap", "tuesday.mcap.zstd"], None, 0, "holds 2 recordings"),
    ],
)
def test_metadata_or_names_decide_what_is_a_bag(tmp_path, caplog, files, named, images, said):
    folder = pieces_of(tmp_path / "bag", *files)
    if named:
        text = json.dumps({"rosbag2_bagfile_information": {"relative_file_paths": named}})
        (folder / "metadata.yaml").write_text(text)
    if images:
        assert len(opened(folder).stamps) == images
        assert said in caplog.text
    else:
        with pytest.raises(SourceError, match=said):
            opened(folder)


@pytest.mark.parametrize("content", ["a: [1, 2", "[]", "rosbag2_bagfile_information: 3", "\x00", ""])
def test_unusable_metadata_do_no_harm(tmp_path, caplog, content):
    folder = pieces_of(tmp_path / "bag", "b_0.mcap", "b_1.mcap")
    (folder / "metadata.yaml").write_text(content)
    assert len(opened(folder).stamps) == 4
    assert "cannot be used" in caplog.text


def test_messages_that_a_killed_recorder_left_beside_its_database_are_read(tmp_path):
    (file,) = bags.write(tmp_path / "bag", bags.camera(STAMPS), StoragePlugin.SQLITE3).glob("*.db3")
    database = sqlite3.connect(file)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("INSERT INTO messages SELECT id + 100, topic_id, timestamp + 1, data FROM messages WHERE id = 2")
    database.commit()
    (tmp_path / "killed").mkdir()
    for part in tmp_path.glob("bag/bag.db3*"):
        shutil.copy(part, tmp_path / "killed")
    database.close()
    assert len(opened(tmp_path / "killed" / "bag.db3").stamps) == len(STAMPS) + 1


def test_one_flipped_byte_costs_what_it_damages(tmp_path, caplog):
    """A file of a chunk for each frame."""
    store, entries = typestore(), bags.camera(STAMPS)[1:]
    writer = McapWriter(tmp_path / "bag.mcap", {"/image": "sensor_msgs/msg/Image"}, store)
    for _, time, message in entries:
        writer.add(time, {"/image": store.serialize_cdr(message, message.__msgtype__)}, "")
    writer.finish()
    data = bytearray((tmp_path / "bag.mcap").read_bytes())
    with (tmp_path / "bag.mcap").open("rb") as file:
        chunks = [at for operation, at, _ in records(file, len(MAGIC)) if operation == CHUNK]
    for field, kept in (
        (chunks[2] + 5, 5),
        (chunks[2], 4),
        (chunks[2] + OVERHEAD + CHUNK_HEAD + 5, 4),
        (chunks[1] + 300, 5),
    ):
        flipped = bytearray(data)
        flipped[field] ^= 0x40
        (tmp_path / "flipped.mcap").write_bytes(flipped)
        caplog.clear()
        source = opened(tmp_path / "flipped.mcap", CameraConfig(hfov_deg=60.0))
        assert len(source.stamps) == kept
        assert ("is damaged" in caplog.text) == (field != chunks[1] + 300)  # a pixel, in a file without checksums


# --------------------------------------------------------------------------------------------- hostile contents


def test_stamps_out_of_order_are_put_in_order(tmp_path):
    entries = bags.camera(STAMPS)
    images = entries[1:]
    images = [(topic, START + i, message) for i, (topic, _, message) in enumerate(images[::2] + images[1::2])]
    source = opened(bags.write(tmp_path / "bag", [entries[0], *images]))
    assert list(source.stamps) == STAMPS
    assert levels(source) == [1, 2, 3, 4, 5]


def test_second_image_of_a_stamp_is_refused(tmp_path):
    entries = [*bags.camera(STAMPS[:2]), ("/camera/image", STAMPS[1] + 5, bags.image(STAMPS[1], 9))]
    source = opened(bags.write(tmp_path / "bag", entries))
    with pytest.raises(FrameError, match="stamp of the image before"):
        source.frame(2)
    assert int(source.frame(1).image[0, 0, 0]) == 2


def test_images_without_stamps_take_the_time_of_recording(tmp_path, caplog):
    entries = [("/image", t, bags.image(0, level)) for level, t in enumerate(STAMPS, 1)]
    source = opened(bags.write(tmp_path / "bag", entries), CameraConfig(hfov_deg=60.0))
    assert list(source.stamps) == STAMPS
    assert "have no stamp" in caplog.text


def test_a_single_stamp_of_zero_is_where_the_clock_begins(tmp_path, caplog):
    later = 5 * SECOND  # of recording
    entries = [(topic, t + later, message) for topic, t, message in bags.camera([0, SECOND, 2 * SECOND])]
    entries += [("/depth", t + later, bags.depth(t, 2.0)) for t in (0, SECOND)]
    source = opened(bags.write(tmp_path / "bag", sorted(entries, key=lambda entry: entry[1])))
    assert list(source.stamps) == [0, SECOND, 2 * SECOND]
    assert [source.truth(i).depth is not None for i in range(3)] == [True, True, False]
    assert "no stamp" not in caplog.text


def test_bad_images_are_refused_one_by_one(tmp_path):
    empty, small = bags.image(STAMPS[1]), bags.image(STAMPS[2], camera=bags.CAMERA.resized(32, 24))
    empty.data = np.zeros(0, np.uint8)
    entries = [e for e in bags.camera(STAMPS) if e[1] not in STAMPS[1:3] or "info" in e[0]]
    entries += [("/camera/image", STAMPS[1], empty), ("/camera/image", STAMPS[2], small)]
    source = opened(bags.write(tmp_path / "bag", entries))
    with pytest.raises(FrameError, match="truncated"):
        source.frame(1)
    with pytest.raises(FrameError, match="the image is 32x24 but camera_info is for 64x48"):
        source.frame(2)
    assert source.frame(3).image[0, 0, 0] == 4


def test_topics_of_unknown_type_do_no_harm(tmp_path):
    from rosbags.rosbag2 import Writer

    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        odd = writer.add_connection("/odd", "robot_msgs/msg/Odd", msgdef="nonsense[", rihs01="RIHS01_0")
        writer.write(odd, START, b"\x00\x01\x00\x00?")
        for topic, time, message in bags.camera(STAMPS[:1]):
            kind = message.__msgtype__
            connection = writer.add_connection(topic, kind, typestore=typestore())
            writer.write(connection, time, typestore().serialize_cdr(message, kind))
    assert levels(opened(tmp_path / "bag")) == [1]


# --------------------------------------------------------------------------------------------------- which topic


def test_ambiguous_images_are_listed_with_a_suggestion(tmp_path):
    entries = bags.camera(STAMPS, "/infra") + bags.camera(STAMPS[:2], "/color")
    bag = bags.write(tmp_path / "bag", sorted(entries, key=lambda e: e[1]))
    with pytest.raises(SourceError) as error:
        opened(bag)
    assert "/infra/image" in str(error.value)
    assert "--image /color/image" in str(error.value)
    assert len(opened(bag, image="/color/image").stamps) == 2
    with pytest.raises(SourceError, match="no topic /colour"):
        opened(bag, image="/colour")


@pytest.mark.parametrize("option", ["image", "camera_info", "true_depth", "true_objects"])
def test_named_topic_of_another_type_is_called_what_it_is(tmp_path, option):
    entries = [*bags.camera(STAMPS[:1]), ("/odom", START, bags.odometry(START, "base", 0.0))]
    with pytest.raises(SourceError, match=f"/odom is nav_msgs/msg/Odometry; --{option.replace('_', '-')} takes "):
        opened(bags.write(tmp_path / "bag", entries), **{option: "/odom"}).truth(0)
    with pytest.raises(SourceError, match="/camera/image is sensor_msgs/msg/Image; --true-poses takes "):
        opened(tmp_path / "bag", true_poses="/camera/image").truth(0)


@pytest.mark.parametrize(
    ("image", "info"), [("camera", ""), ("", "camera"), ("/camera", "camera"), ("camera", "/camera")]
)
def test_names_of_frames_that_do_not_contradict(tmp_path, image, info):
    entries = [
        ("/camera/camera_info", START, bags.info(START, info)),
        ("/camera/image", START, bags.image(START, 1, image)),
    ]
    frame = opened(bags.write(tmp_path / "bag", entries)).frame(0)
    assert (frame.frame_id, frame.camera) == ("camera", bags.CAMERA)


def test_camera_info_is_that_beside_the_images_or_of_their_frame(tmp_path):
    images = bags.camera(STAMPS)[1:]
    other = Camera(64, 48, 80.0, 80.0, 31.5, 23.5)
    far, wrong = (
        ("/far/camera_info", START, bags.info(START)),
        ("/x/camera_info", START, bags.info(START, "x", other)),
    )
    assert opened(bags.write(tmp_path / "frame", [far, wrong, *images])).frame(0).camera == bags.CAMERA
    with pytest.raises(SourceError, match=r"no camera_info for /camera/image.*hfov_deg"):
        opened(bags.write(tmp_path / "none", [wrong, *images]))
    with pytest.raises(SourceError, match=r"--camera-info /(far|near)/camera_info"):
        opened(bags.write(tmp_path / "two", [far, ("/near/camera_info", START, bags.info(START)), *images]))
    with pytest.raises(SourceError, match="belong to different cameras"):
        opened(tmp_path / "none", camera_info="/x/camera_info")
    overruled = CameraConfig(ignore_info_frame=True)
    assert opened(tmp_path / "none", overruled, camera_info="/x/camera_info").frame(0).camera == other
    assert opened(tmp_path / "none", CameraConfig(hfov_deg=60.0)).frame(0).camera.fx == pytest.approx(55.43, abs=0.01)


def test_depth_of_another_frame_is_no_truth(tmp_path, caplog):
    depths = [("/raw/depth", START, bags.depth(START, 3.0, "depth_frame")), ("/depth", START, bags.depth(START))]
    source = opened(bags.write(tmp_path / "bag", bags.camera(STAMPS[:1]) + depths))
    np.testing.assert_array_equal(source.truth(0).depth, np.full((48, 64), 2.0))
    assert "not registered" in caplog.text


def test_depth_more_than_20_ms_away_is_no_truth(tmp_path):
    depths = [("/depth", t, bags.depth(t)) for t in (START + 19_000_000, STAMPS[1] + 21_000_000)]
    source = opened(bags.write(tmp_path / "bag", bags.camera(STAMPS[:2]) + depths))
    assert source.truth(0).depth is not None
    assert source.truth(1).depth is None


# -------------------------------------------------------------------------------------------------- poses, boxes


def moving(parent: str, child: str, xs: dict[int, float]) -> list[bags.Entry]:
    return [("/tf", t, bags.transform(t, parent, child, x)) for t, x in xs.items()]


@pytest.mark.parametrize("slash", ["", "/"], ids=["", "slash"])  # as bags of ROS 1 have it
def test_poses_from_tf_are_chained_and_interpolated(tmp_path, slash):
    entries = bags.camera([START, START + 25_000_000, START + SECOND])
    for _, _, message in entries:
        message.header.frame_id = slash + message.header.frame_id
    entries += moving("odom", "base", {START: 1.0, START + 100_000_000: 2.0, START + 2 * SECOND: 9.0})
    entries += [("/tf_static", START, bags.transform(START, "base", "camera", 0.5))]
    source = opened(bags.write(tmp_path / "bag", sorted(entries, key=lambda e: e[1])))
    assert source.truth(0).T_world_camera[0, 3] == pytest.approx(1.5)
    assert source.truth(1).T_world_camera[0, 3] == pytest.approx(1.75)
    assert source.truth(2).T_world_camera is None  # the poses around it are two seconds apart
    np.testing.assert_allclose(source.mount(slash + "base")[:3, 3], [0.5, 0.0, 0.0])
    with pytest.raises(SourceError, match="does not connect 'arm'"):
        source.mount("arm")


def test_tf_or_odometry_has_to_be_named(tmp_path):
    entries = bags.camera(STAMPS[:1]) + moving("odom", "base", {START: 1.0})
    entries += [("/tf_static", START, bags.transform(START, "base", "camera", 0.5))]
    entries += [("/odometry", START, bags.odometry(START, "base", 7.0))]
    bag = bags.write(tmp_path / "bag", entries)
    with pytest.raises(SourceError, match="--true-poses"):
        opened(bag).truth(0)
    assert opened(bag, true_poses="/odometry").truth(0).T_world_camera[0, 3] == pytest.approx(7.5)
    assert opened(bag, true_poses="/tf").truth(0).T_world_camera[0, 3] == pytest.approx(1.5)


def stamped(kind: str, stamp: int, x: float) -> object:
    """A message of a type with a pose."""
    if kind == "geometry_msgs/msg/TransformStamped":
        (message,) = bags.transform(stamp, "world", "base", x).transforms
        return message
    message = new(kind, header=bags.header(stamp, "world"))
    if kind == "nav_msgs/msg/Path":
        message.poses.append(stamped("geometry_msgs/msg/PoseStamped", stamp, x))
        return message
    pose = message.pose.pose if "Covariance" in kind else message.pose
    pose.position.x = x
    return message


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("geometry_msgs/msg/PoseStamped", False),
        ("geometry_msgs/msg/PoseWithCovarianceStamped", False),
        ("geometry_msgs/msg/TransformStamped", True),
        ("nav_msgs/msg/Path", False),
    ],
)
def test_stamped_poses_are_poses_of_the_camera_or_of_what_is_named(tmp_path, caplog, kind, names):
    entries = bags.camera(STAMPS[:2])
    entries += [("/tf_static", START, bags.transform(START, "base", "camera", 0.5))]
    entries += [("/mocap", t, stamped(kind, t, 1.0 + i)) for i, t in enumerate(STAMPS[:2])]
    bag = bags.write(tmp_path / "bag", entries)
    assert opened(bag).truth(1).T_world_camera[0, 3] == pytest.approx(2.5 if names else 2.0)
    assert ("does not say what it is the pose of" in caplog.text) != names
    assert opened(bag, pose_of="base").truth(1).T_world_camera[0, 3] == pytest.approx(2.5)
    goals = [*entries, ("/goal", START, stamped("geometry_msgs/msg/PoseStamped", START, 9.0))]
    found = opened(bags.write(tmp_path / "two", goals)).truth(1)
    assert "--true-poses has to say which is meant of /goal, /mocap" in found.unknown["pose"]


@pytest.mark.parametrize(("gap", "known"), [(0.0, True), (0.3, False), (0.6, True)])
def test_slow_poses_are_interpolated_with_a_word_or_as_far_as_is_set(tmp_path, caplog, gap, known):
    entries = bags.camera([START + 250_000_000])
    entries += moving("map", "odom", {START + i * SECOND // 2: float(i) for i in range(-2, 4)})
    entries += moving("odom", "camera", {START + i * SECOND // 50: 0.0 for i in range(50)})
    source = opened(bags.write(tmp_path / "bag", sorted(entries, key=lambda e: e[1])), max_pose_gap=gap)
    found = source.truth(0)
    assert "/tf map → odom are 0.5 s apart" in caplog.text
    assert "odom → camera" not in caplog.text
    if known:
        assert found.T_world_camera[0, 3] == pytest.approx(0.5)
    else:
        assert "/tf map → odom around it are more than 0.3 s apart" in found.unknown["pose"]


def test_odometry_of_a_frame_that_does_not_hold_the_camera_is_no_truth(tmp_path):
    entries = [*bags.camera(STAMPS[:1]), ("/odometry", START, bags.odometry(START, "wheel", 7.0))]
    found = opened(bags.write(tmp_path / "bag", entries)).truth(0)
    assert found.T_world_camera is None
    assert "where on it the camera's frame" in found.unknown["pose"]


def test_poses_of_another_frame_on_the_topic_are_left_out_and_counted(tmp_path, caplog):
    entries = [*bags.camera(STAMPS[:3]), *(("/odometry", t, bags.odometry(t, "camera", 1.0)) for t in STAMPS[:3])]
    entries += [("/odometry", START + 1, bags.odometry(STAMPS[1], "arm", 7.0))]
    other = bags.odometry(STAMPS[2], "camera", 7.0)
    other.header.frame_id = "map"
    bag = bags.write(tmp_path / "bag", [*entries, ("/odometry", START + 2, other)])
    source = opened(bag)
    assert [source.truth(i).T_world_camera[0, 3] for i in range(3)] == [1.0, 1.0, 1.0]
    assert "2 of 5 poses are left out: 1 x of 'arm', not of 'camera', 1 x in 'map', not in 'odom'" in caplog.text


def test_what_does_not_fit_together_in_tf_is_said(tmp_path, caplog):
    entries = bags.camera(STAMPS[:1])
    for parent, child, x in (("base", "arm", 0.5), ("base", "arm", 0.7), ("a", "b", 0.0), ("b", "a", 0.0)):
        entries.append(("/tf_static", START, bags.transform(START, parent, child, x)))
    opened(bags.write(tmp_path / "bag", entries)).truth(0)
    assert "/tf_static says several things about 'arm'" in caplog.text
    assert "in a circle, so nothing is known through it: a → b → a" in caplog.text


def test_depth_image_without_measurement_is_no_truth(tmp_path):
    entries = [*bags.camera(STAMPS[:1]), ("/depth", START, bags.depth(START, np.nan))]
    found = opened(bags.write(tmp_path / "bag", entries)).truth(0)
    assert (found.depth, found.unknown["depth"]) == (None, "its depth image holds no measurement")


def test_broken_info_of_another_camera_does_no_harm(tmp_path, caplog, monkeypatch):
    images = [(f"/x{topic}", t, message) for topic, t, message in bags.camera(STAMPS[:1])]
    entries = [("/far/camera_info", START, bags.info(START)), ("/y/camera_info", START, bags.info(START)), images[1]]
    store = typestore()
    serialize = store.serialize_cdr
    lost = entries[1][2]
    monkeypatch.setattr(store, "serialize_cdr", lambda m, kind: serialize(m, kind)[: 40 if m is lost else None])
    source = opened(bags.write(tmp_path / "bag", entries))
    assert source.frame(0).camera == bags.CAMERA
    assert "a message of /y/camera_info is broken" in caplog.text


@pytest.mark.parametrize(
    ("names", "found", "said"),
    [
        ([("chair", np.nan), ("table", 0.5)], "table", ""),
        ([("chair", np.nan)], None, "NaN or infinity"),
        ([(" ", 0.5)], None, "its name is empty"),
    ],
)
def test_names_of_detections_need_a_score_and_letters(tmp_path, caplog, names, found, said):
    box = Box3D("chair", 1.0, np.array([0.1, 0.2, 3.0]), np.array([0.5, 0.6, 0.7]), np.eye(3))
    message = bags.PACKER.detections(bags.header(START), [box])
    message.detections[0].results = [
        new(
            "vision_msgs/msg/ObjectHypothesisWithPose",
            hypothesis=new("vision_msgs/msg/ObjectHypothesis", class_id=name, score=score),
        )
        for name, score in names
    ]
    bag = bags.write(tmp_path / "bag", [*bags.camera(STAMPS[:1]), ("/objects", START, message)])
    boxes = opened(bag).truth(0).boxes
    assert (boxes and boxes[0].label) == found
    assert said in caplog.text


def test_detections_are_true_boxes_in_the_camera_frame_only(tmp_path):
    box = Box3D("chair", 1.0, np.array([0.1, 0.2, 3.0]), np.array([0.5, 0.6, 0.7]), np.eye(3))
    for frame_id in ("camera", "map"):
        message = bags.PACKER.detections(bags.header(START, frame_id), [box])
        bag = bags.write(tmp_path / frame_id, [*bags.camera(STAMPS[:1]), ("/objects", START, message)])
        if frame_id == "camera":
            (found,) = opened(bag).truth(0).boxes
            assert found.label == "chair"
            assert found.iou(box) == pytest.approx(1.0)
        else:
            assert "must be in the camera's frame" in opened(bag).truth(0).unknown["boxes"]


def test_quantised_inverse_depth():
    """As compressed_depth_image_transport writes floats: value = A / z + B, behind twelve bytes; 0 is unknown."""
    a, b = 100.0, -9.0
    values = np.array([[0, 109, 59, 19]], np.uint16)
    png = cv2.imencode(".png", values)[1].tobytes()

    def read(b: float) -> np.ndarray:
        data = b"\0" * 4 + np.array([a, b], "<f4").tobytes() + png
        return images.compressed_depth(SimpleNamespace(format="32FC1; compressedDepth png", data=data))

    np.testing.assert_allclose(read(b), [[np.nan, 100 / 118, 100 / 68, 100 / 28]], rtol=1e-6)
    np.testing.assert_allclose(read(59.0), [[np.nan, 2.0, np.nan, np.nan]])  # infinite, and behind the camera


def test_truth_of_a_distorted_camera_lies_on_the_rectified_image(tmp_path):
    """A vertical depth edge bends with the lens; rectified it is where the rectified image has its edge."""
    message, distorted = bags.depth(START), bags.info(START)
    columns = np.arange(64)
    step = np.where(columns < 40, 1.0, 4.0).astype(np.float32)
    message.data = np.tile(step, (48, 1)).view(np.uint8).ravel()
    picture = bags.image(START)
    picture.data = np.repeat(np.tile(np.where(columns < 40, 20, 200).astype(np.uint8), (48, 1)), 3, axis=1).ravel()
    distorted.d = np.array([-0.4, 0.1, 0.0, 0.0, 0.0])
    entries = [("/camera_info", START, distorted), ("/image", START, picture), ("/depth", START, message)]
    source = opened(bags.write(tmp_path / "bag", entries))
    frame, depth = source.frame(0), source.truth(0).depth
    assert set(np.unique(depth[np.isfinite(depth)])) == {1.0, 4.0}  # nothing between
    np.testing.assert_array_equal(
        np.isnan(depth), np.zeros_like(depth, bool) if frame.valid is None else ~frame.valid
    )
    sure = np.isfinite(depth) & ((frame.image[..., 0] < 60) | (frame.image[..., 0] > 160))
    assert sure.mean() > 0.8
    np.testing.assert_array_equal(depth[sure] > 2.0, frame.image[sure][:, 0] > 100)

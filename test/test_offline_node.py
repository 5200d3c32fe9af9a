"""The same frames through the node, over DDS, and through `vlm3 run` give the same messages."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import bags
import ros
from record import typestore
from rosbags.highlevel import AnyReader
from test_offline_run import OUTPUTS, STAMPS, ahead, vlm3
from test_offline_types import as_values

PARAMETERS = {
    **ros.answered_by("doubles:slow:0"),
    "node.tasks": ["depth", "pose", "matches", "objects"],
    "depth.points": 60,
    "cloud.stride": 2,  # alone of all settings it has another default without ROS
}


def test_node_and_run_agree(tmp_path):
    entries = [(topic.replace("/camera/", "/color/"), time, message) for topic, time, message in ahead(STAMPS)]
    bag = bags.write(tmp_path / "camera", entries)
    with (
        ros.node(PARAMETERS) as node,
        ros.Process(
            ros.TEST / "record.py", tmp_path / "node", *(f"{t}={kind}" for t, kind in OUTPUTS.items())
        ) as rec,
    ):
        rec.wait_for("ready")
        with ros.Process(ros.TEST / "replay.py", bag) as replay:
            assert replay.wait(60.0) == 0, replay.output
        assert rec.interrupt() == 0, rec.output
        assert node.interrupt() == 0, node.output
    settings = [f"{name}={value}".replace("'", "") for name, value in PARAMETERS.items()]
    assert vlm3("run", bag, "--out", tmp_path / "out", *(w for s in settings for w in ("--set", s))) == 0
    online, offline = read(tmp_path / "node"), read(tmp_path / "out" / "bag")
    assert set(online) == set(offline) == set(OUTPUTS)
    for topic in OUTPUTS:
        assert len(online[topic]) == len(offline[topic]) == len(STAMPS) - (topic == "/matches"), topic
        for theirs, ours in zip(online[topic], offline[topic], strict=True):
            assert repr(theirs) == repr(ours), topic  # repr, so that NaN equals NaN


def read(bag: Path) -> dict[str, list[Any]]:
    """All messages as values, by topic."""
    found = defaultdict(list)
    with AnyReader([bag], default_typestore=typestore()) as reader:
        for connection, _, raw in reader.messages():
            found[connection.topic].append(as_values(reader.deserialize(raw, connection.msgtype)))
    return found

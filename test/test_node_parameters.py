"""Parameters as an operator meets them: described, checked, changed at run time, given at start."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import rclpy
import ros
from live import Live, Peer, image, info, live
from rcl_interfaces.msg import Parameter, ParameterValue, SetParametersResult
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters, SetParametersAtomically
from rclpy.node import Node
from rclpy.parameter import Parameter as Value
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.topic_endpoint_info import TopicEndpointInfo
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from vlm3_ros.config import Config, settings
from vlm3_ros.ros.stream import Stream


@pytest.fixture(scope="module")
def running() -> Iterator[Live]:
    with live() as node:
        yield node


def change(peer: Peer, **values: object) -> SetParametersResult:
    """Set one parameter through the node's service (`__` stands for the dot)."""
    wanted = [message(name.replace("__", "."), value) for name, value in values.items()]
    return peer.call(SetParameters, "set_parameters", parameters=wanted).results[0]


def message(name: str, value: object) -> Parameter:
    return Value(name, value=value).to_parameter_msg()


def samples(peer: Peer) -> int:
    """How many pixels the next frame's depth comes from."""
    heard = peer.heard["depth/samples"] or peer.listen(PointCloud2, "depth/samples")
    images, infos = peer.connected(Image, "image"), peer.connected(CameraInfo, "camera_info")
    heard.clear()

    def send() -> None:
        infos.publish(info())
        images.publish(image(peer.next_stamp()))

    peer.until_sent(send, lambda: heard, "depth samples")
    return heard[-1].width


def test_every_setting_is_described(running):
    known = {s.name: s for s in settings()}
    described = running.peer.call(DescribeParameters, "describe_parameters", names=list(known)).descriptors
    for descriptor, (name, setting) in zip(described, known.items(), strict=True):
        assert (descriptor.name, descriptor.description) == (name, setting.help)
        assert descriptor.read_only == (not setting.live)
        ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
        assert [(r.from_value, r.to_value) for r in ranges] == (
            [(setting.low, setting.high)] if setting.high is not None else []
        )


def test_live_parameter_takes_effect_with_the_next_frame(running):
    assert samples(running.peer) == 12
    assert change(running.peer, depth__points=48).successful
    assert samples(running.peer) == 48
    assert change(running.peer, depth__points=12).successful


@pytest.mark.parametrize(
    ("change_to", "reason"),
    [
        ({"depth__points": 0}, ["depth.points", "range"]),
        ({"cloud__max_m": 1000.0}, ["cloud.max_m", "range"]),
        ({"depth__scale": float("nan")}, ["depth.scale"]),
        ({"depth__statistic": "mean"}, ["depth.statistic", "greedy, median, mode", "'mean'"]),
        ({"depth__points": "many"}, ["STRING", "INTEGER"]),
        ({"vlm__device": "cpu"}, ["vlm.device", "read-only"]),
        ({"node__tasks": ["pose"]}, ["node.tasks", "read-only"]),
    ],
    ids=str,
)
def test_wrong_value_is_rejected_with_the_reason(running, change_to, reason):
    (name,) = (name.replace("__", ".") for name in change_to)
    before = running.peer.call(GetParameters, "get_parameters", names=[name]).values
    result = change(running.peer, **change_to)
    assert not result.successful
    assert all(part in result.reason for part in reason), result.reason
    assert running.peer.call(GetParameters, "get_parameters", names=[name]).values == before


def test_all_or_none_of_an_atomic_change(running):
    wanted = [message("depth.points", 48), message("depth.max_m", -1.0)]
    result = running.peer.call(SetParametersAtomically, "set_parameters_atomically", parameters=wanted).result
    assert not result.successful
    assert samples(running.peer) == 12


def test_a_parameter_cannot_be_taken_away(running):
    wanted = [Parameter(name="depth.points", value=ParameterValue())]
    result = running.peer.call(SetParameters, "set_parameters", parameters=wanted).results[0]
    assert not result.successful
    assert samples(running.peer) == 12


def test_qos_is_overridable():
    """Policies by parameter, as `ros2 run` passes them, for a topic in and a topic out."""
    policies = {
        "qos_overrides./test_qos/depth/image.publisher.reliability": "best_effort",
        "qos_overrides./test_qos/depth/image.publisher.depth": 1,
        "qos_overrides./tf.publisher.durability": "transient_local",
        "qos_overrides./test_qos/image.subscription.reliability": "reliable",
        "qos_overrides./test_qos/camera_info.subscription.durability": "transient_local",
    }
    peer = Peer("/test_qos")
    try:
        with ros.node({**ros.answered_by("doubles:slow:0"), **policies}, "-r", "__ns:=/test_qos") as process:
            process.wait_for("perceiving")
            published, subscribed = peer.node.get_publishers_info_by_topic, peer.node.get_subscriptions_info_by_topic

            def policies_of(endpoints: Callable[[str], list[TopicEndpointInfo]], topic: str) -> QoSProfile:
                return peer.until(
                    lambda: next((e for e in endpoints(topic) if e.node_namespace == "/test_qos"), None), topic
                ).qos_profile

            assert policies_of(published, "depth/image").reliability == ReliabilityPolicy.BEST_EFFORT
            assert policies_of(published, "points").reliability == ReliabilityPolicy.RELIABLE
            assert policies_of(published, "/tf").durability == DurabilityPolicy.TRANSIENT_LOCAL
            assert policies_of(subscribed, "image").reliability == ReliabilityPolicy.RELIABLE
            assert policies_of(subscribed, "camera_info").reliability == ReliabilityPolicy.BEST_EFFORT
            assert policies_of(subscribed, "camera_info").durability == DurabilityPolicy.TRANSIENT_LOCAL
            assert process.interrupt() == 0, process.output
    finally:
        peer.close()


def test_namespace_remapping_and_parameter_file(tmp_path: Path):
    """The arguments that a launch file passes: `-r __ns:=…`, `-r __node:=…`, `-r from:=to`, `--params-file`."""
    file = tmp_path / "robot.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    node: {tasks: [depth]}\n    depth: {points: 12}\n"
        "    vlm: {checkpoint: {depth: 'test:doubles:slow:0'}}\n"
    )
    arguments = ["-r", "__ns:=/robot", "-r", "__node:=eyes", "-r", "image:=front/image_raw"]
    arguments += ["-r", "camera_info:=front/camera_info", "-r", "depth/image:=/maps/depth"]
    arguments += ["--params-file", str(file)]
    peer = Peer("/robot")
    try:
        with ros.node({}, *arguments) as process:
            depth = peer.listen(Image, "/maps/depth")
            images = peer.connected(Image, "front/image_raw")
            infos = peer.connected(CameraInfo, "front/camera_info")

            def send() -> None:
                infos.publish(info())
                images.publish(image(peer.next_stamp()))

            peer.until_sent(send, lambda: depth, "depth image")
            assert "/robot/front/image_raw" in process.output
            peer.until(lambda: ("eyes", "/robot") in peer.node.get_node_names_and_namespaces(), "the node's new name")
            assert process.interrupt() == 0, process.output
    finally:
        peer.close()


REMAPPED = {
    "base": (["image:=/cam/image_raw"], "/cam/image_raw/compressed"),
    "base of a namespace": (["image:=cam/image_raw"], "/remapped/cam/image_raw/compressed"),
    "the topic itself": (["image/compressed:=/cam/jpegs"], "/cam/jpegs"),
    "both": (["image:=/cam/image_raw", "image/compressed:=/cam/jpegs"], "/cam/jpegs"),
    "nothing": ([], "/remapped/image/compressed"),
}


@pytest.mark.parametrize("case", REMAPPED)
def test_compressed_topic_follows_the_image_topic(case):
    rules, topic = REMAPPED[case]
    arguments = ["--ros-args", "-r", "__ns:=/remapped", *(word for rule in rules for word in ("-r", rule))]
    config = Config().updated({"node.image_transport": "compressed"})
    context = rclpy.Context()
    rclpy.init(context=context)
    node = Node("eyes", cli_args=arguments, context=context)
    try:
        assert Stream(node, "", config, threading.Condition()).image_topic == topic
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_unknown_parameters_are_said_with_the_nearest_name(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "/**:\n  ros__parameters:\n    depth: {pionts: 12}\n    use_sim_time: false\n    somebody: {elses: 1}\n"
        "    qos_overrides: {/camera_info: {subscription: {depth: 1}}}\n"
    )
    policy = {"qos_overrides./image.subscription.depth": 2}
    parameters = {**ros.answered_by("doubles:slow:0"), "labels": ["chair"], **policy}
    with ros.node(parameters, "--params-file", str(file)) as process:
        process.wait_for("perceiving")
        assert "there is no parameter depth.pionts; is depth.points meant?; it is ignored" in process.output
        assert "there is no parameter labels; is objects.labels meant?" in process.output
        assert "there is no parameter somebody.elses; it is ignored" in process.output
        assert process.output.count("there is no parameter") == 3
        assert process.interrupt() == 0, process.output


WRONG: dict[str, tuple[dict[str, object], list[str]]] = {
    "out of range": ({"depth.points": 0}, ["depth.points", "pixels asked per frame"]),
    "unknown task": ({"node.tasks": ["depth", "smell"]}, ["node.tasks", "smell", "depth, pose, matches, objects"]),
    "no topic name": ({"node.cameras": ["1st"]}, ["node.cameras", "'1st'", "topic"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_value_at_start_ends_the_node(case):
    parameters, texts = WRONG[case]
    with ros.node(parameters) as process:
        assert process.wait(60.0) == 2
        assert all(text in process.output for text in texts), process.output
        assert "Traceback" not in process.output


def test_list_without_entries_in_a_file_is_explained(tmp_path: Path):
    file = tmp_path / "empty.yaml"
    file.write_text("/**:\n  ros__parameters:\n    objects: {labels: []}\n")
    with ros.node({}, "--params-file", str(file)) as process:
        assert process.wait(60.0) == 2
        assert "objects.labels" in process.output
        assert "ROS drops a list without entries" in process.output


def test_wrong_value_in_a_file_ends_the_node(tmp_path: Path):
    file = tmp_path / "wrong.yaml"
    file.write_text("/**:\n  ros__parameters:\n    pose:\n      odom_frame: 7\n")
    with ros.node({}, "--params-file", str(file)) as process:
        assert process.wait(60.0) == 2
        assert "pose.odom_frame" in process.output

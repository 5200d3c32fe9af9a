"""Start the vlm3 node on a camera, or on a bag.

ros2 launch vlm3_ros vlm3.launch.py image:=/camera/color/image_raw camera_info:=/camera/color/camera_info
ros2 launch vlm3_ros vlm3.launch.py bag:=run1 image:=/cam/image_raw camera_info:=/cam/camera_info rviz:=true

A bag is played when the node is active and has its models loaded, and the launch ends after its last image.
"""

from pathlib import Path
from typing import Any

import yaml
from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable, Shutdown
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from vlm3_ros import parameter_file
from vlm3_ros.config import ConfigError, one_checkpoint

SHARE = Path(get_package_share_directory("vlm3_ros"))
YES_OR_NO = ["true", "false", "True", "False"]

ARGUMENTS = (
    DeclareLaunchArgument("image", default_value="image", description="image topic"),
    DeclareLaunchArgument("camera_info", default_value="camera_info", description="camera_info topic"),
    DeclareLaunchArgument(
        "image_transport",
        default_value="",
        choices=["", "raw", "compressed"],
        description="compressed: subscribe to <image>/compressed (default: as in the parameter file)",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node and its outputs"),
    DeclareLaunchArgument(
        "model", default_value="", description="one checkpoint for all tasks: hub id, folder or bundled"
    ),
    DeclareLaunchArgument("config", default_value=str(SHARE / "config" / "vlm3.yaml"), description="parameter file"),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="",
        choices=["", *YES_OR_NO],
        description="take the time from /clock (default: as in the parameter file)",
    ),
    DeclareLaunchArgument(
        "bag", default_value="", description="bag to play when the node is ready; implies use_sim_time"
    ),
    DeclareLaunchArgument("rate", default_value="1.0", description="of the bag: factor on its speed"),
    DeclareLaunchArgument(
        "delay", default_value="1.0", description="of the bag: seconds for subscribers to be found before it plays"
    ),
    DeclareLaunchArgument("start", default_value="0.0", description="of the bag: seconds to leave out at its start"),
    DeclareLaunchArgument(
        "loop", default_value="false", choices=YES_OR_NO, description="of the bag: begin again at its end"
    ),
    DeclareLaunchArgument("rviz", default_value="false", choices=YES_OR_NO, description="show the outputs in RViz"),
)


def generate_launch_description() -> LaunchDescription:
    """The arguments, and what they start."""
    return LaunchDescription(
        [
            *ARGUMENTS,
            # Larger shared-memory segments: without them Fast DDS loses best-effort images above 512 KiB.
            SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", str(SHARE / "config" / "fastdds.xml")),
            OpaqueFunction(function=_start),
        ]
    )


def _start(context: LaunchContext) -> list:
    """The node, RViz where it is wanted, and the bag where there is one."""
    value = {argument.name: LaunchConfiguration(argument.name).perform(context) for argument in ARGUMENTS}
    parameter_file.read(Path(value["config"]), _parsed, value["namespace"])
    clock: dict[str, Any] = {}
    if value["bag"] or value["use_sim_time"]:
        clock["use_sim_time"] = bool(value["bag"]) or value["use_sim_time"].lower() == "true"
    actions = [_node(value, clock), _rviz(value, clock)]
    if value["bag"]:
        actions.append(_player(value))
    return actions


def _node(value: dict[str, str], clock: dict[str, Any]) -> Node:
    overrides = dict(clock)  # of the parameter file
    if value["image_transport"]:
        overrides["node.image_transport"] = value["image_transport"]
    if value["bag"]:
        overrides["vlm.preload"] = True
    if value["model"]:
        overrides |= one_checkpoint(value["model"])
    return Node(
        package="vlm3_ros",
        executable="vlm3_node",
        namespace=value["namespace"],
        parameters=[value["config"], overrides],
        remappings=[("image", value["image"]), ("camera_info", value["camera_info"])],
        output="screen",
        on_exit=_ended if value["bag"] else None,
    )


def _rviz(value: dict[str, str], clock: dict[str, Any]) -> Node:
    return Node(
        package="rviz2",
        executable="rviz2",
        namespace=value["namespace"],
        arguments=["-d", str(SHARE / "config" / "vlm3.rviz")],
        parameters=[clock],
        remappings=[("image", value["image"]), ("image/compressed", f"{value['image']}/compressed")],
        condition=IfCondition(LaunchConfiguration("rviz")),
    )


def _player(value: dict[str, str]) -> Node:
    options = ["--clock", "100", "--rate", value["rate"], "--start-offset", value["start"]]
    options += ["--disable-keyboard-controls"]
    if float(value["delay"]):  # `ros2 bag play` refuses 0
        options += ["--delay", value["delay"]]
    if value["loop"].lower() == "true":
        options += ["--loop"]
    return Node(
        package="vlm3_ros",
        executable="play_bag",
        namespace=value["namespace"],
        arguments=[value["bag"], *options],
        output="screen",
        on_exit=_ended,
    )


def _ended(event: Any, context: LaunchContext) -> Shutdown | None:
    """With the bag or the node all ends; as an error where it is one, so that `ros2 launch` returns 1."""
    if context.is_shutdown:
        return None
    if event.returncode:
        raise RuntimeError(f"{event.process_name} ended with status {event.returncode}; it says why above")
    return Shutdown(reason="the bag has been played")


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"it is no YAML: {error}") from error

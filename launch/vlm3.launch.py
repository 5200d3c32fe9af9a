"""Start the vlm3 node on a camera, or on a bag.

ros2 launch vlm3_ros vlm3.launch.py image:=/camera/color/image_raw camera_info:=/camera/color/camera_info
ros2 launch vlm3_ros vlm3.launch.py bag:=run1 image:=/cam/image_raw camera_info:=/cam/camera_info rviz:=true
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction, SetEnvironmentVariable
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(get_package_share_directory("vlm3_ros"))
CHECKPOINTS = ("depth", "matching", "pose", "objects", "grounding")


def generate_launch_description() -> LaunchDescription:
    """The arguments, and what they start."""
    return LaunchDescription(
        [
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
            DeclareLaunchArgument(
                "config", default_value=str(SHARE / "config" / "vlm3.yaml"), description="parameter file"
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="",
                choices=["", "true", "false"],
                description="take the time from /clock (default: as in the parameter file)",
            ),
            DeclareLaunchArgument("bag", default_value="", description="bag to play; implies use_sim_time"),
            DeclareLaunchArgument("rviz", default_value="false", description="show the outputs in RViz"),
            # Larger shared-memory segments: without them Fast DDS loses best-effort images above 512 KiB.
            SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", str(SHARE / "config" / "fastdds.xml")),
            OpaqueFunction(function=_start),
            Node(
                package="rviz2",
                executable="rviz2",
                arguments=["-d", str(SHARE / "config" / "vlm3.rviz")],
                condition=IfCondition(LaunchConfiguration("rviz")),
            ),
        ]
    )


def _start(context: LaunchContext) -> list:
    """The node, and the bag where there is one."""
    value = {
        name: LaunchConfiguration(name).perform(context)
        for name in ("image", "camera_info", "image_transport", "namespace", "model", "config", "use_sim_time", "bag")
    }
    overrides = {}  # of the parameter file
    if value["image_transport"]:
        overrides["node.image_transport"] = value["image_transport"]
    if value["bag"] or value["use_sim_time"]:
        overrides["use_sim_time"] = bool(value["bag"]) or value["use_sim_time"] == "true"
    if value["model"]:
        overrides |= {f"vlm.checkpoint.{task}": value["model"] for task in CHECKPOINTS}
    actions = [
        Node(
            package="vlm3_ros",
            executable="vlm3_node",
            namespace=value["namespace"],
            parameters=[value["config"], overrides],
            remappings=[
                ("image", value["image"]),
                ("image/compressed", f"{value['image']}/compressed"),
                ("camera_info", value["camera_info"]),
            ],
            output="screen",
        )
    ]
    if value["bag"]:
        actions.append(ExecuteProcess(cmd=["ros2", "bag", "play", "--clock", "100", value["bag"]], output="screen"))
    return actions

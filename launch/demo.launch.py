"""The node on the simulated room instead of a camera.

ros2 launch vlm3_ros demo.launch.py rviz:=true
ros2 launch vlm3_ros demo.launch.py model:=facebook/VLM3-depth rviz:=true
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, ResetLaunchConfigurations
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(get_package_share_directory("vlm3_ros"))


def generate_launch_description() -> LaunchDescription:
    """The node, which looks for what is in the room, and the simulator, which waits for it."""
    node = PythonLaunchDescriptionSource(str(SHARE / "launch" / "vlm3.launch.py"))
    value = {name: LaunchConfiguration(name) for name in ("model", "namespace", "config", "rviz")}
    return LaunchDescription(
        [
            DeclareLaunchArgument("model", default_value="bundled", description="hub id, folder or bundled"),
            DeclareLaunchArgument("namespace", default_value="", description="namespace of simulator and node"),
            DeclareLaunchArgument(
                "config",
                default_value=str(SHARE / "config" / "demo.yaml"),
                description="parameter file of both",
            ),
            DeclareLaunchArgument("rviz", default_value="false", description="show the outputs in RViz"),
            # The other arguments of vlm3.launch.py are for other cameras; here they are not to be had.
            ResetLaunchConfigurations(value),
            IncludeLaunchDescription(node, launch_arguments=value.items()),
            Node(
                package="vlm3_ros",
                executable="sim_node",
                namespace=value["namespace"],
                parameters=[value["config"], {"wait_for": "depth/image"}],
                output="screen",
            ),
        ]
    )

"""The node on the simulated room instead of a camera.

ros2 launch vlm3_ros demo.launch.py rviz:=true
ros2 launch vlm3_ros demo.launch.py model:=facebook/VLM3-depth rviz:=true
"""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = Path(get_package_share_directory("vlm3_ros"))


def generate_launch_description() -> LaunchDescription:
    """The simulator, and the node with its defaults."""
    node = PythonLaunchDescriptionSource(str(SHARE / "launch" / "vlm3.launch.py"))
    passed = ("model", "rviz")
    return LaunchDescription(
        [
            DeclareLaunchArgument("model", default_value="bundled", description="hub id, folder or bundled"),
            DeclareLaunchArgument("rviz", default_value="false", description="show the outputs in RViz"),
            Node(package="vlm3_ros", executable="sim_node", output="screen"),
            IncludeLaunchDescription(node, launch_arguments=[(name, LaunchConfiguration(name)) for name in passed]),
        ]
    )

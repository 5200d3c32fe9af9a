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
    """The simulator, which waits for the node, and the node that looks for what is in the room."""
    node = PythonLaunchDescriptionSource(str(SHARE / "launch" / "vlm3.launch.py"))
    arguments = [(name, LaunchConfiguration(name)) for name in ("model", "rviz")]
    arguments.append(("config", str(SHARE / "config" / "demo.yaml")))
    return LaunchDescription(
        [
            DeclareLaunchArgument("model", default_value="bundled", description="hub id, folder or bundled"),
            DeclareLaunchArgument("rviz", default_value="false", description="show the outputs in RViz"),
            Node(
                package="vlm3_ros",
                executable="sim_node",
                parameters=[{"wait_for": "depth/image"}],
                output="screen",
            ),
            IncludeLaunchDescription(node, launch_arguments=arguments),
        ]
    )

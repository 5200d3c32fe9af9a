"""The process of the node."""

from vlm3_ros.ros.process import run


def main() -> int:
    """Run the node until it is interrupted; returns the exit status."""
    return run("vlm3_ros.ros.lifecycle", "Vlm3Node")

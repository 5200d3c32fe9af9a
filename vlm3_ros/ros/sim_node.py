"""The process of the simulated camera."""

from vlm3_ros.ros.process import run


def main() -> int:
    """Publish until interrupted; returns the exit status."""
    return run("vlm3_ros.ros.simulator", "SimNode")

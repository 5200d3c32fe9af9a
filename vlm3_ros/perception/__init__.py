"""From a frame to a scene: what the node does with every image and the offline runner with every frame of a bag."""

from vlm3_ros.perception.pipeline import Perception
from vlm3_ros.perception.scene import DepthView, Frame, Matches, Samples, Scene

__all__ = ["DepthView", "Frame", "Matches", "Perception", "Samples", "Scene"]

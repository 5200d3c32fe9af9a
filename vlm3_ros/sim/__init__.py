"""A simulated room with exact truth: pictures, depth, things, poses. For the demo, the tests and training."""

from vlm3_ros.sim.demo import demo_room
from vlm3_ros.sim.layout import random_room
from vlm3_ros.sim.path import viewpoint, walk
from vlm3_ros.sim.rendering import Rendering, render
from vlm3_ros.sim.room import Room, Thing
from vlm3_ros.sim.truth import VisibleBox, correspondences, covisibility, relative_pose, visible_boxes

__all__ = [
    "Rendering",
    "Room",
    "Thing",
    "VisibleBox",
    "correspondences",
    "covisibility",
    "demo_room",
    "random_room",
    "relative_pose",
    "render",
    "viewpoint",
    "visible_boxes",
    "walk",
]

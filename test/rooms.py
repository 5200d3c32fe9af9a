"""Cameras, and the barest of rooms, whose depth is known in closed form."""

from __future__ import annotations

from vlm3_ros.camera import Camera
from vlm3_ros.sim import Room, Thing
from vlm3_ros.sim.room import Material, Part

QVGA = Camera(320, 240, 260.0, 260.0, 159.5, 119.5)
CAMERAS = {
    "qvga": QVGA,
    "tall": Camera(97, 160, 90.0, 90.0, 48.0, 79.5),
    "wide": Camera(320, 100, 110.0, 110.0, 159.5, 49.5),
    "tele": Camera(200, 150, 700.0, 700.0, 99.5, 74.5),
    "uneven": Camera(240, 180, 200.0, 150.0, 100.0, 95.0),
}
GREY = Material("plaster", (0.5, 0.5, 0.5), (0.8, 0.8, 0.8))


def bare(*things: Thing) -> Room:
    return Room((6.0, 5.0, 2.5), GREY, GREY, (GREY,) * 4, things)


def single(shape: str, size: tuple[float, float, float], at: tuple[float, float, float], yaw: float = 0.0) -> Thing:
    return Thing.standing("it", [Part(shape, (0.0, 0.0, size[2] / 2), size, GREY)], at, yaw)

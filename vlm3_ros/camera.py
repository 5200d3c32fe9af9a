"""Cameras: what a CameraInfo says, the rectified pinhole it leads to, and the size at which a VLM sees it.

Pixel coordinates are (u, v) = (column, row) with the centre of the top-left pixel at (0, 0), as in ROS and OpenCV.
Camera axes are X right, Y down, Z forward (REP 103, optical frame). Lengths are metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

TOKEN_PX = 32  # side of the image square behind one token of Qwen3-VL: patch 16 px, 2 × 2 patches merged
MIN_TOKENS = 64  # the processor never shows the model less than 65,536 square pixels


class CalibrationError(ValueError):
    """The calibration cannot be used; the message says what is wrong with it and what to do."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion.

    ``fx`` and ``fy`` may differ: an image that needs no rectification keeps its own geometry, so that what is
    published lies pixel on pixel on what came in. The VLM's view of it has square pixels; see `unified`.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.width, self.height

    @property
    def K(self) -> np.ndarray:
        """Intrinsic matrix [3, 3]."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def focal(self) -> float:
        """Geometric mean of the two focal lengths, in pixels: what decides how large things appear."""
        return math.sqrt(self.fx * self.fy)

    def resized(self, width: int, height: int) -> Camera:
        """The same view sampled at another size, its edges kept in place."""
        sx, sy = width / self.width, height / self.height
        return Camera(
            width, height, self.fx * sx, self.fy * sy, (self.cx + 0.5) * sx - 0.5, (self.cy + 0.5) * sy - 0.5
        )

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] to viewing rays [..., 3] with z = 1: multiply by depth along Z to get points."""
        pixels = np.asarray(pixels, float)
        rays = np.ones((*pixels.shape[:-1], 3))
        rays[..., 0] = (pixels[..., 0] - self.cx) / self.fx
        rays[..., 1] = (pixels[..., 1] - self.cy) / self.fy
        return rays

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points [..., 3] in camera axes to pixels [..., 2]; NaN for points that are not in front."""
        points = np.asarray(points, float)
        z = np.where(points[..., 2] > 0.0, points[..., 2], np.nan)
        return np.stack([points[..., 0] / z * self.fx + self.cx, points[..., 1] / z * self.fy + self.cy], axis=-1)

    def pixels_in(self, other: Camera, pixels: np.ndarray) -> np.ndarray:
        """Pixels [..., 2] of this camera in ``other``, which shows the same view at another size."""
        return (np.asarray(pixels, float) + 0.5) * np.divide(other.size, self.size) - 0.5


# ------------------------------------------------------------------------------------------- what the VLM sees


def unified(camera: Camera, focal: float, max_tokens: int) -> Camera:
    """The view of ``camera`` at the unified focal length, at a size the VLM's processor leaves alone.

    VLM³ resizes every image so that its focal length is ``focal`` pixels (both axes, so fx = fy), and Qwen3-VL's
    processor then rounds each side to a multiple of 32. Both happen here in one step. Where the result would need
    more than ``max_tokens`` image tokens (wide cameras), it is made smaller. The focal length that results is in the
    returned camera, up to 2 % off by rounding and smaller by the bound; `metric_scale` takes it out of the answers.
    """
    width, height = int(camera.width * focal / camera.fx), int(camera.height * focal / camera.fy)
    return camera.resized(*_token_size(width, height, max_tokens))


def bounded(camera: Camera, longest_edge: int, max_tokens: int) -> Camera:
    """The view of ``camera`` with its longest edge near ``longest_edge`` pixels (VLM³'s correspondence task)."""
    scale = longest_edge / max(camera.size)
    return camera.resized(*_token_size(int(camera.width * scale), int(camera.height * scale), max_tokens))


def taken_for(seen: Camera, focal: float) -> Camera:
    """The camera a model trained at one focal length takes ``seen`` for."""
    return Camera(*seen.size, focal, focal, seen.cx, seen.cy)


def metric_scale(seen: Camera, focal: float) -> float:
    """Factor from a length a model answers, taking its view for one of ``focal`` pixels, to the true length.

    The same object twice as large in the image is either twice as near or seen with twice the focal length: a model
    that believes in ``focal`` answers ``focal / seen.focal`` times the true depth along Z (the canonical camera of
    Metric3D, arXiv 2307.10984). Where it answers ray lengths, these are rays of the camera it believes in: see
    `taken_for`.
    """
    return seen.focal / focal


def _token_size(width: int, height: int, max_tokens: int) -> tuple[int, int]:
    """Both sides as multiples of 32, as Qwen's smart_resize has them: at least MIN_TOKENS, at most max_tokens.

    Where the two leave no room, with a bound near MIN_TOKENS or a strip of an image, the upper bound holds.
    """
    width, height = max(1, width), max(1, height)
    if max(width, height) > 200 * min(width, height):
        raise CalibrationError(
            f"the camera's image, seen as {width}x{height}, has one side more than 200 times longer than the other, "
            "which Qwen3-VL cannot take: crop it, or check fx and fy"
        )
    columns, rows = max(1, round(width / TOKEN_PX)), max(1, round(height / TOKEN_PX))
    area = width * height / TOKEN_PX**2
    if columns * rows > max_tokens:
        shrink = math.sqrt(area / max_tokens) * TOKEN_PX
        columns, rows = max(1, math.floor(width / shrink)), max(1, math.floor(height / shrink))
    elif columns * rows < MIN_TOKENS:
        grow = math.sqrt(MIN_TOKENS / area) / TOKEN_PX
        columns, rows = math.ceil(width * grow), math.ceil(height * grow)
    # A strip of one row or column cannot shrink on both sides.
    columns = min(columns, max(1, max_tokens // rows))
    return columns * TOKEN_PX, min(rows, max_tokens // columns) * TOKEN_PX


# ----------------------------------------------------------------------------------- pixels as text for the VLM


def to_references(pixels: np.ndarray, size: tuple[int, int], bins: int) -> np.ndarray:
    """Pixels [N, 2] of an image of ``size`` (width, height) to reference integers [N, 2] in [0, bins)."""
    return np.clip(np.rint(np.asarray(pixels, float) / size * bins), 0, bins - 1).astype(int)


def from_references(references: np.ndarray, size: tuple[int, int], bins: int) -> np.ndarray:
    """Reference numbers [N, 2] in [0, bins] back to pixels [N, 2] of an image of ``size`` (width, height)."""
    return np.asarray(references, float) / bins * size


# --------------------------------------------------------------------------------------------- from CameraInfo


@dataclass(frozen=True)
class Calibration:
    """What sensor_msgs/CameraInfo says, as plain numbers (matrices row by row)."""

    width: int
    height: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]  # 3 × 3
    r: tuple[float, ...]  # 3 × 3, all zero where the driver left it out
    p: tuple[float, ...]  # 3 × 4, all zero where the driver left it out
    binning: tuple[int, int] = (1, 1)
    roi: tuple[int, int, int, int] = (0, 0, 0, 0)  # x, y, width, height in the full image; zeros: all of it

    @classmethod
    def from_fov(cls, width: int, height: int, hfov_deg: float) -> Calibration:
        """A pinhole with square pixels and its principal point in the middle, from a horizontal field of view."""
        f = width / 2 / math.tan(math.radians(hfov_deg) / 2)
        k = (f, 0.0, (width - 1) / 2, 0.0, f, (height - 1) / 2, 0.0, 0.0, 1.0)
        return cls(width, height, "plumb_bob", (), k, (0.0,) * 9, (0.0,) * 12)

    def image_size(self) -> tuple[int, int]:
        """(width, height) of the images this calibration is for, after ROI and binning."""
        _, _, w, h = self.roi if all(self.roi[2:]) else (0, 0, self.width, self.height)
        return w // max(1, self.binning[0]), h // max(1, self.binning[1])


class Rectifier:
    """Turns the images of one calibrated camera into those of a `Camera`.

    ``already_rectified`` is for topics such as image_rect, whose CameraInfo still holds the D and R of the raw
    image: only P counts then. Raises CalibrationError where the calibration is missing, broken or of another size.
    """

    def __init__(self, calibration: Calibration, size: tuple[int, int], already_rectified: bool = False):
        _check(calibration, size, already_rectified)
        self._size = size
        self._K = _in_image(np.reshape(calibration.k, (3, 3)), calibration)
        target = _in_image(_projection(calibration), calibration)
        self.camera = Camera(*size, target[0, 0], target[1, 1], target[0, 2], target[1, 2])
        self._R = np.reshape(calibration.r, (3, 3)) if any(calibration.r) else np.eye(3)
        self._D = np.array(calibration.d if any(calibration.d) else (0.0,) * 4, float)
        self._fisheye = calibration.distortion_model == "equidistant"  # no pinhole, even with all coefficients zero
        unchanged = np.allclose(self._R, np.eye(3), atol=1e-9) and np.allclose(target[:2], self._K[:2], atol=1e-6)
        self._nothing_to_do = already_rectified or (unchanged and not self._D.any() and not self._fisheye)

    @property
    def valid(self) -> np.ndarray | None:
        """Mask [height, width] of the pixels that the raw image really shows; None when that is all of them."""
        return None if self._nothing_to_do else self._maps[3]

    def __call__(self, image: np.ndarray, nearest: bool = False) -> np.ndarray:
        """Rectify an image [height, width, ...]; the same array comes back when there is nothing to do.

        Values between pixels are interpolated, or with ``nearest`` taken from the nearest pixel: a depth between
        those of two surfaces would be none.
        """
        if (image.shape[1], image.shape[0]) != self._size:
            raise CalibrationError(f"this rectifier is for {self._size}, the image is {image.shape[1::-1]}")
        if self._nothing_to_do:
            return image
        map1, map2, rounded, _ = self._maps
        if nearest:
            return cv2.remap(image, rounded, np.empty(0), cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
        return cv2.remap(image, map1, map2, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)

    @cached_property
    def _maps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
        """Fixed-point remap tables, the table of nearest pixels, and the validity mask."""
        build = cv2.fisheye.initUndistortRectifyMap if self._fisheye else cv2.initUndistortRectifyMap
        u, v = build(self._K, self._D, self._R, self.camera.K, self._size, cv2.CV_32FC1)
        # With no distortion and no intrinsics what comes out is the direction itself, as tan θ or (fisheye) as θ.
        x, y = build(np.eye(3), np.zeros(4), self._R, self.camera.K, self._size, cv2.CV_32FC1)
        width, height = self._size
        valid = (u >= -0.5) & (u <= width - 0.5) & (v >= -0.5) & (v <= height - 0.5)
        valid &= np.hypot(x, y) < _turning_point(self._D, self._fisheye)
        rounded, _ = cv2.convertMaps(u, v, cv2.CV_16SC2, nninterpolation=True)
        return (*cv2.convertMaps(u, v, cv2.CV_16SC2), rounded, None if valid.all() else valid)


def _turning_point(D: np.ndarray, fisheye: bool) -> float:
    """Distance from the optical axis (tan θ; θ for fisheye) beyond which the distortion polynomial runs backwards.

    What lies farther out would be shown a second time, mirrored: calibrations hold only where the lens was seen.
    """
    k = np.zeros(14)
    k[: len(D)] = D
    r = np.linspace(0.0, math.pi if fisheye else 20.0, 20001)
    powers = (r[:, None] ** 2) ** np.arange(1, 5)
    if fisheye:
        distorted = r * (1.0 + powers @ k[:4])
    else:
        distorted = r * (1.0 + powers[:, :3] @ k[[0, 1, 4]]) / (1.0 + powers[:, :3] @ k[5:8])
    backwards = np.flatnonzero(np.diff(distorted) <= 0.0)
    return float(r[backwards[0]]) if backwards.size else math.inf


COEFFICIENTS = {"plumb_bob": (0, 4, 5), "rational_polynomial": (0, 8, 12, 14), "equidistant": (0, 4), "": (0,)}
MAX_FOV_DEG = 178.0  # a wider pinhole image is a calibration that was never made, such as fx = 1
CALIBRATE = (
    "(ros2 run camera_calibration cameracalibrator), or set camera.hfov_deg to its horizontal field of view to leave "
    "camera_info out"
)


def _check(c: Calibration, size: tuple[int, int], already_rectified: bool) -> None:
    """Raise CalibrationError for everything that would give wrong geometry later."""
    _check_intrinsics("P" if any(c.p) else "K", _projection(c), (c.width, c.height))
    if not already_rectified:
        _check_intrinsics("K", np.reshape(c.k, (3, 3)), (c.width, c.height))
        _check_distortion(c)
        _check_rotation(c)
    if c.image_size() != tuple(size):
        raise CalibrationError(
            f"the image is {size[0]}x{size[1]} but camera_info is for {c.image_size()[0]}x{c.image_size()[1]}: "
            "both must come from one driver mode; resize camera_info along with the image (image_proc resize does), "
            "or set camera.hfov_deg to leave camera_info out"
        )


def _check_intrinsics(name: str, matrix: np.ndarray, size: tuple[int, int]) -> None:
    fx, fy = matrix[0, 0], matrix[1, 1]
    if not np.isfinite(matrix).all():
        raise CalibrationError(f"{name} of camera_info holds NaN or infinity; calibrate the camera {CALIBRATE}")
    if fx <= 0.0 or fy <= 0.0:
        raise CalibrationError(
            f"the camera is not calibrated ({name} has fx = {fx:g}, fy = {fy:g}); calibrate it {CALIBRATE}"
        )
    fov = max(math.degrees(2 * math.atan2(side / 2, f)) for side, f in zip(size, (fx, fy), strict=True))
    if fov > MAX_FOV_DEG:
        raise CalibrationError(
            f"{name} of camera_info has fx = {fx:g}, fy = {fy:g}, which for {size[0]}x{size[1]} is a field of view "
            f"of {fov:.1f}°: the camera is not calibrated; calibrate it {CALIBRATE}"
        )


def _check_rotation(c: Calibration) -> None:
    R = np.reshape(c.r, (3, 3))
    if any(c.r) and not (np.allclose(R @ R.T, np.eye(3), atol=1e-3) and np.linalg.det(R) > 0.0):
        raise CalibrationError(
            f"R of camera_info is no rotation matrix ({', '.join(f'{x:g}' for x in c.r)}): make it the identity for "
            f"a single camera, or calibrate the stereo pair {CALIBRATE}"
        )


def _check_distortion(c: Calibration) -> None:
    if not np.isfinite(c.d).all():
        raise CalibrationError(f"D of camera_info holds NaN or infinity; calibrate the camera {CALIBRATE}")
    if c.distortion_model not in COEFFICIENTS:
        known = ", ".join(name for name in COEFFICIENTS if name)
        raise CalibrationError(
            f"distortion model {c.distortion_model!r} is not supported (known: {known}): rectify the image before "
            "(image_proc) and set camera.input_rectified"
        )
    allowed = COEFFICIENTS[c.distortion_model]
    if len(c.d) not in allowed and any(c.d):
        numbers = " or ".join(map(str, allowed))
        raise CalibrationError(
            f"D of camera_info has {len(c.d)} coefficients, but distortion model {c.distortion_model!r} takes "
            f"{numbers}: correct the name of the model, or calibrate the camera {CALIBRATE}"
        )


def _projection(c: Calibration) -> np.ndarray:
    """Intrinsics [3, 3] of the rectified image on the full sensor: those of P, or K where the driver left P out."""
    return np.reshape(c.p, (3, 4))[:, :3] if any(c.p) else np.reshape(c.k, (3, 3))


def _in_image(matrix: np.ndarray, c: Calibration) -> np.ndarray:
    """Intrinsics of the full sensor [3, 3] as those of the image after ROI and binning (as image_geometry does)."""
    m = np.array(matrix, float)
    bx, by = max(1, c.binning[0]), max(1, c.binning[1])
    if all(c.roi[2:]):
        m[0, 2] -= c.roi[0]
        m[1, 2] -= c.roi[1]
    m[0] /= bx
    m[1] /= by
    return m

"""What a CameraInfo says, and the rectified pinhole camera it leads to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from vlm3_ros.camera import CalibrationError, Camera


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
        self._fisheye = (
            distortion_model(calibration.distortion_model) == "equidistant"
        )  # no pinhole, even with D zero
        self._D = _padded(_coefficients(calibration))
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


def _padded(d: Sequence[float]) -> np.ndarray:
    """Coefficients with zeros behind them up to a number that OpenCV takes."""
    return np.array([*d, *[0.0] * (next(n for n in (4, 5, 8, 12, 14) if n >= len(d)) - len(d))])


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


# Distortion models by most coefficients, and the other names they go by. plumb_bob is the beginning of
# rational_polynomial, as OpenCV has them; a model without coefficients is that of a pinhole.
COEFFICIENTS = {"plumb_bob": 5, "rational_polynomial": 14, "equidistant": 4}
ALIASES = {
    "brown_conrady": "plumb_bob",
    "radtan": "plumb_bob",
    "radial_tangential": "plumb_bob",
    "rational": "rational_polynomial",
    "fisheye": "equidistant",
    "equi": "equidistant",
    "kannala_brandt": "equidistant",
    "kannala_brandt4": "equidistant",
}
NO_PINHOLE = ("fish", "omni", "sphere", "theta", "unified", "mei", "cylind", "panoram", "fov", "division")
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
    x, y, width, height = c.roi
    if all(c.roi[2:]) and (x + width > c.width or y + height > c.height):
        raise CalibrationError(
            f"the ROI of camera_info, {width}x{height} at ({x}, {y}), is not inside its image of {c.width}x{c.height}"
        )
    if not all(c.roi[2:]) or (width, height) == (c.width, c.height):  # in a part of it the middle may be anywhere
        for matrix in [_projection(c), *([] if already_rectified else [np.reshape(c.k, (3, 3))])]:
            _check_principal_point((c.width, c.height), matrix[0, 2], matrix[1, 2])


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
    model = distortion_model(c.distortion_model)
    known = ", ".join([*COEFFICIENTS, *ALIASES])
    if model not in COEFFICIENTS:
        # Without coefficients nothing is to be undone whatever the name, unless it is that of another kind of lens.
        if any(c.d) or any(part in model for part in NO_PINHOLE):
            raise CalibrationError(
                f"distortion model {c.distortion_model!r} is not supported (known: {known}): rectify the image "
                "before (image_proc) and set camera.input_rectified"
            )
        return
    used = len(_coefficients(c))
    if used > COEFFICIENTS[model] or (used and len(c.d) < 4):
        raise CalibrationError(
            f"D of camera_info has {max(used, len(c.d))} coefficients, but distortion model {c.distortion_model!r} "
            f"takes 4 to {COEFFICIENTS[model]}: correct the name of the model, or calibrate the camera {CALIBRATE}"
        )


def distortion_model(name: str) -> str:
    """The name that ROS has for a distortion model, by whatever name it goes; unknown ones as they are."""
    plain = name.strip().casefold().replace("-", "_").replace(" ", "_")
    return ALIASES.get(plain, plain)


def _coefficients(c: Calibration) -> tuple[float, ...]:
    """D without the zeros at its end, which change nothing."""
    return c.d[: max((i for i, value in enumerate(c.d, 1) if value), default=0)]


def _check_principal_point(size: tuple[int, int], cx: float, cy: float) -> None:
    """Raise CalibrationError if intrinsics are of images of another size than ``size`` (width, height).

    Resized images with the intrinsics of before show it by a principal point at their border or beyond it, or off the
    middle by the same large factor on both axes. One that is off on one axis may be a stereo pair's or a crop's.
    """
    across, down = 2 * cx / size[0], 2 * cy / size[1]
    if 0.1 <= across <= 1.9 and 0.1 <= down <= 1.9 and not (max(across, down) <= 0.7 or min(across, down) >= 1.4):
        return
    if cx == cy == 0.0:
        raise CalibrationError(
            "the principal point is (0, 0): K is transposed, or a part of it was left out; correct it, or set "
            "camera.hfov_deg"
        )
    raise CalibrationError(
        f"the principal point, ({cx:g}, {cy:g}), is not near the middle of a {size[0]}x{size[1]} image: the "
        f"intrinsics seem to be of one of about {2 * cx:.0f}x{2 * cy:.0f}; use those of this size, or set "
        "camera.hfov_deg"
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

"""Rectification against closed forms, OpenCV's forward models and a real chessboard; wrong calibrations refused."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm3_ros.calibration import Calibration, Rectifier
from vlm3_ros.camera import CalibrationError, Camera

NAN, INF = float("nan"), float("inf")
KINECT = Camera(640, 480, 525.0, 530.0, 319.5, 239.5)
K = (500.0, 0.0, 330.0, 0.0, 510.0, 230.0, 0.0, 0.0, 1.0)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
PLAIN = Calibration(640, 480, "plumb_bob", (0.0,) * 5, K, IDENTITY, (*K[:3], 0.0, *K[3:6], 0.0, *K[6:], 0.0))
PLUMB_BOB = (-0.28, 0.07, 0.001, -0.0007, 0.02)
RATIONAL = (0.3, -0.1, 0.0008, -0.0005, 0.03, 0.55, -0.12, 0.05)
EQUIDISTANT = (-0.02, 0.004, -0.002, 0.0004)


def projection(fx: float, fy: float, cx: float, cy: float) -> tuple[float, ...]:
    return (fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0)


def intrinsics(fx: float, fy: float, cx: float, cy: float) -> tuple[float, ...]:
    return (fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0)


# ------------------------------------------------------------------------------------------- rectification


def waves(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """A picture, known between its pixels as well."""
    return (128 + 60 * np.sin(u / 17) + 60 * np.cos(v / 23)).astype(np.float32)


def raw_pixels(c: Calibration, camera: Camera) -> np.ndarray:
    """Where on the full sensor [h, w, 2] the raw camera sees what ``camera`` shows at its pixels (forward model)."""
    pixels = np.stack(np.meshgrid(np.arange(camera.width), np.arange(camera.height)), axis=-1).reshape(-1, 2)
    rays = camera.rays(pixels) @ np.reshape(c.r, (3, 3))  # rectified to raw axes: R transposed
    K, zero = np.reshape(c.k, (3, 3)), np.zeros(3)
    if c.distortion_model == "equidistant":
        there, _ = cv2.fisheye.projectPoints(rays[:, None], zero, zero, K, np.array(c.d))
    else:
        there, _ = cv2.projectPoints(rays, zero, zero, K, np.array(c.d if any(c.d) else ()))
    return there.reshape(camera.height, camera.width, 2)


R_STEREO = tuple(cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))[0].ravel())


@pytest.mark.parametrize(
    ("model", "d"),
    [
        ("plumb_bob", PLUMB_BOB),
        ("plumb_bob", PLUMB_BOB[:4]),
        ("rational_polynomial", RATIONAL),
        ("rational_polynomial", (*RATIONAL, 0.001, -0.002, 0.0005, 0.001)),
        ("equidistant", EQUIDISTANT),
        ("equidistant", (0.0,) * 4),  # r = f θ, which is no pinhole
        ("plumb_bob", (0.0,) * 5),
        ("plumb_bob", (0.0,) * 3),  # no model has three coefficients, but none of them matters
    ],
)
@pytest.mark.parametrize("r", [IDENTITY, R_STEREO])
@pytest.mark.parametrize(
    "p", [projection(420.0, 430.0, 310.0, 250.0), projection(*KINECT.K[[0, 1, 0, 1], [0, 1, 2, 2]])]
)
def test_rectified_images_show_what_the_forward_model_says(model, d, r, p):
    calibration = replace(PLAIN, distortion_model=model, d=d, r=r, p=p)
    rectify = Rectifier(calibration, (640, 480))
    assert rectify.camera == Camera(640, 480, p[0], p[5], p[2], p[6])
    u, v = np.meshgrid(np.arange(640), np.arange(480))
    rectified = rectify(waves(u, v))
    there = raw_pixels(calibration, rectify.camera)
    inside = ((there > 1) & (there < np.array([638, 478]))).all(axis=-1)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(rectified[inside], waves(there[..., 0], there[..., 1])[inside], atol=0.6)
    valid = np.ones((480, 640), bool) if rectify.valid is None else rectify.valid
    assert valid[inside].all()
    outside = ((there < -1) | (there > np.array([640, 480]))).any(axis=-1)
    assert not valid[outside].any()


@pytest.mark.parametrize(("model", "d"), [("plumb_bob", PLUMB_BOB), ("equidistant", EQUIDISTANT)])
def test_nearest_takes_the_nearest_raw_pixel_and_mixes_nothing(model, d):
    """An image of column numbers: what comes out is the number of the column in which the forward model lands."""
    calibration = replace(PLAIN, distortion_model=model, d=d, p=projection(450.0, 460.0, 320.0, 240.0))
    rectify = Rectifier(calibration, (640, 480))
    columns = np.tile(np.arange(640, dtype=np.uint16), (480, 1))
    there = raw_pixels(calibration, rectify.camera)
    inside = ((there > 1) & (there < np.array([638, 478]))).all(axis=-1)
    found = rectify(columns, nearest=True)
    assert found.dtype == np.uint16
    assert np.abs(found - there[..., 0])[inside].max() <= 0.51


@pytest.mark.parametrize("binning", [(1, 1), (2, 2), (2, 4)])
@pytest.mark.parametrize("roi", [(0, 0, 0, 0), (80, 40, 400, 320)])
def test_binning_and_roi_are_of_the_full_sensor(binning, roi):
    """The principal point moves with the ROI and shrinks with binning, as in image_geometry."""
    calibration = replace(PLAIN, d=PLUMB_BOB, binning=binning, roi=roi, p=projection(450.0, 460.0, 320.0, 240.0))
    x, y, width, height = roi if roi[2] else (0, 0, 640, 480)
    size = (width // binning[0], height // binning[1])
    rectify = Rectifier(calibration, size)
    bx, by = binning
    assert rectify.camera == Camera(*size, 450.0 / bx, 460.0 / by, (320.0 - x) / bx, (240.0 - y) / by)
    u, v = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    raw = waves(u * bx + x, v * by + y)
    there = (raw_pixels(calibration, rectify.camera) - [x, y]) / binning
    inside = ((there > 1) & (there < np.array(size) - 2)).all(axis=-1)
    expected = waves(there[..., 0] * bx + x, there[..., 1] * by + y)
    np.testing.assert_allclose(rectify(raw)[inside], expected[inside], atol=3.0)


def test_ideal_fisheye_is_straightened():
    """r = f θ: a direction 45° off the axis lies at f π/4 in the raw image and at f in the rectified one."""
    k = (200.0, 0.0, 320.0, 0.0, 200.0, 240.0, 0.0, 0.0, 1.0)
    image = np.zeros((480, 640), np.float32)
    image[240, round(320 + 200 * math.pi / 4)] = 1.0
    for d in ((0.0,) * 4, ()):
        calibration = replace(PLAIN, distortion_model="equidistant", d=d, k=k, p=(0.0,) * 12)
        row = Rectifier(calibration, (640, 480))(image)[240]
        assert np.average(np.arange(640), weights=row) == pytest.approx(520, abs=1.5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"d": ()},
        {"d": (0.0, 0.0, 0.0)},
        {"r": (0.0,) * 9},
        {"p": (0.0,) * 12},
        {"distortion_model": ""},
        {"p": (*PLAIN.p[:3], -38.0, *PLAIN.p[4:])},  # the right camera of a stereo pair
    ],
)
def test_what_needs_no_rectification_comes_back_untouched(changes):
    rectify = Rectifier(replace(PLAIN, **changes), (640, 480))
    image = np.zeros((480, 640, 3), np.uint8)
    assert rectify(image) is image
    assert rectify.valid is None
    assert rectify.camera == Camera(640, 480, 500.0, 510.0, 330.0, 230.0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"d": (NAN,) * 5},
        {"k": (0.0,) * 9},
        {"distortion_model": "kannala_brandt", "d": EQUIDISTANT},
        {"r": (1.0,) * 9},
    ],
)
def test_of_a_rectified_image_only_p_counts(changes):
    p = projection(420.0, 430.0, 310.0, 250.0)
    rectify = Rectifier(
        replace(PLAIN, d=PLUMB_BOB, p=p, **changes) if "d" not in changes else replace(PLAIN, p=p, **changes),
        (640, 480),
        already_rectified=True,
    )
    image = np.zeros((480, 640), np.uint8)
    assert rectify(image) is image
    assert rectify.valid is None
    assert rectify.camera == Camera(640, 480, 420.0, 430.0, 310.0, 250.0)


@pytest.mark.parametrize(
    ("model", "d", "limit"),
    [
        ("plumb_bob", (-0.3, 0.0, 0.0, 0.0, 0.0), math.sqrt(1 / 0.9)),  # d/dr (r − 0.3 r³) = 0
        ("equidistant", (-0.4, 0.0, 0.0, 0.0), math.tan(math.sqrt(1 / 1.2))),  # the same in θ
    ],
)
def test_a_scene_is_not_shown_twice(model, d, limit):
    """Beyond its turning point a distortion polynomial leads back into the image, to mirrored pixels."""
    calibration = replace(PLAIN, distortion_model=model, d=d, p=projection(90.0, 90.0, 320.0, 240.0))
    rectify = Rectifier(calibration, (640, 480))
    u, v = np.meshgrid(np.arange(640), np.arange(480))
    radius = np.hypot(u - 320, v - 240) / 90
    there = raw_pixels(calibration, rectify.camera)
    folded = (radius > 1.001 * limit) & ((there >= 0) & (there <= np.array([639, 479]))).all(axis=-1)
    assert folded.sum() > 1000  # there is something to mask
    assert not rectify.valid[folded].any()
    assert rectify.valid[radius < 0.99 * min(limit, 0.4)].all()


def test_valid_is_none_where_the_raw_image_fills_the_rectified_one():
    rectify = Rectifier(replace(PLAIN, d=PLUMB_BOB, p=projection(600.0, 610.0, 330.0, 230.0)), (640, 480))
    assert rectify.valid is None
    assert not np.array_equal(
        rectify(waves(*np.meshgrid(np.arange(640), np.arange(480)))),
        waves(*np.meshgrid(np.arange(640), np.arange(480))),
    )


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (20000, 8), pytest.param((7680, 4320), marks=pytest.mark.slow)])
def test_images_of_any_size(size):
    f = max(size) * 0.8
    k = (f, 0.0, size[0] / 2, 0.0, f, size[1] / 2, 0.0, 0.0, 1.0)
    calibration = Calibration(*size, "plumb_bob", (-0.01, 0.0, 0.0, 0.0, 0.0), k, (0.0,) * 9, (0.0,) * 12)
    rectified = Rectifier(calibration, size)(np.full((size[1], size[0]), 7, np.uint8))
    assert rectified.shape == (size[1], size[0])
    assert (rectified == 7).all()


def test_field_of_view_stands_in_for_a_calibration():
    calibration = Calibration.from_fov(640, 480, 90.0)
    camera = Rectifier(calibration, (640, 480)).camera
    assert camera == Camera(640, 480, pytest.approx(320.0), pytest.approx(320.0), 319.5, 239.5)
    left, right = camera.rays([[-0.5, 0], [639.5, 0]])[:, 0]
    assert math.degrees(math.atan(right) - math.atan(left)) == pytest.approx(90.0)
    Rectifier(Calibration.from_fov(640, 480, 175.0), (640, 480))


# --------------------------------------------------------------------------------------------- wrong calibrations


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"width": 1280, "height": 960}, ["640x480", "1280x960", "camera.hfov_deg"]),
        ({"binning": (2, 2)}, ["640x480", "320x240"]),
        ({"roi": (0, 0, 320, 200)}, ["640x480", "320x200"]),
        ({"k": (0.0,) * 9, "p": (0.0,) * 12}, ["not calibrated", "fx = 0", "cameracalibrator", "camera.hfov_deg"]),
        ({"k": (0.0,) * 9}, ["not calibrated", "K has fx = 0"]),
        ({"k": (-500.0, *K[1:])}, ["K has fx = -500"]),
        ({"k": (*K[:4], -510.0, *K[5:])}, ["fy = -510"]),
        ({"k": (NAN, *K[1:])}, ["K of camera_info holds NaN", "calibrate"]),
        ({"k": (*K[:2], INF, *K[3:])}, ["K of camera_info holds NaN or infinity"]),
        ({"k": IDENTITY, "p": (0.0,) * 12}, ["fx = 1", "field of view of 179", "not calibrated"]),
        ({"p": (-420.0, *PLAIN.p[1:])}, ["P has fx = -420"]),
        ({"p": (*PLAIN.p[:5], 0.0, *PLAIN.p[6:])}, ["P has fx = 500, fy = 0"]),
        ({"p": (*PLAIN.p[:2], NAN, *PLAIN.p[3:])}, ["P of camera_info holds NaN"]),
        ({"p": projection(1.0, 1.0, 320.0, 240.0)}, ["P of camera_info has fx = 1", "field of view"]),
        ({"d": (NAN, 0.0, 0.0, 0.0, 0.0)}, ["D of camera_info holds NaN"]),
        ({"d": (0.1,) * 8}, ["8 coefficients", "'plumb_bob'", "4 to 5"]),
        ({"d": (0.1,)}, ["1 coefficients"]),
        ({"distortion_model": "equidistant", "d": (0.1,) * 5}, ["5 coefficients", "'equidistant'"]),
        ({"distortion_model": "fisheye", "d": (0.1,) * 5}, ["5 coefficients", "'fisheye'"]),
        ({"distortion_model": "rational_polynomial", "d": (0.1,) * 15}, ["15 coefficients", "4 to 14"]),
        ({"distortion_model": "", "d": (0.1,) * 5}, ["distortion model ''", "plumb_bob"]),
        ({"distortion_model": "mirror", "d": (0.1,) * 5}, ["'mirror'", "plumb_bob"]),
        ({"k": intrinsics(500.0, 510.0, 640.0, 480.0)}, ["(640, 480)", "1280x960"]),
        ({"k": intrinsics(500.0, 510.0, 160.0, 120.0)}, ["(160, 120)", "320x240"]),
        ({"k": intrinsics(500.0, 510.0, 0.0, 0.0)}, ["(0, 0)", "transposed"]),
        ({"p": projection(500.0, 510.0, 3000.0, 2000.0)}, ["(3000, 2000)", "640x480"]),
        ({"roi": (0, 0, 640, 480), "k": intrinsics(500.0, 510.0, 160.0, 120.0)}, ["(160, 120)"]),
        ({"roi": (600, 0, 640, 480)}, ["ROI", "640x480 at (600, 0)"]),
        ({"distortion_model": "omnidirectional"}, ["'omnidirectional'", "plumb_bob", "camera.input_rectified"]),
        ({"r": (2.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0, 0.0, 2.0)}, ["no rotation matrix", "identity"]),
        ({"r": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)}, ["no rotation matrix"]),
        ({"r": (NAN, *IDENTITY[1:])}, ["no rotation matrix"]),
    ],
)
def test_wrong_calibrations_are_refused_with_what_to_do(changes, texts):
    with pytest.raises(CalibrationError) as refused:
        Rectifier(replace(PLAIN, **changes), (640, 480))
    for text in texts:
        assert text in str(refused.value)


@pytest.mark.parametrize(
    ("name", "d", "same"),
    [
        ("plumb_bob", (*PLUMB_BOB, 0.0, 0.0, 0.0), ("plumb_bob", PLUMB_BOB)),
        ("plumb_bob", (*PLUMB_BOB, *[0.0] * 9), ("plumb_bob", PLUMB_BOB)),
        ("rational_polynomial", PLUMB_BOB, ("plumb_bob", PLUMB_BOB)),
        ("rational_polynomial", (*PLUMB_BOB, *[0.0] * 10), ("plumb_bob", PLUMB_BOB)),
        ("Brown-Conrady", PLUMB_BOB, ("plumb_bob", PLUMB_BOB)),
        ("radtan", PLUMB_BOB[:4], ("plumb_bob", (*PLUMB_BOB[:4], 0.0))),
        ("fisheye", EQUIDISTANT, ("equidistant", EQUIDISTANT)),
        ("KANNALA_BRANDT", EQUIDISTANT, ("equidistant", EQUIDISTANT)),
        ("equidistant", (*EQUIDISTANT, 0.0), ("equidistant", EQUIDISTANT)),
        ("equidistant", (), ("equidistant", (0.0,) * 4)),
        ("", (), ("plumb_bob", ())),
        ("pinhole", (), ("plumb_bob", ())),
        ("none", (0.0,) * 5, ("plumb_bob", ())),
        ("perspective", (0.0,) * 8, ("plumb_bob", ())),
    ],
)
def test_distortion_is_judged_by_its_content(name, d, same, rng):
    """Zeros at the end, another name of the same model, a name for no distortion: nothing of it changes a pixel."""
    image = rng.integers(0, 255, (480, 640, 3), np.uint8)
    rectified, expected = (
        Rectifier(replace(PLAIN, distortion_model=model, d=values), (640, 480))(image)
        for model, values in ((name, d), same)
    )
    np.testing.assert_array_equal(rectified, expected)


@pytest.mark.parametrize(
    ("cx", "cy", "more"),
    [
        (400.0, 240.0, {}),  # one lens of a stereo pair, or a crop on one side
        (320.0, 400.0, {}),
        (640.0, 480.0, {"roi": (320, 240, 640, 480), "width": 1280, "height": 960}),
    ],
)
def test_principal_point_may_be_off_the_middle(cx, cy, more):
    calibration = replace(PLAIN, k=intrinsics(500.0, 510.0, cx, cy), p=(0.0,) * 12, **more)
    camera = Rectifier(calibration, (640, 480)).camera
    assert (camera.cx, camera.cy) == ((320.0, 240.0) if more else (cx, cy))


def test_an_image_of_another_size_than_the_rectifier_is_refused():
    with pytest.raises(CalibrationError, match=r"\(640, 480\).*\(320, 240\)"):
        Rectifier(PLAIN, (640, 480))(np.zeros((240, 320, 3), np.uint8))


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([0.0, 1.0, -1.0, 1e-300, 1e300, 500.0])


@given(
    k=st.tuples(*[numbers] * 9),
    p=st.tuples(*[numbers] * 12) | st.just(PLAIN.p),
    r=st.tuples(*[numbers] * 9) | st.just(IDENTITY),
    d=st.lists(numbers, max_size=15).map(tuple),
    model=st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", "", "fov"]),
    binning=st.tuples(st.integers(0, 5), st.integers(0, 5)),
    rectified=st.booleans(),
)
def test_any_calibration_is_refused_or_used(k, p, r, d, model, binning, rectified):
    calibration = Calibration(64 * max(1, binning[0]), 48 * max(1, binning[1]), model, d, k, r, p, binning)
    try:
        rectify = Rectifier(calibration, (64, 48), rectified)
    except CalibrationError:
        return
    assert np.isfinite([rectify.camera.fx, rectify.camera.fy, rectify.camera.cx, rectify.camera.cy]).all()
    assert min(rectify.camera.fx, rectify.camera.fy) > 0
    if abs(k[0]) < 1e6 and all(abs(x) < 1e6 for x in d):
        assert rectify(np.zeros((48, 64, 3), np.uint8)).shape == (48, 64, 3)


# ------------------------------------------------------------------------------------------------------ real lenses


def corners(image: np.ndarray) -> np.ndarray:
    """The inner corners [6, 9, 2] of the chessboard."""
    found, points = cv2.findChessboardCorners(image, (9, 6))
    assert found
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 0.01)
    return cv2.cornerSubPix(image, points, (5, 5), (-1, -1), stop).reshape(6, 9, 2)


def bend(lines: np.ndarray) -> float:
    """Root mean square distance of points [lines, N, 2] from the straight line through each."""
    residues = [np.linalg.svd(line - line.mean(axis=0), compute_uv=False)[1] ** 2 / len(line) for line in lines]
    return math.sqrt(np.mean(residues))


def test_a_real_lens_shows_a_chessboard_with_straight_rows(data: Path):
    """Calibrated on the other pictures of the board, judged on the ones in which it bends most."""
    folder = data / "opencv_pairs"
    board = np.array([(x, y, 0) for y in range(6) for x in range(9)], np.float32)
    images = [cv2.imread(str(folder / f"left{n:02}.jpg"), cv2.IMREAD_GRAYSCALE) for n in (1, 2, 3, 6, 11, 13, 12, 14)]
    raw = [corners(image) for image in images]
    calibrated = [points.reshape(-1, 1, 2) for points in raw[2:]]
    _, k, d, _, _ = cv2.calibrateCamera([board] * len(calibrated), calibrated, (640, 480), None, None)
    calibration = Calibration(640, 480, "plumb_bob", tuple(d.ravel()), tuple(k.ravel()), (0.0,) * 9, (0.0,) * 12)
    rectify = Rectifier(calibration, (640, 480))
    for image, before in zip(images[:2], raw[:2], strict=True):
        after = corners(rectify(image))
        for points, sides in ((after, before), (after.transpose(1, 0, 2), before.transpose(1, 0, 2))):
            assert bend(points) < min(0.2, 0.5 * bend(sides))
        residues = [homography_residue(board[:, :2], points.reshape(-1, 2)) for points in (before, after)]
        assert residues[1] < min(0.25, 0.4 * residues[0])


def homography_residue(board: np.ndarray, points: np.ndarray) -> float:
    H, _ = cv2.findHomography(board, points)
    there = cv2.perspectiveTransform(board[None], H)[0]
    return float(np.sqrt(((there - points) ** 2).sum(axis=1).mean()))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_stereo_camera_of_a_robot(data: Path, side):
    """A rectified pair as its driver calibrated it: nothing to do, whatever the baseline in P."""
    stored = cv2.FileStorage(str(data / "rtabmap_rgbd_stereo" / "stereo" / f"{side}.yaml"), cv2.FILE_STORAGE_READ)

    def read(name: str) -> tuple[float, ...]:
        node = stored.getNode(name).getNode("data")
        return tuple(node.at(i).real() for i in range(node.size()))

    k, d, r, p = map(read, ("camera_matrix", "distortion_coefficients", "rectification_matrix", "projection_matrix"))
    rectify = Rectifier(Calibration(640, 480, "plumb_bob", d, k, r, p), (640, 480))
    np.testing.assert_allclose(rectify.camera.K, np.reshape(k, (3, 3)))
    assert (p[3] < 0) == (side == "right")
    image = np.zeros((480, 640), np.uint8)
    assert rectify(image) is image

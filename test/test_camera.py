"""The pinhole and what a VLM sees of it, against closed forms and the protocol's published numbers."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm3_ros import camera as module
from vlm3_ros.camera import (
    MIN_TOKENS,
    TOKEN_PX,
    CalibrationError,
    Camera,
    bounded,
    from_references,
    metric_scale,
    taken_for,
    to_references,
    unified,
)

NAN = float("nan")
KINECT = Camera(640, 480, 525.0, 530.0, 319.5, 239.5)


# ---------------------------------------------------------------------------------------------------- the pinhole


def test_project_is_the_inverse_of_rays(rng):
    pixels, z = rng.uniform(-100, 700, (50, 2)), rng.uniform(0.1, 50, (50, 1))
    np.testing.assert_allclose(KINECT.project(KINECT.rays(pixels) * z), pixels)
    np.testing.assert_allclose(KINECT.rays([KINECT.cx, KINECT.cy]), [0, 0, 1])


@pytest.mark.parametrize("z", [0.0, -1.0, NAN])
def test_what_is_not_in_front_has_no_pixel(z):
    assert np.isnan(KINECT.project([[0.1, 0.2, z]])).all()


@pytest.mark.parametrize("size", [(320, 240), (1248, 928), (640, 480), (213, 480)])
def test_resized_is_where_opencv_resizes_to(size):
    """A picture of its own coordinates, resized by OpenCV, says where each new pixel lies in the old image."""
    u, v = np.meshgrid(np.arange(640.0), np.arange(480.0))
    there = cv2.resize(np.dstack([u, v]), size, interpolation=cv2.INTER_LINEAR)[5:-5, 5:-5]
    small = KINECT.resized(*size)
    pixels = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), axis=-1)[5:-5, 5:-5]
    np.testing.assert_allclose(small.pixels_in(KINECT, pixels), there, atol=1e-3)
    np.testing.assert_allclose(small.rays(pixels), KINECT.rays(there), atol=1e-5)


# ------------------------------------------------------------------------------------------- what the VLM sees


@pytest.mark.parametrize(
    ("size", "focal", "target", "published"),
    [((1024, 768), 902.466, 1000.0, (1134, 851)), ((1280, 720), 530.0, 1000.0, (2415, 1358))],
)
def test_unified_size_before_rounding_is_the_published_one(monkeypatch, size, focal, target, published):
    monkeypatch.setattr(module, "_token_size", lambda width, height, *_: (width, height))
    assert unified(Camera(*size, focal, focal, 0.0, 0.0), target, 10**6).size == published


@pytest.mark.parametrize(
    ("width", "height", "f", "size", "tokens"),
    [
        (640, 480, 615.0, (1024, 768), 768),  # 1040.65 is cut to 1040, half-way between two multiples of 32
        (640, 480, 519.0, (1248, 928), 1131),
        (1280, 720, 920.0, (1376, 768), 1032),
        (1280, 800, 800.0, (1600, 992), 1550),
        (640, 480, 380.0, (1696, 1248), 2067),
        (1242, 375, 721.0, (1728, 512), 864),
    ],
)
def test_unified_size_after_rounding_is_that_of_the_processor(width, height, f, size, tokens):
    seen = unified(Camera(width, height, f, f, width / 2, height / 2), 1000.0, 16384)
    assert seen.size == size
    assert seen.width // 32 * seen.height // 32 == tokens
    assert seen.focal == pytest.approx(1000.0, rel=0.02)
    assert seen.fx == pytest.approx(f * seen.width / width)


def test_unified_makes_pixels_square():
    seen = unified(Camera(640, 480, 800.0, 400.0, 320.0, 240.0), 1000.0, 16384)
    assert seen.fx == pytest.approx(seen.fy, rel=0.03)
    assert seen.width / seen.height == pytest.approx(640 / 480 / 2, rel=0.04)


any_camera = st.builds(
    lambda w, h, fx, ratio: Camera(w, h, fx * w, fx * w * ratio, w / 2, h / 2),
    st.integers(1, 9000),
    st.integers(1, 9000),
    st.floats(0.02, 50.0) | st.just(5000.0),
    st.floats(0.5, 2.0),
)


@pytest.mark.parametrize("scale", [0.25, 0.5])
def test_a_small_model_sees_everything_at_its_fraction_of_the_size(scale):
    camera = Camera(640, 480, 500.0, 500.0, 319.5, 239.5)
    for whole, small in (
        (unified(camera, 1000.0, 9000), unified(camera, 1000.0, 9000, scale)),
        (bounded(camera, 1024, 9000), bounded(camera, 1024, 9000, scale)),
    ):
        np.testing.assert_allclose(small.size, np.multiply(whole.size, scale), atol=TOKEN_PX / 2)
    tele = Camera(320, 240, 2000.0, 2000.0, 159.5, 119.5)  # at least MIN_TOKENS, which shrink along
    tokens = np.prod(unified(tele, 1000.0, 9000, scale).size) / TOKEN_PX**2
    assert MIN_TOKENS * scale**2 <= tokens < MIN_TOKENS


@given(any_camera, st.sampled_from([750.0, 1000.0]), st.integers(64, 16384))
def test_views_are_of_whole_tokens_within_their_bounds(camera, focal, max_tokens):
    strip = max(camera.size) / min(camera.size)
    for fit in (lambda: unified(camera, focal, max_tokens), lambda: bounded(camera, 1024, max_tokens)):
        try:
            seen = fit()
        except CalibrationError:
            assert strip > 90  # the ratio of the focal lengths comes on top
            continue
        assert seen.width % TOKEN_PX == seen.height % TOKEN_PX == 0
        tokens = seen.width * seen.height // TOKEN_PX**2
        assert tokens <= max_tokens
        assert tokens >= MIN_TOKENS or max_tokens < 2 * MIN_TOKENS or strip > 50
        np.testing.assert_allclose(seen.rays(camera.pixels_in(seen, [0, 0])), camera.rays([0, 0]))


@pytest.mark.slow
def test_the_processor_leaves_views_alone():
    """Qwen's own resizing, run on the sizes chosen here."""
    processing = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    for (width, height), f in itertools.product([(640, 480), (64, 48), (1242, 375)], [100, 380, 615, 2000]):
        for max_tokens in (200, 1600, 16384):
            seen = unified(Camera(width, height, f, f, 0.0, 0.0), 1000.0, max_tokens)
            kept = processing.smart_resize(seen.height, seen.width, 32, MIN_TOKENS * 1024, max_tokens * 1024)
            assert kept == (seen.height, seen.width)


def test_bounded_brings_the_longest_edge_to_1024():
    assert bounded(KINECT, 1024, 16384).size == (1024, 768)
    assert bounded(Camera(480, 640, 1, 1, 0, 0), 1024, 16384).size == (768, 1024)
    small = bounded(KINECT, 1024, 300)
    assert small.width * small.height <= 300 * TOKEN_PX**2
    assert small.width / small.height == pytest.approx(4 / 3, rel=0.08)


@pytest.mark.parametrize("max_tokens", [100, 400, 16384])
def test_lengths_are_taken_back_from_the_camera_the_model_believes_in(max_tokens):
    """A rod across the view: the model knows its length, counts its pixels and believes in 1000 px."""
    seen, z, rod = unified(Camera(640, 480, 380.0, 380.0, 319.5, 239.5), 1000.0, max_tokens), 2.5, 0.4
    (u1, _), (u2, _) = seen.project([[0.0, 0.0, z], [rod, 0.0, z]])
    believed = taken_for(seen, 1000.0)
    answered = rod / (believed.rays([u2, 0.0]) - believed.rays([u1, 0.0]))[0]
    assert answered * metric_scale(seen, 1000.0) == pytest.approx(z, rel=0.02)  # seen.fx is not quite seen.fy


# ------------------------------------------------------------------------------------------- pixels as text


@pytest.mark.parametrize(
    ("pixel", "reference"), [((10, 488), (16, 1061)), ((710, 320), (1169, 696)), ((223, 406), (367, 883))]
)
def test_references_are_those_of_the_label_file(pixel, reference):
    assert tuple(to_references([pixel], (1215, 920), 2000)[0]) == reference


@given(st.integers(1, 8000), st.integers(1, 8000), st.sampled_from([1000, 2000]), st.floats(0, 1), st.floats(0, 1))
def test_references_stay_in_range_and_come_back_to_half_a_bin(width, height, bins, u, v):
    pixel = np.array([[u * (width - 1), v * (height - 1)]])
    reference = to_references(pixel, (width, height), bins)
    assert ((reference >= 0) & (reference < bins)).all()
    back = from_references(reference, (width, height), bins)
    free = reference < bins - 1  # the last reference stands for what is left
    assert (np.abs(back - pixel) <= 0.5001 / bins * np.array([width, height]))[free].all()
    assert (back <= pixel + 0.5001 / bins * np.array([width, height])).all()


def test_pixels_off_the_image_get_the_nearest_reference():
    assert to_references([(-5.0, 700.0)], (640, 480), 1000).tolist() == [[0, 999]]

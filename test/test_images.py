"""Image messages to RGB: every encoding against messages built by hand, and cv_bridge kept at arm's length."""

from __future__ import annotations

import re
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CompressedImage, Image

from vlm3_ros import images
from vlm3_ros.images import metres
from vlm3_ros.ros import images as ros_images
from vlm3_ros.ros.images import ENCODINGS, ImageError, rgb

COLOUR = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
R, G, B = np.moveaxis(COLOUR, -1, 0)
A = np.full_like(R, 77)


def message(encoding: str, rows: np.ndarray, padding: int = 0, big_endian: bool = False, **fields: object) -> Image:
    """An image message of rows [height, ...] in their own byte order, with junk behind each row."""
    height, width = rows.shape[:2]
    raw = np.ascontiguousarray(rows).reshape(height, -1).view(np.uint8)
    junk = np.full((height, padding), 0xAB, np.uint8)
    data = np.hstack([raw, junk]).tobytes()
    size = {"height": height, "width": width, "step": raw.shape[1] + padding, **fields}
    return Image(encoding=encoding, data=data, is_bigendian=int(big_endian), **size)


# ------------------------------------------------------------------------------------- channels in some order

ORDERS = {
    "rgb8": (R, G, B),
    "bgr8": (B, G, R),
    "rgba8": (R, G, B, A),
    "bgra8": (B, G, R, A),
    "8UC3": (B, G, R),
    "8UC4": (B, G, R, A),
    "mono8": (G,),
    "8UC1": (G,),
}
DEEP = {"rgb16": "rgb8", "bgr16": "bgr8", "rgba16": "rgba8", "bgra16": "bgra8", "mono16": "mono8"}


def expected(encoding: str) -> np.ndarray:
    return COLOUR if len(ORDERS[encoding]) > 1 else np.stack([G, G, G], axis=-1)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", ORDERS)
def test_8_bit(encoding, padding):
    picture = rgb(message(encoding, np.stack(ORDERS[encoding], axis=-1), padding))
    np.testing.assert_array_equal(picture, expected(encoding))


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("encoding", DEEP)
def test_16_bit_keeps_the_upper_half(encoding, big_endian, padding):
    like = DEEP[encoding]
    values = np.stack(ORDERS[like], axis=-1).astype(np.uint16) * 256 + 99  # the lower half is lost
    rows = values.astype(">u2" if big_endian else "<u2")
    np.testing.assert_array_equal(rgb(message(encoding, rows, padding, big_endian)), expected(like))


def test_16_bit_white_is_white():
    assert (rgb(message("mono16", np.full((2, 2), 65535, "<u2"))) == 255).all()


# --------------------------------------------------------------------------------------------------- mosaics

PATTERNS = {"rggb": "RGGB", "bggr": "BGGR", "gbrg": "GBRG", "grbg": "GRBG"}


def mosaic(pattern: str, colour: tuple[int, int, int], kind: str = "u1") -> np.ndarray:
    """What a sensor of this pattern sees of one colour: the first two letters are its first row."""
    rows = np.empty((8, 10), kind)
    for i, letter in enumerate(PATTERNS[pattern]):
        rows[i // 2 :: 2, i % 2 :: 2] = colour["RGB".index(letter)]
    return rows


@pytest.mark.parametrize("pattern", PATTERNS)
def test_bayer_pattern_is_named_by_its_first_pixels(pattern):
    picture = rgb(message(f"bayer_{pattern}8", mosaic(pattern, (200, 100, 50)), padding=3))
    np.testing.assert_array_equal(picture[1:-1, 1:-1], np.broadcast_to((200, 100, 50), (6, 8, 3)))


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_bayer_of_16_bits(pattern, big_endian):
    rows = mosaic(pattern, (200 << 8, 100 << 8, 50 << 8), ">u2" if big_endian else "<u2")
    picture = rgb(message(f"bayer_{pattern}16", rows, big_endian=big_endian))
    np.testing.assert_array_equal(picture[1:-1, 1:-1], np.broadcast_to((200, 100, 50), (6, 8, 3)))


# ------------------------------------------------------------------------------------------------------- YUV

SMOOTH = cv2.resize(COLOUR, (64, 48), interpolation=cv2.INTER_CUBIC)  # little is lost between its chroma samples
YUV = cv2.cvtColor(SMOOTH, cv2.COLOR_RGB2YUV_I420)  # rows of Y, then of U, then of V at half resolution
Y, U, V = YUV[:48], YUV[48:60].reshape(24, 32), YUV[60:].reshape(24, 32)


def packed(*order: str) -> np.ndarray:
    """4:2:2 from 4:2:0: [height, width, 2] with the four bytes of a pair of pixels in ``order``."""
    full = {"U": U.repeat(2, axis=0), "V": V.repeat(2, axis=0), "Y0": Y[:, 0::2], "Y1": Y[:, 1::2]}
    return np.stack([full[name] for name in order], axis=-1).reshape(48, 64, 2)


def planar(*order: np.ndarray) -> np.ndarray:
    """4:2:0: rows of Y, then chroma samples in turn."""
    return np.vstack([Y, np.stack(order, axis=-1).reshape(24, 64)])


YUVS: dict[str, np.ndarray] = {
    "yuv422": packed("U", "Y0", "V", "Y1"),
    "uyvy": packed("U", "Y0", "V", "Y1"),
    "yuv422_yuy2": packed("Y0", "U", "Y1", "V"),
    "yuyv": packed("Y0", "U", "Y1", "V"),
    "nv12": planar(U, V),
    "nv21": planar(V, U),
}


@pytest.mark.parametrize("padding", [0, 4])
@pytest.mark.parametrize("encoding", YUVS)
def test_yuv(encoding, padding):
    picture = rgb(message(encoding, YUVS[encoding], padding, height=48, width=64))
    assert picture.shape == (48, 64, 3)
    difference = np.abs(picture.astype(int) - SMOOTH)
    assert np.median(difference) <= 6  # swapped chroma is off by tens
    grey = message(encoding, np.full_like(YUVS[encoding], 128), height=48, width=64)
    np.testing.assert_allclose(rgb(grey), (128 - 16) * 255 / 219, atol=2)


def test_every_encoding_is_tested():
    mosaics = {f"bayer_{pattern}{bits}" for pattern in PATTERNS for bits in (8, 16)}
    assert set(ENCODINGS) == {*ORDERS, *DEEP, *mosaics, *YUVS}


# ---------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8", "mono8"])
def test_picture_owns_its_memory(encoding):
    sent = message(encoding, np.stack(ORDERS[encoding], axis=-1))
    picture = rgb(sent)
    assert picture.flags.c_contiguous
    assert picture.dtype == np.uint8
    before = picture.copy()
    np.frombuffer(sent.data, np.uint8)[:] = 0  # as a driver that uses its buffer again
    np.testing.assert_array_equal(picture, before)
    picture[:] = 7
    assert not np.frombuffer(sent.data, np.uint8).any()


def test_last_row_needs_no_padding():
    sent = message("rgb8", COLOUR, padding=10)
    sent.data = sent.data[:-10]
    np.testing.assert_array_equal(rgb(sent), COLOUR)
    sent.data = sent.data[:-1]
    with pytest.raises(ImageError, match="truncated"):
        rgb(sent)


# ----------------------------------------------------------------------------------------------------- wrong


@given(
    encoding=st.sampled_from([*ENCODINGS, "", "rgb", "32FC1", "é"]),
    width=st.integers(0, 9),
    height=st.integers(0, 9),
    step=st.integers(0, 40),
    data=st.binary(max_size=300),
    big_endian=st.integers(0, 255),
)
def test_any_message_gives_a_picture_or_an_image_error(encoding, width, height, step, data, big_endian):
    sent = Image(encoding=encoding, width=width, height=height, step=step, data=data, is_bigendian=big_endian)
    try:
        picture = rgb(sent)
    except ImageError:
        return
    assert (picture.shape, picture.dtype) == ((height, width, 3), np.uint8)


def test_absurd_size_is_refused_without_allocating_it():
    huge = Image(encoding="rgb8", width=2**32 - 1, height=2**32 - 1, step=2**32 - 1, data=bytes(100))
    with pytest.raises(ImageError, match="step"):
        rgb(huge)
    huge.width = 1
    with pytest.raises(ImageError, match="truncated: 100 bytes"):
        rgb(huge)


# ------------------------------------------------------------------------------------------------ compressed


def encoded(form: str, picture: np.ndarray = SMOOTH) -> bytes:
    return cv2.imencode(f".{form}", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.mark.parametrize(("form", "tolerance"), [("png", 0), ("jpg", 12), ("webp", 25), ("bmp", 0)])
def test_compressed(form, tolerance):
    picture = rgb(CompressedImage(format=form, data=encoded(form)))
    assert np.median(np.abs(picture.astype(int) - SMOOTH)) <= tolerance
    assert picture.flags.c_contiguous


def test_compressed_mono_becomes_rgb():
    data = cv2.imencode(".png", SMOOTH[..., 0])[1].tobytes()
    np.testing.assert_array_equal(rgb(CompressedImage(data=data)), SMOOTH[..., :1].repeat(3, axis=-1))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(
    "form", ["{}; png compressed ", "{}; PNG compressed mono8", "{}; png", "png; {}", "{0}; png compressed {0}"]
)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_compressed_bayer_mosaic_is_no_picture_yet(pattern, form, depth):
    """image_transport compresses the mosaic of a Bayer camera as it is, and says so before the semicolon."""
    shift, dtype = depth - 8, f"<u{depth // 8}"
    data = cv2.imencode(".png", mosaic(pattern, (200 << shift, 100 << shift, 50 << shift), dtype))[1].tobytes()
    names = (f"bayer_{pattern}{depth}", f"BAYER_{pattern.upper()}{depth}")
    picture = rgb(CompressedImage(format=form.format(names[depth == 8]), data=data))
    np.testing.assert_array_equal(picture[1:-1, 1:-1], np.broadcast_to((200, 100, 50), (6, 8, 3)))


def test_compressed_bayer_mosaic_in_a_file_of_three_channels():
    rows = cv2.merge([mosaic("rggb", (200, 100, 50))] * 3)
    picture = rgb(
        CompressedImage(format="bayer_rggb8; png compressed ", data=cv2.imencode(".png", rows)[1].tobytes())
    )
    np.testing.assert_array_equal(picture[1:-1, 1:-1], np.broadcast_to((200, 100, 50), (6, 8, 3)))


def test_compressed_bayer_mosaic_that_was_converted_before():
    picture = rgb(CompressedImage(format="bayer_rggb8; png compressed bgr8", data=encoded("png")))
    np.testing.assert_array_equal(picture, SMOOTH)


def test_unknown_bayer_pattern_is_refused():
    data = cv2.imencode(".png", mosaic("rggb", (200, 100, 50)))[1].tobytes()
    with pytest.raises(ImageError, match="bayer_rggb12"):
        rgb(CompressedImage(format="bayer_rggb12; png compressed ", data=data))


@pytest.mark.parametrize(
    ("form", "red_first"),
    [
        ("rgb8; png compressed bgr8", False),
        ("bgr8; png compressed bgr8", False),
        ("bgr8; png compressed ", False),
        ("RGB8; png compressed ", True),
        ("rgb8; png compressed ", True),  # stored as it was; image_transport's subscriber swaps it back too
        ("png", False),
        ("rgb8", False),
        ("", False),
    ],
)
def test_order_of_colours_is_that_of_the_format(form, red_first):
    stored = cv2.imencode(".png", SMOOTH if red_first else cv2.cvtColor(SMOOTH, cv2.COLOR_RGB2BGR))[1]
    np.testing.assert_array_equal(rgb(CompressedImage(format=form, data=stored.tobytes())), SMOOTH)


def test_odd_width_cannot_be_yuv():
    with pytest.raises(ImageError, match="63x48 image cannot be yuyv"):
        rgb(message("yuyv", np.zeros((48, 63, 2), np.uint8)))


# --------------------------------------------------------------------------------- headers before pixels


def png(width: int, height: int) -> bytes:
    """A PNG of one bit a pixel that claims a size, with next to nothing behind it."""
    ihdr = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", ihdr), (b"IDAT", zlib.compress(bytes(height * (width // 8 + 1)))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def peak_bytes(action: Callable[[], object]) -> int:
    """How much the process grew at most while ``action`` ran."""
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far

    def value(name: str) -> int:
        return int(re.search(rf"{name}:\s+(\d+)", status.read_text())[1]) * 1024

    before = value("VmRSS")
    action()
    return value("VmHWM") - before


def test_huge_picture_is_not_decoded():
    def refused() -> None:
        with pytest.raises(ImageError, match="16384x8192"):
            rgb(CompressedImage(format="png", data=data))

    data = png(16384, 8192)
    assert peak_bytes(refused) < 20e6


def test_one_flipped_bit_takes_no_memory():
    """A chunk that claims gigabytes: OpenCV alone would make room for them."""
    data = bytearray(png(32, 24))
    data[33] ^= 0x40  # of the length of the chunk behind the header

    def refused() -> None:
        with pytest.raises(ImageError):
            rgb(CompressedImage(format="png", data=bytes(data)))

    assert peak_bytes(refused) < 20e6


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "bmp", "tiff"])
def test_size_is_read_off_the_header(form):
    assert images.size(CompressedImage(data=encoded(form))) == (64, 48)


def test_size_of_a_raw_image():
    assert images.size(message("rgb8", COLOUR)) == (8, 6)
    with pytest.raises(ImageError, match="truncated"):
        images.size(message("rgb8", COLOUR, height=7))


# ------------------------------------------------------------------------------------------------ full scale


@pytest.mark.parametrize(
    ("values", "nothing"),
    [
        (np.array([[0, 1000, 65534, 65535]], np.uint16), [True, False, False, True]),
        (np.array([[0, 100, 254, 255]], np.uint8), [True, False, False, True]),
        (
            np.array([[0, 1, np.inf, np.nan, -1, 65.535, 65504, np.finfo(np.float32).max]], np.float32),
            [True, False, True, True, True, True, True, True],
        ),
    ],
)
def test_full_scale_is_no_depth(values, nothing):
    assert np.isnan(metres(values)[0]).tolist() == nothing


def test_jpeg_with_padding_behind_it():
    assert rgb(CompressedImage(data=encoded("jpg") + bytes(100))).shape == SMOOTH.shape


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.3])
@pytest.mark.parametrize("form", ["jpg", "png"])
def test_cut_off_file(form, kept):
    data = encoded(form)
    with pytest.raises(ImageError):
        rgb(CompressedImage(format=form, data=data[: int(len(data) * kept)]))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_picture_or_an_image_error(data):
    try:
        picture = rgb(CompressedImage(format="jpeg", data=data))
    except ImageError:
        return
    assert picture.ndim == 3


# ------------------------------------------------------------------------------------------------- cv_bridge

STRANGE = Image(encoding="8SC3", width=8, height=6, step=24, data=bytes(144))
WORKING = """
class CvBridge:
    def cv2_to_imgmsg(self, array, encoding): return array
    def imgmsg_to_cv2(self, message, encoding=None): return ANSWER
"""
FAKES = {
    "is not installed": None,
    "takes the interpreter down": "import os; os.abort()",
    "exits": "raise SystemExit(0)",
    "fails to import": "raise AttributeError('_ARRAY_API not found')",
    "is wrong about 16 bits": "import numpy\n" + WORKING.replace("ANSWER", "message.astype(numpy.uint8) * 0"),
}


@pytest.fixture
def install_cv_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], None]:
    """Put a cv_bridge with this source where Python finds it first, here and in processes started from here."""

    def install(source: str | None) -> None:
        folder = tmp_path / "cv_bridge"
        folder.mkdir()
        (folder / "__init__.py").write_text(source or "raise ModuleNotFoundError('cv_bridge')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.delitem(sys.modules, "cv_bridge", raising=False)

    ros_images._cv_bridge.cache_clear()
    yield install
    ros_images._cv_bridge.cache_clear()
    sys.modules.pop("cv_bridge", None)


@pytest.mark.parametrize("fake", FAKES)
def test_bad_cv_bridge_does_no_harm(fake, install_cv_bridge):
    install_cv_bridge(FAKES[fake])
    for _ in range(2):
        with pytest.raises(ImageError, match="unknown encoding '8SC3'"):
            rgb(STRANGE)
    np.testing.assert_array_equal(rgb(message("rgb8", COLOUR)), COLOUR)


def test_cv_bridge_is_tried_once(install_cv_bridge, tmp_path):
    install_cv_bridge(f"open({str(tmp_path / 'tried')!r}, 'a').write('x'); raise ImportError")
    for _ in range(3):
        with pytest.raises(ImageError):
            rgb(STRANGE)
    assert (tmp_path / "tried").read_text() == "x"


# Passes the trial, in which arrays stand for messages, and reads the strange image as the test says.
GOOD = """
import numpy
class CvBridge:
    def cv2_to_imgmsg(self, array, encoding): return array
    def imgmsg_to_cv2(self, message, encoding=None):
        if isinstance(message, numpy.ndarray):
            return message
        ANSWER
"""


def test_good_cv_bridge_is_asked_for_what_is_not_known_here(install_cv_bridge):
    install_cv_bridge(GOOD.replace("ANSWER", "return numpy.full((6, 8, 3), 9, numpy.uint8)"))
    np.testing.assert_array_equal(rgb(STRANGE), np.full((6, 8, 3), 9))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("raise RuntimeError('[8SC3] is no colour format')", "no colour format"),
        ("return numpy.zeros((6, 8), numpy.uint8)", "uint8"),
        ("return numpy.zeros((6, 8, 3), numpy.float32)", "float32"),
    ],
)
def test_cv_bridge_that_cannot_read_it_either(install_cv_bridge, answer, why):
    install_cv_bridge(GOOD.replace("ANSWER", answer))
    with pytest.raises(ImageError, match=why):
        rgb(STRANGE)


@pytest.mark.parametrize("encoding", [*ORDERS, *DEEP])
def test_as_cv_bridge_reads_it(encoding):
    """Where a cv_bridge that works is installed: the same pictures, but for rounding of 16 bits."""
    if ros_images._cv_bridge() is None:
        pytest.skip("no cv_bridge that works is installed")
    like = DEEP.get(encoding, encoding)
    rows = np.stack(ORDERS[like], axis=-1)
    sent = message(encoding, rows.astype("<u2") * 257 if encoding in DEEP else rows)
    convert = ros_images._cv_bridge()
    if encoding.startswith("8U"):  # untyped: cv_bridge hands over what there is, and refuses to call it a colour
        theirs = convert(sent, "passthrough")
        theirs = np.stack([theirs] * 3, axis=-1) if theirs.ndim == 2 else theirs[..., 2::-1]
    else:
        theirs = convert(sent, "rgb8")
    np.testing.assert_allclose(rgb(sent).astype(int), theirs, atol=1)

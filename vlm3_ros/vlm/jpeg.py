"""Pictures as a model server takes them: at the size to be seen, as JPEG."""

from __future__ import annotations

import cv2
import numpy as np
from scipy.sparse import csr_array

from vlm3_ros.vlm.interface import ModelError, Picture

# Each question carries its pictures anew. Against PNG this is a fifth of the bytes and of the server's time to decode
# them, for noise of about one grey level, less than a camera's own.
QUALITY = 95


def encode(picture: Picture) -> bytes:
    """A picture at ``picture.size`` as JPEG."""
    pixels = resized(picture.pixels, picture.size)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    if not done:
        raise ModelError(f"a picture of {picture.size[0]}x{picture.size[1]} pixels cannot be written as JPEG")
    return data.tobytes()


def resized(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image uint8 [h, w, C] at ``size`` (width, height): antialiased bicubic, as local models see it.

    The same resampling as Pillow's and PyTorch's; OpenCV has no bicubic one that is antialiased.
    """
    (height, width, channels), (columns, rows) = pixels.shape, size
    if (width, height) == size:
        return pixels
    tall = _weights(height, rows) @ pixels.reshape(height, -1).astype(np.float32)
    wide = _weights(width, columns) @ tall.reshape(rows, width, channels).swapaxes(0, 1).reshape(width, -1)
    image = wide.reshape(columns, rows, channels).swapaxes(0, 1)
    return np.ascontiguousarray(image.round().clip(0, 255).astype(np.uint8))


def _weights(before: int, after: int) -> csr_array:
    """The share [after, before] of each pixel along one axis in each new one."""
    scale = before / after
    stretch = max(scale, 1.0)  # when shrinking, the kernel covers all pixels that become one
    centres = (np.arange(after) + 0.5) * scale
    first = np.floor(centres - 2.0 * stretch).astype(int)
    columns = first[:, None] + np.arange(int(np.ceil(4.0 * stretch)) + 2)
    shares = _cubic((columns + 0.5 - centres[:, None]) / stretch) * ((columns >= 0) & (columns < before))
    shares /= shares.sum(axis=1, keepdims=True)
    rows = np.arange(after)[:, None].repeat(columns.shape[1], axis=1)
    kept = shares != 0.0
    return csr_array((shares[kept].astype(np.float32), (rows[kept], columns[kept])), shape=(after, before))


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic convolution kernel with a = −1/2 (IEEE Trans. ASSP 29(6), 1981)."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))

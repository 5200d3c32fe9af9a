"""Pictures to the patches that Qwen3-VL's vision tower takes, on the model's device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm3_ros.vlm.checkpoint import CheckpointInfo, image_statistics
from vlm3_ros.vlm.interface import ModelError, Picture


@dataclass(frozen=True)
class PatchFormat:
    """How a checkpoint wants its patches."""

    patch: int = 16  # px, side of a patch
    merge: int = 2  # merge × merge patches become one token
    temporal: int = 2  # frames per patch: a picture is shown twice
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    @classmethod
    def of(cls, info: CheckpointInfo) -> PatchFormat:
        """From config.json and the folder's processor settings. Raises ModelError."""
        mean, std = image_statistics(info.folder)
        sizes = info.vision
        return cls(sizes["patch_size"], sizes["spatial_merge_size"], sizes["temporal_patch_size"], mean, std)

    @property
    def token_px(self) -> int:
        """Side of the image square behind one token, in pixels."""
        return self.patch * self.merge


def patchify(picture: Picture, form: PatchFormat, device: torch.device) -> tuple[Tensor, tuple[int, int]]:
    """One picture to float32 patches [rows · columns, channels · temporal · patch²] and its (rows, columns) of them.

    One antialiased bicubic resize to ``picture.size`` (none where it has that size already), rounded to 8 bits as
    Qwen's processor does. Patches come in the order of tokens: the merge × merge patches of a token in a row.
    """
    width, height = picture.size
    if width % form.token_px or height % form.token_px or min(width, height) <= 0:
        raise ModelError(f"a picture is to be seen at {width}x{height}, both must be multiples of {form.token_px}")
    pixels = torch.as_tensor(picture.pixels).to(device).permute(2, 0, 1).float()
    if pixels.shape[1:] != (height, width):
        pixels = F.interpolate(pixels[None], (height, width), mode="bicubic", antialias=True, align_corners=False)[0]
        pixels = pixels.round_().clamp_(0.0, 255.0)
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (form.mean, form.std))
    pixels = (pixels / 255.0 - mean) / std
    rows, columns = height // form.patch, width // form.patch
    m, p = form.merge, form.patch
    blocks = pixels.reshape(3, rows // m, m, p, columns // m, m, p).permute(1, 4, 2, 5, 0, 3, 6)
    frames = blocks.unsqueeze(5).expand(-1, -1, -1, -1, -1, form.temporal, -1, -1)
    return frames.reshape(rows * columns, 3 * form.temporal * p * p), (rows, columns)

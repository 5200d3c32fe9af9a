"""Patches: the same as those of transformers' own image processor."""

import json

import checkpoints
import numpy as np
import pytest
import torch

from vlm3_ros.vlm import ModelError, Picture
from vlm3_ros.vlm.checkpoint import CheckpointInfo
from vlm3_ros.vlm.preprocess import PatchFormat, patchify

CPU = torch.device("cpu")
FORMAT = PatchFormat()


def reference(pixels: np.ndarray) -> tuple[torch.Tensor, tuple[int, int]]:
    try:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    except ImportError:
        pytest.skip("this transformers has no Pillow image processor for Qwen-VL (5.5 and later have)")
    processor = Qwen2VLImageProcessorPil(
        patch_size=16,
        temporal_patch_size=2,
        merge_size=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        size={"shortest_edge": 65536, "longest_edge": 16777216},
    )
    out = processor(pixels, return_tensors="pt")
    return out["pixel_values"], tuple(out["image_grid_thw"][0, 1:].tolist())


def smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """An image as cameras give them: no pixel noise at full contrast."""
    import cv2

    coarse = rng.integers(0, 255, (height // 20 + 1, width // 20 + 1, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def test_without_a_resize_the_patches_are_exact(rng):
    pixels = rng.integers(0, 256, (320, 416, 3), dtype=np.uint8)
    expected, grid = reference(pixels)
    got, size = patchify(Picture(pixels, (416, 320)), FORMAT, CPU)
    assert size == grid == (20, 26)
    torch.testing.assert_close(got, expected, rtol=0.0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(300, 400), (610, 801), (275, 1242)])
def test_with_a_resize_they_are_a_few_grey_levels_off(rng, height, width):
    pixels = smooth(rng, height, width)
    expected, (rows, columns) = reference(pixels)
    got, size = patchify(Picture(pixels, (columns * 16, rows * 16)), FORMAT, CPU)
    assert size == (rows, columns)
    levels = (got - expected).abs() * 127.5  # 8-bit grey levels
    assert levels.mean() < 0.25
    assert levels.max() <= 4.0


def test_patches_are_embedded_as_by_their_convolution(rng, monkeypatch):
    checkpoint = checkpoints.loaded(checkpoints.TINY)
    embed = checkpoint.model.model.visual.patch_embed
    monkeypatch.setattr(embed.proj, "bias", torch.nn.Parameter(torch.randn_like(embed.proj.bias)))  # 0 at first
    pixels, *_ = checkpoint.pixels([Picture(smooth(rng, 64, 96), (96, 64))])
    expected = embed.proj(pixels.view(-1, embed.in_channels, *embed.proj.kernel_size)).flatten(1)
    torch.testing.assert_close(embed(pixels), expected, rtol=1e-5, atol=1e-5)


def test_a_token_is_a_square_of_the_image(rng):
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[32:, 64:] = 255  # the last token
    patches, _ = patchify(Picture(pixels, (96, 64)), FORMAT, CPU)
    tokens = patches.reshape(6, -1)
    assert tokens[:5].max() == -1.0
    assert tokens[5].min() == 1.0


@pytest.mark.parametrize("size", [(100, 64), (96, 0), (96, 63)])
def test_sizes_that_are_no_whole_tokens_are_refused(size):
    with pytest.raises(ModelError, match="multiples of 32"):
        patchify(Picture(np.zeros((64, 96, 3), np.uint8), size), FORMAT, CPU)


def test_the_format_is_read_from_the_old_and_the_new_file(tmp_path):
    info = CheckpointInfo("", tmp_path, {"vision_config": {"patch_size": 14}}, 0)
    assert PatchFormat.of(info).mean == (0.5, 0.5, 0.5)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4, 0.5, 0.6]}))
    assert PatchFormat.of(info).mean == (0.4, 0.5, 0.6)
    assert PatchFormat.of(info).token_px == 28
    (tmp_path / "preprocessor_config.json").unlink()
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": {"image_std": [1.0, 2.0, 3.0]}}))
    assert PatchFormat.of(info).std == (1.0, 2.0, 3.0)

"""Models to train: new small ones of Qwen3-VL's architecture, and checkpoints to go on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>{%- else -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}
"""
PATCH, MERGE = 16, 2
MIN_PIXELS, MAX_PIXELS = 65536, 16777216  # of a picture, in Qwen's processor


@dataclass(frozen=True)
class Size:
    """Widths and depths of a small model; what is not here is as in Qwen3-VL-4B."""

    hidden: int = 160
    intermediate: int = 448
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    vision_hidden: int = 160
    vision_intermediate: int = 480
    vision_layers: int = 6
    vision_heads: int = 4
    vision_grid: int = 16  # positions per side that have a vector of their own; others are interpolated
    deepstack: tuple[int, ...] = (1,)  # vision layers whose result is added to the first text layers


def new_checkpoint(folder: Path, tokenizer: Path, size: Size, image_scale: float, seed: int) -> None:
    """Write a checkpoint with random weights; every file that Qwen's own has is there.

    ``image_scale`` is the fraction of the protocol's image sizes at which it will see.
    """
    from transformers import Qwen3VLForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    ids = _write_processor(folder, tokenizer, image_scale)
    torch.manual_seed(seed)
    model = Qwen3VLForConditionalGeneration(_config(size, ids, image_scale))
    with torch.no_grad():
        positions: Any = model.model.visual.pos_embed.weight
        positions.copy_(sinusoids(size.vision_grid, positions.shape[1]))
    model.save_pretrained(folder)
    ends = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    _write(folder / "generation_config.json", {"eos_token_id": ends, "pad_token_id": ids["<|endoftext|>"]})


def sinusoids(side: int, channels: int) -> Tensor:
    """Waves over a square grid [side · side, channels]: a start from which positions can be told at once.

    The usual random start is so small that a small model takes long to find out where it looks.
    """
    frequencies = torch.pi * 2.0 ** torch.linspace(-1.0, 2.5, channels // 4)
    angles = torch.linspace(0.0, 1.0, side)[:, None] * frequencies
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, channels / 2]
    rows, columns = waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)
    return 0.5 * torch.cat([rows, columns], dim=-1).reshape(side * side, -1)


def _config(size: Size, ids: dict[str, int], image_scale: float) -> Any:
    from transformers import Qwen3VLConfig

    sixth = size.head_dim // 2 // 6
    text = {
        "attention_bias": False,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "head_dim": size.head_dim,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "max_position_embeddings": 4096,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": [size.head_dim // 2 - 4 * sixth, 2 * sixth, 2 * sixth],
            "rope_type": "default",
        },
        "rope_theta": 5000000,
        "tie_word_embeddings": True,
        "vocab_size": max(ids.values()) + 1,
    }
    vision = {
        "deepstack_visual_indexes": list(size.deepstack),
        "depth": size.vision_layers,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": size.vision_hidden,
        "intermediate_size": size.vision_intermediate,
        "model_type": "qwen3_vl",
        "num_heads": size.vision_heads,
        "num_position_embeddings": size.vision_grid**2,
        "out_hidden_size": size.hidden,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
    }
    ours: dict[str, Any] = {"vlm3": {"image_scale": image_scale}}
    return Qwen3VLConfig(
        architectures=["Qwen3VLForConditionalGeneration"],
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        text_config=text,
        vision_config=vision,
        **ours,
    )


def _write_processor(folder: Path, tokenizer: Path, image_scale: float) -> dict[str, int]:
    """Tokenizer, chat template and preprocessor settings; returns the ids of the added tokens."""
    shutil.copy(tokenizer, folder / "tokenizer.json")
    names = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    _write(folder / "tokenizer_config.json", names)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    processor = {
        "size": {"longest_edge": MAX_PIXELS, "shortest_edge": round(MIN_PIXELS * image_scale**2)},
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "processor_class": "Qwen3VLProcessor",
        "image_processor_type": "Qwen2VLImageProcessorFast",
    }
    _write(folder / "preprocessor_config.json", processor)
    content = json.loads(tokenizer.read_text(encoding="utf-8"))
    return {token["content"]: token["id"] for token in content["added_tokens"]}


PROCESSOR_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
    "vocab.json",
    "merges.txt",
)


def copy_processor(source: Path, target: Path, files: Iterable[str] = PROCESSOR_FILES) -> None:
    """Everything of a checkpoint folder but its weights and its config.json, as far as it has it."""
    for name in files:
        if (source / name).is_file():
            shutil.copy(source / name, target / name)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2))

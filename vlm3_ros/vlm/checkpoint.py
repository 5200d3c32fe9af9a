"""Qwen3-VL checkpoints on disk: found and checked without loading anything heavy.

`inspect` is what the node calls before it claims to be configured; `vlm3_ros.vlm.loading` turns the result into a
model. Whatever small files and headers of weights can show is refused here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from vlm3_ros.vlm.files import read_json, read_text, refuse_lfs_pointer
from vlm3_ros.vlm.folder import BUNDLED, find, refuse_adapters, refuse_without_config
from vlm3_ros.vlm.interface import ModelError
from vlm3_ros.vlm.weights import HEAD, INDEX, compare, stored, weight_files

MODEL_TYPE = "qwen3_vl"
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8  # a weight in NF4 with double quantization (QLoRA, arXiv 2305.14314)
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SAMPLES, SAMPLE_BYTES = 256, 16_384  # of a weight file, evenly spread: training changes weights everywhere

# The sizes in a config and what transformers takes where one is not there (Qwen3VLTextConfig, Qwen3VLVisionConfig).
TEXT_SIZES = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 22_016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
}
VISION_SIZES = {
    "depth": 27,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_heads": 16,
    "in_channels": 3,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 3584,
    "num_position_embeddings": 2304,
}
LARGEST = 10_000_000  # of these sizes


@dataclass(frozen=True)
class CheckpointInfo:
    """What is known of a checkpoint before it is loaded."""

    name: str  # as the user wrote it
    folder: Path
    config: dict[str, Any]  # config.json
    file_bytes: int  # size of the weight files
    is_tied: bool = True  # the output head is the embedding

    @property
    def quantization(self) -> str | None:
        """Name of the quantization the checkpoint was saved with; None where it was not."""
        config = self.config.get("quantization_config")
        return str(config.get("quant_method", "unknown")) if config else None

    @property
    def image_scale(self) -> float:
        """The fraction of the protocol's image sizes that the checkpoint was trained on: 1 for the released ones."""
        return float(self.config.get("vlm3", {}).get("image_scale", 1.0))

    @cached_property
    def text(self) -> dict[str, int]:
        """Sizes of the language model."""
        return _sizes(self.config, "text_config", TEXT_SIZES)

    @cached_property
    def vision(self) -> dict[str, int]:
        """Sizes of the vision tower."""
        return _sizes(self.config, "vision_config", VISION_SIZES)

    @property
    def wording(self) -> dict[str, str]:
        """How the checkpoint learned to be asked spatial questions, by kind; empty: in the protocol's words."""
        return dict(self.config.get("vlm3", {}).get("questions", {}))

    @property
    def parameters(self) -> float:
        """Number of weights, roughly; of a checkpoint that was not saved quantized."""
        dtype = self.config.get("dtype") or self.config.get("torch_dtype") or "bfloat16"
        return self.file_bytes / BYTES.get(dtype, 2)

    @property
    def fingerprint(self) -> str:
        """Tells the weights from others of the same name, by a part of the files that is read in no time."""
        digest = hashlib.sha256()
        for file in weight_files(self.folder):
            size = file.stat().st_size
            digest.update(size.to_bytes(8, "little"))
            with file.open("rb") as content:
                for sample in range(SAMPLES):
                    content.seek(sample * max(0, size - SAMPLE_BYTES) // (SAMPLES - 1))
                    digest.update(content.read(SAMPLE_BYTES))
        return digest.hexdigest()[:16]

    def memory_bytes(self, precision: str) -> int:
        """Weights in memory at a precision of `loading.load` (not "auto"), roughly."""
        if self.quantization:
            return self.file_bytes
        if precision != "nf4":
            return int(self.parameters * (4 if precision == "fp32" else 2))
        quantized = text_linear_parameters(self.text)
        return int(quantized * NF4_BYTES + (self.parameters - quantized) * 2)


def inspect(name: str) -> CheckpointInfo:
    """Find a checkpoint by folder, hub id or as BUNDLED, and check that this code can load it.

    Raises ModelError for a missing folder or download, for what is no checkpoint (saying what it is), for missing or
    damaged files, for weights of other shapes than config.json says, and for another architecture.
    """
    try:
        return _inspect(name, find(name))
    except OSError as error:  # no permission, a disk that fails
        raise ModelError(f"the checkpoint {name} cannot be read: {error}") from error


def _inspect(name: str, folder: Path) -> CheckpointInfo:
    refuse_without_config(folder)
    config = read_json(folder / "config.json")
    _check_config(name, folder, config)
    files = weight_files(folder)
    refuse_adapters(folder)
    tensors = stored(files)
    info = CheckpointInfo(
        name, folder, config, sum(file.stat().st_size for file in files), _is_tied(folder, config, HEAD in tensors)
    )
    compare(folder, tensors, info.text, info.vision, _deepstack(config, info.vision["depth"]))
    if not (folder / "tokenizer.json").is_file():
        raise ModelError(f"{folder} has no tokenizer.json: download the whole checkpoint, not only weights")
    refuse_lfs_pointer(folder / "tokenizer.json")
    chat_template(folder)
    image_statistics(folder)
    return info


def _check_config(name: str, folder: Path, config: Mapping[str, Any]) -> None:
    if config.get("model_type") != MODEL_TYPE:
        raise ModelError(
            f"{name} is a checkpoint of architecture {config.get('model_type')!r}, only {MODEL_TYPE!r} (Qwen3-VL and "
            "VLM³) can be loaded"
        )
    if "text_config" not in config or "vision_config" not in config:
        raise ModelError(f"config.json in {folder} lacks text_config or vision_config: the download is damaged")
    if isinstance(config.get("quantization"), dict) and not config.get("quantization_config"):
        raise ModelError(
            f"{folder} holds a checkpoint for MLX, which cannot be loaded: download the one it was made of"
        )
    for part, kinds in (
        ("text_config", dict),
        ("vision_config", dict),
        ("vlm3", dict),
        ("quantization_config", dict | None),
        ("dtype", str | None),
        ("torch_dtype", str | None),
    ):
        if part in config and not isinstance(config[part], kinds):
            raise ModelError(
                f"config.json in {folder} has {part}: {_short(config[part])}, which is of the wrong type"
            )
    scale = config.get("vlm3", {}).get("image_scale", 1.0)
    if type(scale) not in (int, float) or not 0.0 < scale <= 4.0:
        raise ModelError(f"config.json in {folder} has vlm3.image_scale: {_short(scale)}, which must be in (0, 4]")
    wording = config.get("vlm3", {}).get("questions", {})
    if not isinstance(wording, dict) or not all(isinstance(text, str) for text in wording.values()):
        raise ModelError(f"config.json in {folder} has vlm3.questions: {_short(wording)}, which are no texts by name")


def _sizes(config: Mapping[str, Any], part: str, names: Mapping[str, int]) -> dict[str, int]:
    sizes = {name: config[part].get(name, usual) for name, usual in names.items()}
    for name, size in sizes.items():
        if type(size) is not int or not 0 < size <= LARGEST:
            raise ModelError(f"config.json has {part}.{name}: {_short(size)}, which is no size")
    return sizes


def _deepstack(config: Mapping[str, Any], depth: int) -> int:
    """After how many layers of the vision tower what it sees goes to the language model too."""
    layers = config["vision_config"].get("deepstack_visual_indexes", [8, 16, 24])
    if not isinstance(layers, list) or not all(type(i) is int and 0 <= i < depth for i in layers):
        raise ModelError(
            f"config.json has vision_config.deepstack_visual_indexes: {_short(layers)}, which are no layers"
        )
    return len(layers)


def _is_tied(folder: Path, config: Mapping[str, Any], has_head: bool) -> bool:
    """Whether the head is the embedding, which may be said for the whole or only for its text part."""
    if has_head:
        return config.get("tie_word_embeddings") is True
    if config.get("tie_word_embeddings") is True or config["text_config"].get("tie_word_embeddings") is True:
        return True
    raise ModelError(
        f"the weights in {folder} have no head ({HEAD}), and by config.json it is not the embedding either: a model "
        "for embeddings or ranking cannot answer; of one that can, set tie_word_embeddings to true in config.json"
    )


def chat_template(folder: Path) -> str:
    """The chat template, which may stand in a file of its own, of a new or an old kind. Raises ModelError."""
    if (folder / "chat_template.jinja").is_file():
        return read_text(folder / "chat_template.jinja")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (folder / name).is_file() and (found := read_json(folder / name).get("chat_template")) is not None:
            return _default_template(folder / name, found)
    raise ModelError(
        f"{folder} has no chat template (chat_template.jinja, chat_template.json or in tokenizer_config.json): "
        "download the whole checkpoint, not only weights"
    )


def _default_template(file: Path, found: Any) -> str:
    """The template of a name in a list of several: "default", or the only one."""
    if isinstance(found, list) and all(isinstance(one, dict) for one in found):
        found = {str(one.get("name")): one.get("template") for one in found}
    if isinstance(found, dict):
        found = found.get("default", next(iter(found.values())) if len(found) == 1 else None)
    if not isinstance(found, str):
        raise ModelError(f"{file} has a chat_template that is neither text nor a list with one called default")
    return found


def image_statistics(folder: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each colour that pictures are normalized with, in [0, 1]; of Qwen3-VL where not given."""
    settings: dict[str, Any] = {}
    file = folder / "preprocessor_config.json"
    for file in (folder / "processor_config.json", folder / "preprocessor_config.json"):
        if file.is_file():
            settings = read_json(file)
            settings = settings.get("image_processor", settings)
    if not isinstance(settings, dict):
        raise ModelError(f"{file} has no settings of an image processor")
    mean, deviation = (settings.get(name, [0.5] * 3) for name in ("image_mean", "image_std"))
    for values, least in ((mean, 0.0), (deviation, 1e-3)):
        is_right = isinstance(values, list) and len(values) == 3 and all(type(v) in (int, float) for v in values)
        if not is_right or not all(math.isfinite(v) and least <= v <= 1e3 for v in values):
            raise ModelError(f"{file} must give image_mean and image_std as three numbers, not {_short(values)}")
    return tuple(map(float, mean)), tuple(map(float, deviation))


def text_linear_parameters(text: Mapping[str, int]) -> int:
    """Weights of the language model's linear layers: what NF4 applies to."""
    hidden, head = text["hidden_size"], text["head_dim"]
    attention = 2 * hidden * head * (text["num_attention_heads"] + text["num_key_value_heads"])
    return text["num_hidden_layers"] * (attention + 3 * hidden * text["intermediate_size"])


def _short(value: Any) -> str:
    return repr(value)[:60]


__all__ = [
    "BUNDLED",
    "INDEX",
    "CheckpointInfo",
    "chat_template",
    "image_statistics",
    "inspect",
    "text_linear_parameters",
    "weight_files",
]

"""Qwen3-VL checkpoints on disk: found and checked without loading anything heavy.

`inspect` is what the node calls before it claims to be configured; `vlm3_ros.vlm.loading` turns the result into a
model.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm3_ros.vlm.interface import ModelError

MODEL_TYPE = "qwen3_vl"
INDEX = "model.safetensors.index.json"  # of weights in several files
BUNDLED = "bundled"  # name of the small checkpoint that comes with the package
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8  # a weight in NF4 with double quantization (QLoRA, arXiv 2305.14314)
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SAMPLES, SAMPLE_BYTES = 256, 16_384  # of a weight file, evenly spread: training changes weights everywhere


@dataclass(frozen=True)
class CheckpointInfo:
    """What is known of a checkpoint before it is loaded."""

    name: str  # as the user wrote it
    folder: Path
    config: dict[str, Any]  # config.json
    file_bytes: int  # size of the weight files

    @property
    def quantization(self) -> str | None:
        """Name of the quantization the checkpoint was saved with; None where it was not."""
        config = self.config.get("quantization_config")
        return str(config.get("quant_method", "unknown")) if config else None

    @property
    def image_scale(self) -> float:
        """The fraction of the protocol's image sizes that the checkpoint was trained on: 1 for the released ones."""
        return float(self.config.get("vlm3", {}).get("image_scale", 1.0))

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
        quantized = text_linear_parameters(self.config["text_config"])
        return int(quantized * NF4_BYTES + (self.parameters - quantized) * 2)


def inspect(name: str) -> CheckpointInfo:
    """Find a checkpoint by folder, hub id or as BUNDLED, and check that this code can load it.

    Raises ModelError for a missing folder or download, missing files and another architecture.
    """
    folder = _folder(name)
    config = _json(folder / "config.json", name)
    if config.get("model_type") != MODEL_TYPE:
        raise ModelError(
            f"{name} is a checkpoint of architecture {config.get('model_type')!r}, only {MODEL_TYPE!r} (Qwen3-VL and "
            "VLM³) can be loaded"
        )
    if "text_config" not in config or "vision_config" not in config:
        raise ModelError(f"config.json in {folder} lacks text_config or vision_config: the download is damaged")
    for choice in (("tokenizer.json",), ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")):
        if not any((folder / file).is_file() for file in choice):
            raise ModelError(
                f"{folder} has no {' or '.join(choice)}: download the whole checkpoint, not only weights"
            )
    return CheckpointInfo(name, folder, config, sum(file.stat().st_size for file in weight_files(folder)))


def _folder(name: str) -> Path:
    if name == BUNDLED:
        return Path(__file__).parents[1] / BUNDLED
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise ModelError(f"the checkpoint folder {name} does not exist (a hub id has the form organisation/name)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelError(f"looking up {name} needs the Python package huggingface_hub") from error
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:  # ValueError: not a valid hub id
        raise ModelError(
            f"the checkpoint {name} is neither a folder nor in the local Hugging Face cache, and nothing is "
            f"downloaded at run time: run `hf download {name}` once, or give a folder"
        ) from error


def _json(file: Path, name: str) -> dict[str, Any]:
    if not file.is_file():
        raise ModelError(f"{name} is not a checkpoint: {file} does not exist")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{file} does not hold a JSON object")
    return content


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, all of which exist."""
    single, index = folder / "model.safetensors", folder / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        raise ModelError(f"{folder} has no weights: neither {single.name} nor {index.name} is there")
    shards = [folder / shard for shard in sorted(set(_json(index, str(folder)).get("weight_map", {}).values()))]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise ModelError(
            f"{folder} lacks weight files ({', '.join(missing) or 'none are listed'}): download it again"
        )
    return shards


def text_linear_parameters(text: dict[str, Any]) -> int:
    """Weights of the language model's linear layers: what NF4 applies to."""
    hidden, head = text["hidden_size"], text["head_dim"]
    attention = 2 * hidden * head * (text["num_attention_heads"] + text["num_key_value_heads"])
    return text["num_hidden_layers"] * (attention + 3 * hidden * text["intermediate_size"])

"""Weight files without their weights: names, types and shapes from the headers of safetensors files.

Comparing them with config.json before anything is built costs milliseconds, and no config can make a model that is
larger than its files.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm3_ros.vlm.files import read_json, refuse_lfs_pointer
from vlm3_ros.vlm.folder import incomplete, other_format
from vlm3_ros.vlm.interface import ModelError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"  # of weights in several files
MOST_HEADER = 100_000_000  # bytes, the limit of the format
FLOATS = ("F64", "F32", "F16", "BF16")
HEAD = "lm_head.weight"
UNMERGED = re.compile(r"\.(lora_|base_layer\.)")


@dataclass(frozen=True)
class Stored:
    """One tensor of a file."""

    dtype: str  # as safetensors names it
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, all of which exist. Raises ModelError."""
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        raise ModelError(_without_weights(folder))
    shards = [folder / shard for shard in sorted(set(_weight_map(index).values()))]
    if missing := [shard.name for shard in shards if not shard.is_file()]:
        count = f"{len(missing)} of {len(shards)} weight files ({', '.join(missing[:5])})"
        raise ModelError(incomplete(folder) or f"{folder} lacks {count}: download it again")
    return shards


def _weight_map(index: Path) -> dict[str, str]:
    """Which file each tensor is in."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
        raise ModelError(f"{index} has no weight_map that names a file for each weight: download it again")
    if outside := [file for file in found.values() if Path(file).name != file]:
        raise ModelError(f"{index} names {outside[0]!r}, which is no file of this folder: download it again")
    return found


def _without_weights(folder: Path) -> str:
    """What is there instead of weights."""
    if partial := incomplete(folder):
        return partial
    if other := other_format(folder):
        return other
    if pickled := sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)):
        return (
            f"{folder} has pickled weights only ({pickled[0]}), which are not loaded because they may run code: save "
            "them as safetensors (save_pretrained does), or download a checkpoint that has them so"
        )
    if loose := sorted(path.name for path in folder.glob("*.safetensors")):
        return f"{folder} has {', '.join(loose[:3])}, but neither {SINGLE} nor {INDEX}: download the whole checkpoint"
    return f"{folder} has no weights: neither {SINGLE} nor {INDEX} is there"


def stored(files: Sequence[Path]) -> dict[str, Stored]:
    """What the headers of all files say. Raises ModelError for files that are damaged or cut."""
    found: dict[str, Stored] = {}
    for file in files:
        found.update(_header(file))
    return found


def _header(file: Path) -> dict[str, Stored]:
    refuse_lfs_pointer(file)
    size = file.stat().st_size
    with file.open("rb") as content:
        start = content.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if not 2 <= length <= min(MOST_HEADER, size - 8):
            raise ModelError(f"{file} is no safetensors file, or damaged: download it again")
        try:
            header = json.loads(content.read(length))
            header.pop("__metadata__", None)
            tensors = {name: Stored(*_tensor(entry)) for name, entry in header.items()}
            end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError) as error:
            raise ModelError(
                f"{file} has a damaged header ({type(error).__name__}: {error}): download it again"
            ) from error
    if 8 + length + end != size:
        raise ModelError(f"{file} has {size} bytes, and by its header {8 + length + end}: download it again")
    return tensors


def _tensor(entry: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    shape = tuple(entry["shape"])
    if not all(type(n) is int and n >= 0 for n in (*shape, *entry["data_offsets"])):
        raise ValueError("a shape or place is no number")
    return str(entry["dtype"]), shape


def compare(
    folder: Path, tensors: Mapping[str, Stored], text: Mapping[str, int], vision: Mapping[str, int], deepstack: int
) -> None:
    """Raise ModelError where the weights are not of the shapes that config.json describes."""
    if unmerged := next(filter(UNMERGED.search, tensors), None):
        raise ModelError(
            f"{folder} has weights with adapters that are not merged ({unmerged}): save merge_and_unload()"
        )
    for part, pattern, count in (
        ("text_config.num_hidden_layers", r"(?<!visual)\.layers\.(\d{1,9})\.", text["num_hidden_layers"]),
        ("vision_config.depth", r"visual\.blocks\.(\d{1,9})\.", vision["depth"]),
        ("vision_config.deepstack_visual_indexes", r"deepstack_merger_list\.(\d{1,9})\.", deepstack),
    ):
        there = {int(match[1]) for name in tensors if (match := re.search(pattern, name))}
        if len(there) != count:
            raise ModelError(
                f"{folder} lacks weights: {part} is {count} in config.json, and there are {len(there)} in the files; "
                "the download is damaged, or not a Qwen3-VL"
            )
    expected = list(_shapes(text, vision))
    for name, tensor in tensors.items():
        shape = next((shape for ending, shape in expected if name.endswith(ending)), None)
        if shape is not None and tensor.dtype in FLOATS and tensor.shape != shape:
            raise ModelError(
                f"config.json in {folder} does not belong to its weights: {name} is {list(tensor.shape)}, and by "
                f"config.json {list(shape)}"
            )


def _shapes(text: Mapping[str, int], vision: Mapping[str, int]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Endings of names and the shapes that go with them, of everything whose size a config sets."""
    hidden, head, wide = text["hidden_size"], text["head_dim"], text["intermediate_size"]
    queries, keys = head * text["num_attention_heads"], head * text["num_key_value_heads"]
    seen, seen_wide, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    merged = seen * vision["spatial_merge_size"] ** 2
    yield "embed_tokens.weight", (text["vocab_size"], hidden)
    yield HEAD, (text["vocab_size"], hidden)
    yield "self_attn.q_proj.weight", (queries, hidden)
    yield "self_attn.k_proj.weight", (keys, hidden)
    yield "self_attn.v_proj.weight", (keys, hidden)
    yield "self_attn.o_proj.weight", (hidden, queries)
    yield "self_attn.q_norm.weight", (head,)
    yield "self_attn.k_norm.weight", (head,)
    yield "mlp.gate_proj.weight", (wide, hidden)
    yield "mlp.up_proj.weight", (wide, hidden)
    yield "mlp.down_proj.weight", (hidden, wide)
    yield "layernorm.weight", (hidden,)
    yield "language_model.norm.weight", (hidden,)
    yield "patch_embed.proj.weight", (seen, vision["in_channels"], vision["temporal_patch_size"], patch, patch)
    yield "pos_embed.weight", (vision["num_position_embeddings"], seen)
    yield "attn.qkv.weight", (3 * seen, seen)
    yield "attn.proj.weight", (seen, seen)
    yield "mlp.linear_fc1.weight", (seen_wide, seen)
    yield "mlp.linear_fc2.weight", (seen, seen_wide)
    yield ".merger.linear_fc1.weight", (merged, merged)
    yield ".merger.linear_fc2.weight", (vision["out_hidden_size"], merged)

"""Checkpoint folders to models in memory, never over the network."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm3_ros.vlm.checkpoint import CheckpointInfo, inspect
from vlm3_ros.vlm.interface import ModelError, Picture
from vlm3_ros.vlm.preprocess import PatchFormat, patchify
from vlm3_ros.vlm.prompt import Chat
from vlm3_ros.vlm.quantization import nf4_config, self_test

log = logging.getLogger(__name__)

SMALL_BYTES = 1e9
PRECISIONS = ("auto", "nf4", "bf16", "fp16", "fp32")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A loaded Qwen3-VL checkpoint with all that belongs to it."""

    info: CheckpointInfo
    model: Any  # transformers' Qwen3VLForConditionalGeneration
    tokenizer: Any
    chat: Chat
    patches: PatchFormat
    device: torch.device
    image_token: int
    end_tokens: tuple[int, ...]  # an answer ends with one of these

    def pixels(self, pictures: list[Picture]) -> tuple[Tensor, Tensor, list[tuple[int, int]]]:
        """Patches of all pictures in a row, their grids [n, 3] in patches, and their (rows, columns) in tokens."""
        parts, sizes = zip(*(patchify(picture, self.patches, self.device) for picture in pictures), strict=True)
        grids = torch.tensor([(1, rows, columns) for rows, columns in sizes], device=self.device)
        merge = self.patches.merge
        return torch.cat(parts), grids, [(rows // merge, columns // merge) for rows, columns in sizes]

    def text(self, tokens: list[int]) -> str:
        """An answer as text, without the tokens that end it."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def pick_device(name: str) -> torch.device:
    """The device for "auto", "cpu", "cuda" or "cuda:N"; ModelError for one that is not there."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device {name!r} is not known: use auto, cpu, cuda or cuda:N") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ModelError(f"device {name!r} is not supported: use auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise ModelError(
            f"device {name!r} was asked for, but PyTorch {torch.__version__} sees no CUDA device: check nvidia-smi, "
            "install a PyTorch build for CUDA, or set the device to auto or cpu"
        )
    index = device.index or 0
    if index >= torch.cuda.device_count():
        raise ModelError(
            f"device {name!r} was asked for, but there are only {torch.cuda.device_count()} CUDA devices"
        )
    return torch.device("cuda", index)


def resolve_precision(info: CheckpointInfo, device: torch.device, precision: str) -> str:
    """What "auto" means here: the checkpoint's own quantization, else nf4 on CUDA and fp32 on a CPU.

    Checkpoints that are small anyway stay in 16 bit on CUDA: 4 bit would save nothing that matters.
    """
    if precision not in PRECISIONS:
        raise ModelError(f"precision {precision!r} is not known: use one of {', '.join(PRECISIONS)}")
    if info.quantization:
        if precision != "auto":
            log.warning("%s is quantized already (%s): precision %s ignored", info.name, info.quantization, precision)
        return "auto"
    if precision == "auto":
        if device.type != "cuda":
            return "fp32"
        return "fp16" if info.memory_bytes("fp16") < SMALL_BYTES else "nf4"
    return precision


def load(name: str, device: str = "auto", precision: str = "auto") -> Checkpoint:
    """Load a checkpoint by folder or hub id; greedy decoding always, whatever sampling its files suggest.

    ``precision``: auto, nf4, bf16, fp16 or fp32. Raises ModelError where it cannot be loaded.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    info = inspect(name)
    target = pick_device(device)
    chosen = resolve_precision(info, target, precision)
    model = _model(info, target, chosen)
    tokenizer, template = _tokenizer(info.folder)
    image_token = model.config.image_token_id
    return Checkpoint(
        info=info,
        model=model,
        tokenizer=tokenizer,
        chat=Chat(tokenizer, template, image_token, info.wording),
        patches=PatchFormat.of(info.folder, info.config["vision_config"]),
        device=target,
        image_token=image_token,
        end_tokens=_make_greedy(model, tokenizer),
    )


def _model(info: CheckpointInfo, device: torch.device, precision: str) -> Any:
    try:
        from transformers import Qwen3VLForConditionalGeneration
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise ModelError("local checkpoints need transformers >= 5.4: pip install 'transformers>=5.4,<6'") from error
    disable_progress_bar()  # of loading weights: it garbles a log
    options: dict[str, Any] = {"dtype": DTYPES.get(precision, "auto")}
    if precision == "nf4":
        compute = torch.bfloat16 if device.type == "cpu" or _has_bf16(device) else torch.float16
        self_test(device, compute)
        options |= {"dtype": compute, "quantization_config": nf4_config(compute)}
    try:
        loaded: Any = Qwen3VLForConditionalGeneration.from_pretrained(
            info.folder,
            attn_implementation="sdpa",
            device_map={"": device} if device.type == "cuda" else None,  # None: no need of accelerate on a CPU
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{info.name} does not fit into the memory of {device}: use precision nf4") from error
    except Exception as error:  # damaged files fail in many ways, none of which may stop the node
        raise ModelError(f"{info.name} cannot be loaded from {info.folder}: {error}") from error
    model, report = loaded
    if report["missing_keys"]:
        some = ", ".join(sorted(report["missing_keys"])[:3])
        raise ModelError(f"{info.folder} lacks weights ({some}, …): the download is damaged or not a Qwen3-VL")
    _embed_patches_by_product(model.model.visual.patch_embed)
    return model.eval().requires_grad_(False)


def _embed_patches_by_product(embed: Any) -> None:
    """Patches do not overlap, so their convolution is a matrix product, which CPUs compute much faster."""

    def forward(patches: Tensor) -> Tensor:
        weight = embed.proj.weight.flatten(1)
        return F.linear(patches.to(weight.dtype), weight, embed.proj.bias)

    embed.forward = forward


def _has_bf16(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _tokenizer(folder: Path) -> tuple[Any, str]:
    """The tokenizer and the chat template, which may stand in a file of its own (of an old or a new kind)."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ModelError(f"the tokenizer in {folder} cannot be loaded: {error}") from error
    if (folder / "chat_template.jinja").is_file():
        return tokenizer, (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if (folder / "chat_template.json").is_file():
        return tokenizer, json.loads((folder / "chat_template.json").read_text(encoding="utf-8"))["chat_template"]
    if not tokenizer.chat_template:
        raise ModelError(f"{folder} has no chat template (chat_template.jinja or in tokenizer_config.json)")
    return tokenizer, tokenizer.chat_template


def _make_greedy(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Clear the sampling defaults that Qwen ships; returns the tokens that end an answer."""
    from transformers import GenerationConfig

    given = model.generation_config.eos_token_id
    ends = given if isinstance(given, list) else [tokenizer.eos_token_id if given is None else given]
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id or ends[0]
    )
    return tuple(ends)

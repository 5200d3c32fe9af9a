"""Checkpoint folders to models in memory, never over the network."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm3_ros.vlm.checkpoint import CheckpointInfo, chat_template, inspect
from vlm3_ros.vlm.interface import ModelError, Picture
from vlm3_ros.vlm.preprocess import PatchFormat, patchify
from vlm3_ros.vlm.prompt import Chat
from vlm3_ros.vlm.quantization import keep_unpacked, nf4_config, refuse_unfit, self_test, unfit_layers

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
    info = inspect(name)
    target = pick_device(device)
    chosen = resolve_precision(info, target, precision)
    config = _config(info)
    tokenizer = _tokenizer(info.folder)
    chat = Chat(tokenizer, chat_template(info.folder), config.image_token_id, info.wording)
    patches = PatchFormat.of(info)
    model = _model(info, config, target, chosen)  # the weights last: they take longest
    return Checkpoint(
        info=info,
        model=model,
        tokenizer=tokenizer,
        chat=chat,
        patches=patches,
        device=target,
        image_token=config.image_token_id,
        end_tokens=_make_greedy(model, tokenizer),
    )


def _config(info: CheckpointInfo) -> Any:
    """transformers' configuration of a checkpoint; whether the head is tied may be said in one of two places."""
    try:
        from transformers import Qwen3VLConfig
    except ImportError as error:
        raise ModelError("local checkpoints need transformers >= 5.4: pip install 'transformers>=5.4,<6'") from error
    try:
        config = Qwen3VLConfig.from_pretrained(info.folder, local_files_only=True)
        config.tie_word_embeddings = info.is_tied
    except Exception as error:  # its checks of types and values raise errors of several kinds
        raise ModelError(f"config.json in {info.folder} cannot be used: {error}") from error
    return config


def _model(info: CheckpointInfo, config: Any, device: torch.device, precision: str) -> Any:
    from transformers import Qwen3VLForConditionalGeneration
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading weights: it garbles a log
    options: dict[str, Any] = {"dtype": DTYPES.get(precision, "auto")}
    if precision == "nf4":
        compute = torch.bfloat16 if device.type == "cpu" or _has_bf16(device) else torch.float16
        self_test(device, compute)
        if kept := unfit_layers(info.text, device, compute):
            log.warning(
                "%s on %s: %s stay in 16 bit: no 4-bit kernel here fits them", info.name, device, ", ".join(kept)
            )
        options |= {"dtype": compute, "quantization_config": nf4_config(compute, kept)}
    try:
        loaded: Any = Qwen3VLForConditionalGeneration.from_pretrained(
            info.folder,
            config=config,
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
    if device.type == "cpu":
        keep_unpacked(model)
    refuse_unfit(model, device)
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


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except BaseException as error:  # a panic in the tokenizers library is no Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ModelError(f"the tokenizer in {folder} cannot be loaded: {error}") from error


def _make_greedy(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Clear the sampling defaults that Qwen ships; returns the tokens that end an answer."""
    from transformers import GenerationConfig

    given = model.generation_config.eos_token_id
    ends = given if isinstance(given, list) else [tokenizer.eos_token_id if given is None else given]
    if not ends or not all(type(token) is int for token in ends):
        raise ModelError(f"generation_config.json and the tokenizer name no token that ends an answer: {ends}")
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id or ends[0]
    )
    return tuple(ends)

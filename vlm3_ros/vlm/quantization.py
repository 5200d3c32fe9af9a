"""4-bit weights through bitsandbytes: what is quantized, and whether its kernels run on this device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vlm3_ros.vlm.interface import ModelError

COARSE = 0.15  # rounding to NF4 changes a normal weight by 9 %
# Kept in 16 bit: the vision tower with its mergers, and the head, whose weights are the embedding's too. The list
# replaces transformers' own, and its names match from the start of a full name: "visual" would match nothing.
SKIPPED = ["model.visual", "lm_head"]


def nf4_config(compute: torch.dtype, kept: Sequence[str] = ()) -> Any:
    """NF4 with double quantization (QLoRA, arXiv 2305.14314) for everything but SKIPPED and the layers ``kept``."""
    _bitsandbytes()
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=[*SKIPPED, *kept],
    )


def unfit_layers(text: Mapping[str, int], device: torch.device, compute: torch.dtype) -> list[str]:
    """Names of the language model's linear layers whose widths the 4-bit kernels of ``device`` compute wrongly.

    bitsandbytes' CPU kernels do so, without a word, where the inputs are no multiple of its block of 64 weights.
    """
    hidden, wide = text["hidden_size"], text["intermediate_size"]
    queries, keys = (text["head_dim"] * text[f"num_{kind}_heads"] for kind in ("attention", "key_value"))
    shapes = {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, wide),
        "up_proj": (hidden, wide),
        "down_proj": (wide, hidden),
    }
    return [name for name, shape in shapes.items() if _fault(device, compute, *shape)]


def refuse_unfit(model: Any, device: torch.device) -> None:
    """Raise ModelError where a model that was saved in 4 bit has layers whose widths this device computes wrongly."""
    for name, layer in model.named_modules():
        if type(layer).__name__ != "Linear4bit":
            continue
        if fault := _fault(device, layer.compute_dtype or torch.float32, layer.in_features, layer.out_features):
            raise ModelError(
                f"bitsandbytes computes the 4-bit layer {name} of {layer.in_features} inputs wrongly on "
                f"{_name(device)} ({fault}): load the checkpoint that was not quantized, with precision bf16"
            )


def self_test(device: torch.device, compute: torch.dtype) -> None:
    """Run one real NF4 layer on ``device`` against its dequantized weight; ModelError where the kernels do not work.

    bitsandbytes imports without complaint on devices that its binary holds no code for (Jetson Orin with the PyPI
    wheel) and fails, or answers nonsense, in the first kernel.
    """
    if fault := _fault(device, compute, 256, 128):
        raise ModelError(_advice(device, fault))


def _fault(device: torch.device, compute: torch.dtype, inputs: int, outputs: int) -> str:
    """What is wrong with a 4-bit layer of these widths on a device; empty if nothing is."""
    bnb = _bitsandbytes()
    outputs = outputs if outputs <= 256 else 256 + outputs % 32  # many are no other case
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator).to(compute)
    x = torch.randn(8, inputs, generator=generator).to(device, compute)
    try:
        layer = bnb.nn.Linear4bit(inputs, outputs, bias=False, compute_dtype=compute, quant_type="nf4")
        layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4")
        layer = layer.to(device).eval()
        keep_unpacked(layer)
        with torch.inference_mode():
            dequantized = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
            expected = x.float() @ dequantized.T
            error = max(float((layer(rows).float() - expected[: len(rows)]).norm()) for rows in (x, x[:1]))
            coarse = float((dequantized.cpu() - weight.float()).norm() / weight.float().norm())
    except Exception as problem:  # whatever a kernel raises: RuntimeError, or bitsandbytes' own
        return str(problem) or type(problem).__name__
    if not error < 0.02 * float(expected.norm()):
        return f"a 4-bit layer is {error / float(expected.norm()):.0%} off its own weight"
    return "" if coarse < COARSE else f"a 4-bit weight is {coarse:.0%} off what it was made of"


def keep_unpacked(model: Any, is_learning: bool = False) -> None:
    """Keep 4-bit layers on a CPU as they are where bitsandbytes cannot pack their weights for AVX-512.

    It packs them at the first use: blocks of 64 along the inputs, 32 outputs at a time, and of other widths it fails.
    Packed weights have no gradient either, so that a model that learns must not get them when it is measured.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            fits = layer.in_features % 64 == 0 and layer.out_features % 32 == 0
            layer.support_avx512bf16_for_cpu &= fits and not is_learning


def _bitsandbytes() -> Any:
    try:
        import bitsandbytes
    except ImportError as error:
        raise ModelError(
            "4-bit weights (precision nf4) need the Python package bitsandbytes: pip install bitsandbytes "
            "accelerate, or set the precision to bf16"
        ) from error
    return bitsandbytes


def _advice(device: torch.device, problem: str) -> str:
    text = f"bitsandbytes' 4-bit kernels do not work on {_name(device)}: {problem}. "
    if "named symbol not found" in problem or "no kernel image" in problem:
        text += (
            "Its binary has no code for this GPU: on a Jetson build it from source (cmake -DCOMPUTE_BACKEND=cuda "
            "-DCOMPUTE_CAPABILITY=87 for Orin) or take it from the Jetson AI Lab package index. "
        )
    return text + "Or set the precision to bf16."


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)

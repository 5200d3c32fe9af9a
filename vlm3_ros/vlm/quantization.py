"""4-bit weights through bitsandbytes: what is quantized, and whether its kernels run on this device."""

from __future__ import annotations

from typing import Any

import torch

from vlm3_ros.vlm.interface import ModelError

# Kept in 16 bit: the vision tower with its mergers, and the head, whose weights are the embedding's too. The list
# replaces transformers' own, and its names match from the start of a full name: "visual" would match nothing.
SKIPPED = ["model.visual", "lm_head"]


def nf4_config(compute: torch.dtype) -> Any:
    """NF4 with double quantization (QLoRA, arXiv 2305.14314) for everything but SKIPPED."""
    _bitsandbytes()
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=SKIPPED,
    )


def self_test(device: torch.device, compute: torch.dtype) -> None:
    """Run one real NF4 layer on ``device`` against its dequantized weight; ModelError where the kernels do not work.

    bitsandbytes imports without complaint on devices that its binary holds no code for (Jetson Orin with the PyPI
    wheel) and fails, or answers nonsense, in the first kernel.
    """
    bnb = _bitsandbytes()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(128, 256, generator=generator).to(compute)
    x = torch.randn(8, 256, generator=generator).to(device, compute)
    try:
        layer = bnb.nn.Linear4bit(256, 128, bias=False, compute_dtype=compute, quant_type="nf4")
        layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4")
        layer = layer.to(device)
        with torch.inference_mode():
            got = layer(x).float()
            dequantized = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
            expected = x.float() @ dequantized.float().T
            error = float((got - expected).abs().max() / expected.abs().max())
            coarse = float((dequantized.float().cpu() - weight.float()).abs().max())
    except Exception as problem:  # whatever a kernel raises: RuntimeError, or bitsandbytes' own
        raise ModelError(_advice(device, str(problem))) from problem
    if not (error < 0.02 and coarse < 1.0):
        raise ModelError(_advice(device, f"a 4-bit layer is {error:.0%} off its own weight"))


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

"""LoRA adapters (arXiv 2106.09685) on the language model, on 4-bit weights if wanted (QLoRA, arXiv 2305.14314)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlm3_ros.learn import origin
from vlm3_ros.learn.model import copy_processor
from vlm3_ros.learn.recipe import Recipe
from vlm3_ros.vlm import ModelError
from vlm3_ros.vlm.checkpoint import inspect
from vlm3_ros.vlm.loading import load

ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WEIGHTS = "adapter_model.safetensors"


def with_adapters(model: Any, rank: int) -> Any:
    """Peft's view of a model into whose language layers adapters have been put; all else is frozen."""
    from peft import LoraConfig, get_peft_model

    layers = rf"model\.language_model\..*\.({'|'.join(ADAPTED)})"
    return get_peft_model(model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers))


def merged(recipe: Recipe, folder: Path, out: Path) -> None:
    """Write the checkpoint that a run in ``folder`` started from with its adapters added to the weights, in 16 bit.

    Raises ModelError where there are no adapters, or the checkpoint has other weights now.
    """
    trained = folder / "checkpoint"
    if recipe.method == "full":
        raise ModelError(f"there are no adapters to merge: a run with method full leaves whole weights in {trained}")
    if not (trained / WEIGHTS).is_file():
        raise ModelError(f"the run in {folder} has not come to its end: the same `vlm3 train` goes on with it")
    begun = origin.recorded(folder)
    if begun and begun["weights"] != inspect(recipe.model).fingerprint:
        raise ModelError(f"{recipe.model} has other weights now than those that {folder} has trained adapters for")
    from peft import PeftModel

    base = load(recipe.model, "cpu", "bf16")
    model: Any = PeftModel.from_pretrained(base.model, str(trained))
    model.merge_and_unload().save_pretrained(out)
    copy_processor(base.info.folder, out)

"""The model that is taught: a checkpoint, with adapters or help where the recipe wants them, and its loss."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlm3_ros.config import ConfigError
from vlm3_ros.learn.adapters import WEIGHTS, with_adapters
from vlm3_ros.learn.auxiliary import Auxiliary, total
from vlm3_ros.learn.curriculum import Look
from vlm3_ros.learn.heads import VERDICT_LAYER
from vlm3_ros.learn.lesson import lesson
from vlm3_ros.learn.looks import SharedPrefix, answer_loss
from vlm3_ros.learn.model import copy_processor
from vlm3_ros.learn.recipe import Recipe
from vlm3_ros.vlm.loading import Checkpoint, load
from vlm3_ros.vlm.quantization import keep_unpacked

log = logging.getLogger(__name__)

PRECISIONS = {"qlora": "nf4", "lora": "bf16", "full": "fp32"}  # of the weights, by method
HELP = "auxiliary.pt"  # beside the weights of a checkpoint to resume from
BRIEF = {"depth": (10, 0), "objects": (2, 9)}  # of answers: up to the first number; the verdict, and a length


class Student(nn.Module):
    """Takes looks, gives a loss. ``checkpoint`` is what it answers with at any time."""

    def __init__(self, folder: str, recipe: Recipe, device: torch.device):
        super().__init__()
        self._recipe = recipe
        self.checkpoint = load(folder, str(device), PRECISIONS[recipe.method])
        torch.manual_seed(recipe.seed)  # adapters and help start at random
        keep_unpacked(self.checkpoint.model, is_learning=True)
        self.model = self._trainable(self.checkpoint)
        self.run = SharedPrefix(self.checkpoint, recipe.recompute)
        helped = recipe.auxiliary or recipe.asked < 1.0
        if helped and len(self.run.language.layers) <= VERDICT_LAYER:
            raise ConfigError(f"auxiliary losses need a model with more than {VERDICT_LAYER} text layers")
        self.help = Auxiliary(self.run.language.hidden).to(self.checkpoint.device) if helped else None
        self._parts: list[dict[str, Tensor]] = []  # of the losses of each look since they were last told

    def _trainable(self, checkpoint: Checkpoint) -> Any:
        model = checkpoint.model
        if self._recipe.method == "full":
            model.requires_grad_(True)
            if checkpoint.device.type == "cpu":  # a training step takes a seventh less than with the flash kernel
                model.set_attn_implementation({"vision_config": "eager"})
            return model
        return with_adapters(model, self._recipe.rank)

    def forward(self, looks: list[Look]) -> dict[str, Tensor]:
        """The mean loss of some looks."""
        device = self.checkpoint.device.type
        cast = self._recipe.precision == "bf16"
        with torch.autocast(device, torch.bfloat16) if cast else nullcontext():
            parts = [self._answered(look) for look in looks if look.sample.exchanges]
            parts += self._seen([look for look in looks if not look.sample.exchanges])
        self._parts += [{name: loss.detach() for name, loss in part.items()} for part in parts]
        return {"loss": torch.stack([part["loss"] for part in parts]).mean()}

    def told(self) -> dict[str, float]:
        """The means of the parts of the loss since this was last called."""
        names = sorted({name for part in self._parts for name in part} - {"loss"})
        means = {name: _mean(self._parts, name) for name in names}
        self._parts.clear()
        return means

    def _seen(self, looks: list[Look]) -> list[dict[str, Tensor]]:
        """The losses of looks where nothing is asked: all pictures go through the vision tower at once."""
        if not looks:
            return []
        assert self.help is not None
        parts = []
        pictures = [look.sample.pictures for look in looks]
        visual = self.run.see([picture for several in pictures for picture in several])
        for look, seen in zip(looks, visual.split([len(several) for several in pictures]), strict=True):
            prefix = self.run.read(seen)
            with self._exact():
                losses = self.help.pictures(look.facts, prefix)
            parts.append({**losses, "loss": total(losses)})
        return parts

    def _answered(self, look: Look) -> dict[str, Tensor]:
        """The losses of one look and the questions about it."""
        taught = lesson(look.sample, self.checkpoint, BRIEF if look.is_brief else None)
        result, digits = self.run(taught), self._recipe.digits
        losses = {
            f"answers to {answered.rows.task}": answer_loss(self.run.language, answered, digits.first, digits.later)
            for answered in result.answered
        }
        loss = torch.stack(list(losses.values())).mean()
        if self._recipe.auxiliary:
            assert self.help is not None
            with self._exact():
                helped = self.help.pictures(look.facts, result.prefix) | self.help.questions(result)
            losses, loss = losses | helped, loss + total(helped)
        return {**losses, "loss": loss}

    def _exact(self) -> Any:
        """Heads are of 32 bit: in 16, places in a picture are multiples of 0.4 % of it."""
        return torch.autocast(self.checkpoint.device.type, enabled=False)

    # ------------------------------------------------------------------------------------------------- on disk

    def save(self, folder: Path) -> None:
        """Weights (of adapters only, where there are such) and all that belongs to them."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        copy_processor(self.checkpoint.info.folder, folder)
        if self.help is not None:
            torch.save(self.help.state_dict(), folder / HELP)

    def finish(self, folder: Path) -> None:
        """Save for use instead of for going on: whole weights in 16 bit."""
        if self._recipe.method == "full":
            self.model.half()
            for part in (self.model.config.text_config, self.model.config.vision_config):
                part.dtype = torch.float16  # that of the whole follows the weights, those of its parts do not
        self.save(folder)

    def restore(self, folder: Path) -> None:
        """What `save` has written."""
        from safetensors.torch import load_file

        if self._recipe.method == "full":
            self.model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
            self.model.tie_weights()
        else:
            from peft import set_peft_model_state_dict

            set_peft_model_state_dict(self.model, load_file(folder / WEIGHTS))
        if self.help is not None:
            self.help.load_state_dict(self._heads(folder))

    def take_help(self) -> None:
        """Go on with the auxiliary heads that an earlier run has left beside the checkpoint, those it had."""
        if self.help is None:
            return
        folder = self.checkpoint.info.folder
        if not (folder / HELP).is_file():
            log.info("auxiliary heads start anew: %s has no %s", folder, HELP)
        elif new := self.help.load_state_dict(self._heads(folder), strict=False).missing_keys:
            log.warning("auxiliary heads that %s does not have start anew: %s", folder, ", ".join(new))

    def _heads(self, folder: Path) -> dict[str, Tensor]:
        return torch.load(folder / HELP, map_location="cpu", weights_only=True)  # "cpu:0" it cannot


def _mean(parts: list[dict[str, Tensor]], name: str) -> float:
    values = [float(part[name]) for part in parts if name in part]
    return sum(values) / len(values)

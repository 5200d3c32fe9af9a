"""The model that is taught: a checkpoint, with adapters or help where the recipe wants them, and its loss."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vlm3_ros.learn.adapters import WEIGHTS, with_adapters
from vlm3_ros.learn.auxiliary import Auxiliary, total
from vlm3_ros.learn.curriculum import Look
from vlm3_ros.learn.looks import Lesson, SharedPrefix, answer_loss, lesson
from vlm3_ros.learn.model import copy_processor
from vlm3_ros.learn.recipe import Recipe
from vlm3_ros.vlm.loading import Checkpoint, load

HELP = "auxiliary.pt"  # beside the weights of a checkpoint to resume from
BRIEF = {"depth": 10, "objects": 2}  # tokens of answers: up to the first number, and the verdict


class Student(nn.Module):
    """Takes looks, gives a loss. ``checkpoint`` is what it answers with at any time."""

    def __init__(self, folder: str, recipe: Recipe):
        super().__init__()
        self._recipe = recipe
        self.checkpoint = load(folder, "auto", "nf4" if recipe.method == "qlora" else "fp32")
        torch.manual_seed(recipe.seed)  # adapters and help start at random
        self.model = self._trainable(self.checkpoint)
        self.run = SharedPrefix(self.checkpoint, recipe.recompute)
        helped = recipe.auxiliary or recipe.stage == "see"
        self.help = Auxiliary(self.run.language.hidden).to(self.checkpoint.device) if helped else None
        self.last: dict[str, float] = {}  # the parts of the latest loss

    def _trainable(self, checkpoint: Checkpoint) -> Any:
        model = checkpoint.model
        if self._recipe.method == "full":
            model.requires_grad_(True)
            if self._recipe.stage == "see":
                model.model.language_model.requires_grad_(False)
            return model
        return with_adapters(model, self._recipe.rank)

    def forward(self, looks: list[Look]) -> dict[str, Tensor]:
        """The mean loss of some looks."""
        lessons = (lesson(look.sample, self.checkpoint, BRIEF if look.is_brief else None) for look in looks)
        parts = [self._loss(each) for each in lessons]
        self.last = {name: _mean(parts, name) for name in {name for part in parts for name in part}}
        return {"loss": torch.stack([part["loss"] for part in parts]).mean()}

    def _loss(self, lesson: Lesson) -> dict[str, Tensor]:
        device = self.checkpoint.device.type
        cast = self._recipe.precision == "bf16"
        with torch.autocast(device, torch.bfloat16) if cast else nullcontext():
            if self._recipe.stage == "see":
                result, visual, losses = None, self.run.look(lesson).pooler_output, {}
            else:
                result = self.run(lesson)
                visual = result.visual
                losses = {
                    f"answers to {rows.task}": answer_loss(self.run.language, rows, states, self._recipe.late_digits)
                    for rows, states, _ in result.rows
                }
        loss = torch.stack(list(losses.values())).mean() if losses else torch.zeros((), device=device)
        if self.help is not None:
            seen = self.help.seeing(lesson, visual)
            losses |= seen
            loss = loss + total(seen)
            if result is not None:
                known = self.help.knowing(lesson, result)
                losses |= known
                loss = loss + total(known)
        return {**losses, "loss": loss}

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
        self.take_help(folder)

    def take_help(self, folder: Path) -> None:
        """Go on with the auxiliary heads that an earlier run has left in a folder, if it has."""
        if self.help is not None and (folder / HELP).is_file():
            self.help.load_state_dict(
                torch.load(folder / HELP, map_location=self.checkpoint.device, weights_only=True)
            )


def _mean(parts: list[dict[str, Tensor]], name: str) -> float:
    values = [float(part[name].detach()) for part in parts if name in part]
    return sum(values) / len(values)

"""`vlm3 train`: a recipe to a checkpoint, on Hugging Face's Trainer; a killed run goes on from what it has saved."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments

from vlm3_ros.config import ConfigError
from vlm3_ros.learn import curves, origin
from vlm3_ros.learn.curriculum import Curriculum, Look, held_out
from vlm3_ros.learn.data.mixture import Mixture
from vlm3_ros.learn.model import Size, new_checkpoint
from vlm3_ros.learn.optimizer import BETAS, MuonAndAdamW
from vlm3_ros.learn.recipe import FILE, Recipe, to_yaml
from vlm3_ros.learn.scores import scores
from vlm3_ros.learn.seen import seen
from vlm3_ros.learn.student import Student
from vlm3_ros.vlm.checkpoint import inspect
from vlm3_ros.vlm.engine import Engine

log = logging.getLogger(__name__)

COMPLETE = "trainer_state.json"  # the last file of a saved step: without it, the save was cut off
STEPS = "steps"  # folder of what is saved to resume from
KEPT = 2  # of these at a time
LOGGED = 200  # points of a curve


class LookTrainer(Trainer):
    """Feeds looks instead of token sequences, measures by asking, and writes checkpoints that the node can load."""

    def __init__(
        self,
        student: Student,
        recipe: Recipe,
        folder: Path,
        arguments: TrainingArguments,
        looks: Curriculum,
        measured: Sequence[Look],
    ):
        self._recipe, self._folder, self._measured = recipe, folder, measured
        self._found: tuple[int, dict[str, float]] | None = None  # step, and what was measured after it
        super().__init__(
            model=student,
            args=arguments,
            train_dataset=looks,
            eval_dataset=[],
            data_collator=lambda looks: {"looks": looks},
        )

    def _get_train_sampler(self, *_: Any) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)  # type: ignore[arg-type]

    def create_optimizer(self, *_: Any) -> Any:
        if self._recipe.optimizer == "muon" and self.optimizer is None:
            rate, decay = self._recipe.learning_rate, self._recipe.weight_decay
            student: Student = self.model  # type: ignore[assignment]
            self.optimizer = MuonAndAdamW(student.named_parameters(), rate, decay)
        return super().create_optimizer()

    def log(self, logs: dict[str, float], *arguments: Any, **others: Any) -> None:
        student: Student = self.model  # type: ignore[assignment]
        super().log({**logs, **(student.told() if "loss" in logs else {})}, *arguments, **others)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        if self._found is None or self._found[0] != self.state.global_step:  # Trainer asks twice after the last step
            self._found = self.state.global_step, self._measure()
        return self._found[1]

    def _measure(self) -> dict[str, float]:
        student: Student = self.model  # type: ignore[assignment]
        student.eval()
        measured: dict[str, float] = {}
        if student.help is not None:
            measured |= seen(student.run, student.help.pictures, self._measured)
        if self._recipe.asked > 0.0:
            measured |= scores(Engine(student.checkpoint), [look.sample for look in self._measured])
        student.train()
        metrics = {f"eval_{name.replace(' ', '_')}": value for name, value in measured.items()}
        self.log(metrics)
        if self.is_world_process_zero():
            curves.draw(self.state.log_history, self._folder / "curves.png")
        return metrics

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        student: Student = self.model  # type: ignore[assignment]
        student.save(Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        student: Student = self.model  # type: ignore[assignment]
        student.restore(Path(resume_from_checkpoint))


def train(recipe: Recipe, folder: Path) -> Path:
    """Run a recipe, or what is left of it; returns the folder of the resulting checkpoint.

    Several processes may do that together (torchrun); the first one writes. Raises ConfigError, DataError or
    ModelError for what cannot be trained on or with.
    """
    if not recipe.data:
        raise ConfigError("the recipe names no data: --set data=MIXTURE.yaml (see `vlm3 data`)")
    mixture = Mixture(Path(recipe.data))
    _refuse_other_sizes(recipe, mixture)
    looks, measured = Curriculum(recipe, mixture), held_out(recipe, mixture)
    folder.mkdir(parents=True, exist_ok=True)
    arguments = _arguments(recipe, folder / STEPS, bool(measured))
    with arguments.main_process_first():
        start, last = _start(recipe, folder), last_whole_step(folder / STEPS)
        origin.record(folder, start, mixture)
    student = Student(start, recipe, arguments.device)
    student.take_help()
    trainer = LookTrainer(student, recipe, folder, arguments, looks, measured)
    if trainer.is_world_process_zero():
        (folder / FILE).write_text(to_yaml(recipe))
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    if trainer.is_world_process_zero():
        history = trainer.state.log_history
        (folder / "history.json").write_text(json.dumps(history, indent=1))
        curves.draw(history, folder / "curves.png")
        student.finish(folder / "checkpoint")
    return folder / "checkpoint"


def last_whole_step(folder: Path) -> Path | None:
    """The newest step that was saved to its end; those cut off are removed."""
    saved = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in list(saved):
        if not (path / COMPLETE).is_file():
            log.warning("%s was cut off while it was saved: removed", path)
            shutil.rmtree(path)
            saved.remove(path)
    return saved[-1] if saved else None


def _start(recipe: Recipe, folder: Path) -> str:
    """The checkpoint to start from; a new one is made in the folder."""
    if recipe.model != "new":
        return recipe.model
    start, unfinished = folder / "start", folder / "start.part"
    if not start.is_dir():
        if not Path(recipe.new.tokenizer).is_file():
            raise ConfigError(
                f"new.tokenizer must name the tokenizer.json of the new model, not {recipe.new.tokenizer!r}"
            )
        shutil.rmtree(unfinished, ignore_errors=True)
        new_checkpoint(unfinished, Path(recipe.new.tokenizer), Size(), recipe.new.image_scale, recipe.seed)
        unfinished.rename(start)
    return str(start)


def _refuse_other_sizes(recipe: Recipe, mixture: Mixture) -> None:
    """Raise ConfigError where the data shows pictures at another size than the one at which the model is to see."""
    is_new, shown = recipe.model == "new", mixture.image_scale
    scale = recipe.new.image_scale if is_new else inspect(recipe.model).image_scale
    if scale != shown:
        raise ConfigError(
            f"model {recipe.model} sees pictures at {scale:g} of the protocol's sizes, {mixture.path} shows them at "
            f"{shown:g}: build its data with `vlm3 data build --image-scale {scale:g}`"
            + (f", or set new.image_scale={shown:g}" if is_new else "")
        )


def _arguments(recipe: Recipe, folder: Path, is_measured: bool) -> TrainingArguments:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if recipe.optimizer == "muon" and recipe.method != "full":
        raise ConfigError(f"optimizer muon is for method full: set optimizer=adamw for {recipe.method}")
    if recipe.looks % processes:
        raise ConfigError(f"{recipe.looks} looks per step cannot be shared out evenly to {processes} processes")
    looks = recipe.looks // processes
    at_once = looks if recipe.asked < 1.0 else 1  # models that learn to see are small; questions fill the memory
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=recipe.steps,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=looks // at_once,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(recipe.warmup * recipe.steps),
        weight_decay=recipe.weight_decay,
        adam_beta2=BETAS[1],
        max_grad_norm=recipe.max_grad_norm,
        save_steps=recipe.save_every,
        save_total_limit=KEPT,
        eval_strategy="steps" if is_measured else "no",
        eval_steps=recipe.measure_every,
        logging_steps=max(1, recipe.steps // LOGGED),
        dataloader_num_workers=1,
        remove_unused_columns=False,
        ddp_find_unused_parameters=True,  # a look does not ask about everything
        use_cpu=not torch.cuda.is_available(),
        report_to=[],
        seed=recipe.seed,
    )
    if arguments.n_gpu > 1:  # of one process: Trainer would copy the model to all, which takes no looks
        arguments._n_gpu = 1
    return arguments

"""The mean of checkpoints that were trained on from the same weights (model soups, arXiv 2203.05482)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from vlm3_ros.learn.model import copy_processor
from vlm3_ros.vlm import ModelError
from vlm3_ros.vlm.checkpoint import INDEX, inspect, weight_files


def average(names: Sequence[str], out: Path) -> None:
    """Write a checkpoint whose weights are the means of those of others, all whole and of one shape.

    All count alike, and one that is named twice counts twice. Of runs that learned different things from the same
    start it often knows more than each. Raises ModelError for checkpoints that cannot be found, are not alike, or
    were saved quantized.
    """
    infos = [inspect(name) for name in names]
    if quantized := [info.name for info in infos if info.quantization]:
        raise ModelError(f"{', '.join(quantized)}: weights that were saved quantized have no mean; merge in 16 bit")
    if len(scales := {info.image_scale for info in infos}) > 1:
        raise ModelError(f"the checkpoints are not alike: they see pictures at {sorted(scales)} of the usual sizes")
    folders = [info.folder for info in infos]
    out.mkdir(parents=True, exist_ok=True)
    for first in weight_files(folders[0]):
        save_file(_means([folder / first.name for folder in folders]), out / first.name, {"format": "pt"})
    copy_processor(folders[0], out)
    for name in ("config.json", INDEX):
        if (folders[0] / name).is_file():
            shutil.copy(folders[0] / name, out / name)


def _means(files: Sequence[Path]) -> dict[str, Tensor]:
    with ExitStack() as stack:
        try:
            opened = [stack.enter_context(safe_open(file, "pt")) for file in files]
        except OSError as error:
            raise ModelError(f"the checkpoints are not alike, one has no {files[0].name}: {error}") from error
        known = [set(file.keys()) for file in opened]
        if some := set.union(*known) - set.intersection(*known):
            raise ModelError(f"the checkpoints are not alike: not all of {_listed(files)} have {min(some)}")
        means = {}
        for key in sorted(known[0]):
            weights = [file.get_tensor(key) for file in opened]
            if len({w.shape for w in weights}) > 1:
                raise ModelError(f"the checkpoints are not alike: {key} differs in shape in {_listed(files)}")
            means[key] = torch.stack([w.float() for w in weights]).mean(dim=0).to(weights[0].dtype)
        return means


def _listed(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files))

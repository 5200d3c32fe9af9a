"""`vlm3 average`: checkpoints to one with the means of their weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import checkpoints
import pytest
import torch
from safetensors.torch import load_file, save_file

from vlm3_ros import cli
from vlm3_ros.learn.average import average
from vlm3_ros.vlm import ModelError
from vlm3_ros.vlm.loading import load


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    return [str(checkpoints.make(tmp_path / name, seed=seed)) for seed, name in enumerate("ab")]


def test_the_mean_of_checkpoints_is_a_checkpoint(two, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["vlm3", "average", *two, two[1], "--out", str(tmp_path / "out")])
    assert cli.main() == 0
    a, b, mean = map(weights, [*map(Path, two), tmp_path / "out"])
    for name, values in mean.items():
        torch.testing.assert_close(values, (a[name] + 2.0 * b[name]) / 3.0)
    assert load(str(tmp_path / "out"), "cpu").info.image_scale == load(two[0], "cpu").info.image_scale


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_means_have_the_precision_of_the_weights_and_are_not_rounded_twice(tmp_path, dtype):
    folders = [checkpoints.make(tmp_path / name, seed=seed, dtype=dtype) for seed, name in enumerate("abc")]
    average(list(map(str, folders)), tmp_path / "out")
    parts = [weights(folder) for folder in folders]
    for name, values in weights(tmp_path / "out").items():
        exact = sum(part[name].double() for part in parts) / 3.0
        assert values.dtype == dtype
        torch.testing.assert_close(values, exact.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vlm3": {"image_scale": 0.25}}, "see pictures at"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "saved quantized"),
    ],
)
def test_checkpoints_that_have_no_mean_are_refused(two, tmp_path, change, says):
    path = Path(two[1]) / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=says):
        average(two, tmp_path / "out")


@pytest.mark.parametrize("difference", ["shape", "name", "file"])
def test_checkpoints_that_are_not_alike_are_refused(two, tmp_path, difference):
    path = Path(two[1]) / "model.safetensors"
    name = "model.language_model.norm.weight"
    changed = weights(path.parent)
    if difference == "file":
        shard = path.rename(path.with_name("model-00001.safetensors"))
        path.with_suffix(".safetensors.index.json").write_text(json.dumps({"weight_map": {name: shard.name}}))
    else:
        changed |= {name: changed[name][:3]} if difference == "shape" else {"else": changed.pop(name)}
        save_file(changed, path)
    said = "does not belong to its weights" if difference == "shape" else "not alike"
    with pytest.raises(ModelError, match=said):
        average(two, tmp_path / "out")

"""`vlm3 train` as it is used: recipes to checkpoints that answer, killed runs that go on, adapters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import checkpoints
import lessons
import pytest
import torch
import yaml
from numpy.testing import assert_allclose
from safetensors.torch import load_file, save_file

from vlm3_ros.config import ConfigError
from vlm3_ros.learn import origin
from vlm3_ros.learn.adapters import merged
from vlm3_ros.learn.curriculum import Look
from vlm3_ros.learn.data.mixture import Mixture
from vlm3_ros.learn.recipe import Recipe
from vlm3_ros.learn.student import Student
from vlm3_ros.vlm import ModelError
from vlm3_ros.vlm.engine import Engine
from vlm3_ros.vlm.loading import load

pytest.importorskip("peft", reason="training needs peft: pip install vlm3_ros[train]")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]  # each trains several times

RECIPE = {
    "looks": 2,
    "questions": {"depth": 4, "objects": 1, "grounding": 0, "matching": 2, "pose": 4},
    "learning_rate": 2e-3,
    "max_grad_norm": 1.0,
    "save_every": 2,
    "measure_every": 1000,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lessons.mixture(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random checkpoint of the true architecture, small enough to train in a moment, for pictures of its data."""
    folder = checkpoints.make(tmp_path_factory.mktemp("start"), checkpoints.Size(layers=5, deepstack=(0,)))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vlm3": {"image_scale": 0.25}}))
    return folder


def command(folder: Path, recipe: dict, out: Path) -> list[str]:
    path = folder / f"{out.name}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return [sys.executable, "-m", "vlm3_ros.cli", "train", str(path), "--out", str(out)]


def run(folder: Path, recipe: dict, out: Path) -> Path:
    done = subprocess.run(command(folder, recipe, out), capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    return out


def history(out: Path) -> list[dict]:
    return json.loads((out / "history.json").read_text())


def losses(out: Path) -> list[float]:
    return [entry["loss"] for entry in history(out) if "loss" in entry]


HELPED = {"auxiliary": True, "brief": 0.5, "questions": {**RECIPE["questions"], "objects": 3, "grounding": 2}}
SEE = {"asked": 0.0, "optimizer": "muon", "measure_every": 8, "measured_looks": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "full"},
        {"method": "full", **HELPED, "asked": 0.5},
        {"method": "full", **SEE},
        {"method": "qlora", "rank": 4},
    ],
)
def test_a_run_killed_in_mid_step_goes_on_to_the_same_losses(tmp_path, data, start, changes):
    recipe = {**RECIPE, "model": str(start), "data": str(data), "steps": 8, **changes}
    whole = run(tmp_path, recipe, tmp_path / "whole")
    killed = tmp_path / "killed"
    with subprocess.Popen(command(tmp_path, recipe, killed), stderr=subprocess.DEVNULL, text=True) as process:
        while not list((killed / "steps").glob("checkpoint-4*/trainer_state.json")):
            assert process.poll() is None
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
    cut_off = killed / "steps" / "checkpoint-6"  # as if killed while it was saved
    cut_off.mkdir(exist_ok=True)
    (cut_off / "trainer_state.json").unlink(missing_ok=True)
    run(tmp_path, recipe, killed)
    assert len(losses(whole)) == 8
    assert_allclose(losses(killed), losses(whole), rtol=1e-5)
    if "asked" in changes:  # losses of pictures alone depend on what a look is of
        assert any("eval_seen_depth_delta1" in entry for entry in history(whole))
    else:
        assert losses(whole)[-1] < losses(whole)[0]
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_processes_share_the_looks_of_a_run(tmp_path, data, start):
    recipe = {**RECIPE, "model": str(start), "data": str(data), "method": "full", "steps": 3, "precision": "fp32"}
    alone, shared = run(tmp_path, recipe, tmp_path / "alone"), tmp_path / "shared"
    _, *arguments = command(tmp_path, recipe, shared)
    several = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    subprocess.run(several, check=True, timeout=300)
    assert_allclose(losses(shared), losses(alone), rtol=1e-3)
    weights = [load_file(out / "checkpoint" / "model.safetensors") for out in (alone, shared)]
    name = "model.language_model.layers.1.mlp.down_proj.weight"
    torch.testing.assert_close(weights[0][name], weights[1][name], rtol=0.01, atol=1e-3)
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump({**recipe, "looks": 3}))
    odd = [*several[:-3], str(path), "--out", str(tmp_path / "odd")]
    assert "3 looks per step cannot be shared out" in subprocess.run(odd, capture_output=True, text=True).stderr


def test_a_whole_checkpoint_answers_and_is_measured(tmp_path, data, start):
    recipe = {**RECIPE, "model": str(start), "data": str(data), "method": "full", "steps": 2}
    recipe |= {"measure_every": 2, "measured_looks": 1, "questions": {**RECIPE["questions"], "objects": 0}}
    out = run(tmp_path, recipe, tmp_path / "out")
    (measured,) = (e for e in history(out) if "eval_depth_parsed" in e)
    assert measured["step"] == 2
    config = json.loads((out / "checkpoint" / "config.json").read_text())
    assert {part["dtype"] for part in (config, config["text_config"], config["vision_config"])} == {"float16"}
    engine = Engine(load(str(out / "checkpoint"), "cpu"))
    sample = lessons.sample()
    with engine.look(sample.pictures) as view:
        (answer,) = view.ask([lessons.question(sample.exchanges[0])])
    assert answer is not None


def test_adapters_are_merged_into_the_weights(tmp_path, data, start):
    recipe = {**RECIPE, "model": str(start), "data": str(data), "method": "lora", "rank": 4, "steps": 2}
    recipe |= {"precision": "fp32"}
    out = run(tmp_path, recipe, tmp_path / "out")
    adapters = load_file(out / "checkpoint" / "adapter_model.safetensors")  # so little trained, they change nothing
    adapters = {name: weights * (100.0 if "lora_B" in name else 1.0) for name, weights in adapters.items()}
    save_file(adapters, out / "checkpoint" / "adapter_model.safetensors", {"format": "pt"})
    merge = [sys.executable, "-m", "vlm3_ros.cli", "merge", str(out), "--out", str(tmp_path / "merged")]
    subprocess.run(merge, check=True, timeout=300)
    before, after = (load_file(f / "model.safetensors") for f in (start, tmp_path / "merged"))
    name = "model.language_model.layers.1.mlp.down_proj.weight"
    a, b = (next(v for k, v in adapters.items() if name.removesuffix("weight") + f"lora_{x}" in k) for x in "AB")
    change = 2.0 * b @ a  # alpha / rank
    assert change.abs().max() > 0.1
    torch.testing.assert_close(after[name].float(), before[name] + change, rtol=0.01, atol=0.01)
    frozen = "model.visual.patch_embed.proj.weight"
    torch.testing.assert_close(after[frozen].float(), before[frozen], rtol=0.01, atol=1e-3)


def test_qlora_of_any_width_is_measured_without_harm_and_merged(tmp_path):
    """The bundled model's widths are no multiples of what bitsandbytes quantizes at a time."""
    pytest.importorskip("bitsandbytes")
    data = lessons.mixture(tmp_path / "data")
    size = checkpoints.Size(hidden=96, layers=5, deepstack=(0,))
    start = checkpoints.make(tmp_path / "odd", size)
    config = json.loads((start / "config.json").read_text())
    (start / "config.json").write_text(json.dumps({**config, "vlm3": {"image_scale": 0.25}}))
    recipe = {**RECIPE, "model": str(start), "data": str(data), "method": "qlora", "rank": 4, "steps": 2}
    recipe |= {"questions": {"depth": 2, "objects": 0, "grounding": 0, "matching": 0, "pose": 0}}
    measured = {**recipe, "measure_every": 1, "measured_looks": 1}
    outs = [run(tmp_path, r, tmp_path / name) for name, r in (("plain", recipe), ("measured", measured))]
    assert any("eval_depth_parsed" in entry for entry in history(outs[1]))
    assert_allclose(losses(outs[1]), losses(outs[0]), rtol=1e-4)
    merge = [sys.executable, "-m", "vlm3_ros.cli", "merge", str(outs[1]), "--out", str(tmp_path / "merged")]
    subprocess.run(merge, check=True, timeout=300)
    assert load(str(tmp_path / "merged"), "cpu").chat


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"data": "nowhere.yaml"}, "cannot be read as a mixture"),
        ({"data": ""}, "--set data=MIXTURE.yaml"),
        ({"model": "new"}, "new.tokenizer must name"),
        ({"shares": {"single": 0.0, "matching": 0.0, "pose": 0.0}}, "holds nothing of what the recipe's shares"),
        ({"method": "magic"}, "must be one of full, lora, qlora"),
        ({"stepps": 3}, "there is no setting stepps"),
        ({"model": "nobody/nothing"}, "neither a folder nor in the local"),
        ({"model": "new", "new": {"image_scale": 1.0}}, "shows them at 0.25: build its data with"),
        ({"optimizer": "muon", "method": "lora"}, "optimizer muon is for method full"),
    ],
)
def test_what_cannot_be_trained_is_said(tmp_path, data, start, change, says):
    recipe = {**RECIPE, "model": str(start), "data": str(data), "method": "full", "steps": 1, **change}
    done = subprocess.run(command(tmp_path, recipe, tmp_path / "out"), capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_auxiliary_losses_need_layers_to_read_from(tmp_path, data):
    few = checkpoints.loaded(checkpoints.Size(layers=4, deepstack=(0,))).info.folder
    recipe = Recipe().updated({"model": str(few), "method": "full", "auxiliary": True})
    with pytest.raises(ConfigError, match="more than 4 text layers"):
        Student(recipe.model, recipe, torch.device("cpu"))


@pytest.mark.parametrize("auxiliary", [False, True])
def test_what_is_asked_teaches_heads_only_if_the_recipe_says_so(start, auxiliary):
    recipe = Recipe().updated({"model": str(start), "method": "full", "asked": 0.5, "auxiliary": auxiliary})
    student = Student(str(start), recipe, torch.device("cpu"))
    sample = lessons.sample()
    asked = Look(sample, lessons.facts(sample), is_brief=False)
    student([asked])
    assert ("seen depth" in student.told()) is auxiliary
    student([replace(asked, sample=replace(sample, exchanges=()))])
    assert "seen depth" in student.told()


def test_heads_that_an_earlier_run_did_not_have_start_anew_and_are_named(tmp_path, start, caplog):
    caplog.set_level("INFO")
    folder = shutil.copytree(start, tmp_path / "model")
    recipe = Recipe().updated({"model": str(folder), "method": "full", "auxiliary": True})
    student = Student(str(folder), recipe, torch.device("cpu", 0))  # as torchrun names it
    student.take_help()
    assert f"start anew: {folder} has no auxiliary.pt" in caplog.text
    student.save(saved := tmp_path / "saved")
    heads = torch.load(saved / "auxiliary.pt", weights_only=True)
    torch.save({name: 0.0 * head for name, head in heads.items() if "verdict" not in name}, saved / "auxiliary.pt")
    shutil.copy(saved / "auxiliary.pt", folder)
    student.take_help()
    assert "questions.verdict.weight" in caplog.text
    assert student.help.questions.value.weight.abs().max() == 0.0
    assert student.help.questions.verdict.weight.abs().max() > 0.0
    with pytest.raises(RuntimeError, match="verdict"):  # the same run must find them all
        student.restore(saved)


def test_a_folder_of_another_recipe_is_left_alone(tmp_path, data, start):
    recipe = {**RECIPE, "model": str(start), "data": str(data), "method": "full", "steps": 1}
    out = run(tmp_path, recipe, tmp_path / "out")
    other = command(tmp_path, {**recipe, "steps": 2}, out)
    done = subprocess.run(other, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    assert "another recipe" in done.stderr


@pytest.mark.parametrize("changed", ["weights", "data"])
def test_a_run_does_not_go_on_with_what_has_only_the_same_name(tmp_path, changed):
    model, data = checkpoints.make(tmp_path / "model"), lessons.mixture(tmp_path)
    origin.record(tmp_path, str(model), Mixture(data))
    noted = (tmp_path / origin.FILE).stat()
    origin.record(tmp_path, str(model), Mixture(data))
    assert (tmp_path / origin.FILE).stat() == noted  # or several processes would get in each other's way
    if changed == "weights":
        checkpoints.make(model, seed=1)
    else:
        data.write_text(data.read_text().replace("held_out", "weight: 2\n    held_out"))
    with pytest.raises(ConfigError, match=f"began with other {changed} under the same name"):
        origin.record(tmp_path, str(model), Mixture(data))


@pytest.mark.parametrize(
    ("method", "adapters", "says"),
    [
        ("full", False, "no adapters to merge"),
        ("lora", False, "has not come to its end"),
        ("lora", True, "has other weights now"),
    ],
)
def test_what_cannot_be_merged_is_said(tmp_path, method, adapters, says):
    model = checkpoints.make(tmp_path / "model")
    recipe = Recipe().updated({"model": str(model), "method": method})
    origin.record(tmp_path, str(model), Mixture(lessons.mixture(tmp_path)))
    checkpoints.make(model, seed=1)
    (tmp_path / "checkpoint").mkdir()
    if adapters:
        (tmp_path / "checkpoint" / "adapter_model.safetensors").touch()
    with pytest.raises(ModelError, match=says):
        merged(recipe, tmp_path, tmp_path / "merged")

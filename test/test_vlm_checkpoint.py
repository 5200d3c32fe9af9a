"""Checkpoints: found, checked and loaded; every way to fail says what to do."""

import json
import logging
import shutil
from dataclasses import replace

import checkpoints
import pytest
import torch
from safetensors.torch import load_file, save_file

from vlm3_ros.vlm import ModelError
from vlm3_ros.vlm.checkpoint import inspect
from vlm3_ros.vlm.loading import load, pick_device, resolve_precision
from vlm3_ros.vlm.local import LocalSource
from vlm3_ros.vlm.quantization import self_test

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return checkpoints.make(tmp_path / "checkpoint")


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def cut_shard(folder):
    (folder / "model.safetensors").rename(folder / "model-00001.safetensors")
    shards = {"weight_map": {"a": "model-00001.safetensors", "b": "model-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))


def test_what_is_right_is_found(folder):
    info = inspect(str(folder))
    assert info.quantization is None
    assert info.file_bytes == (folder / "model.safetensors").stat().st_size


def test_weights_are_told_from_others_wherever_they_lie(folder, tmp_path):
    known = inspect(str(folder)).fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert inspect(str(tmp_path / "copy")).fingerprint == known
    weights = load_file(folder / "model.safetensors")
    trained = {name: values + (1e-3 if "layers.1" in name else 0.0) for name, values in weights.items()}
    save_file(trained, folder / "model.safetensors", {"format": "pt"})
    assert inspect(str(folder)).file_bytes == inspect(str(tmp_path / "copy")).file_bytes  # only what is in it differs
    assert inspect(str(folder)).fingerprint != known


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "is not a checkpoint"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read as JSON"),
        (lambda f: (f / "config.json").write_text("[]"), "JSON object"),
        (lambda f: edit(f / "config.json", model_type="llama"), "'llama'.*'qwen3_vl'"),
        (lambda f: edit(f / "config.json", model_type="qwen2_5_vl"), "'qwen2_5_vl'.*'qwen3_vl'"),
        (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
        (lambda f: (f / "model.safetensors").unlink(), "no weights"),
        (cut_shard, "model-00002.safetensors"),
    ],
)
def test_a_folder_that_cannot_work_is_refused_before_anything_is_loaded(folder, damage, message):
    damage(folder)
    with pytest.raises(ModelError, match=message):
        LocalSource("cpu").memory_bytes(str(folder))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/no/such/folder", "does not exist"),
        ("./missing", "does not exist"),
        ("facebook/VLM3-none", "hf download facebook/VLM3-none"),
        ("not a/hub id!", "hf download"),
    ],
)
def test_a_missing_checkpoint_says_how_to_get_it(name, message, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=message):
        inspect(name)


def test_cut_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot be loaded"):
        load(str(folder), "cpu")


def test_missing_weights_are_not_replaced_by_random_ones(folder):
    edit(folder / "config.json", text_config={**inspect(str(folder)).config["text_config"], "num_hidden_layers": 5})
    with pytest.raises(ModelError, match="lacks weights"):
        load(str(folder), "cpu")


def test_sampling_defaults_are_cleared(folder):
    assert json.loads((folder / "generation_config.json").read_text())["do_sample"]
    config = load(str(folder), "cpu").model.generation_config
    assert not config.do_sample
    assert config.top_k in (None, 50)  # transformers' own default, without effect on greedy decoding
    assert config.temperature in (None, 1.0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_where_there_is_none(device):
    with pytest.raises(ModelError, match=r"sees no CUDA device.*auto or cpu"):
        LocalSource(device)


@pytest.mark.parametrize("device", ["tpu", "mps", "cuda:x"])
def test_unknown_devices(device):
    with pytest.raises(ModelError, match="use auto, cpu, cuda or cuda:N"):
        pick_device(device)


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [("cpu", "auto", "fp32"), ("cuda", "auto", "fp16"), ("cpu", "bf16", "bf16"), ("cuda", "bf16", "bf16")],
)
def test_precision(folder, device, precision, expected):
    info = inspect(str(folder))
    assert resolve_precision(info, torch.device(device), precision) == expected
    large = replace(info, file_bytes=8_000_000_000)
    assert resolve_precision(large, torch.device("cuda"), "auto") == "nf4"
    with pytest.raises(ModelError, match="auto, nf4, bf16"):
        resolve_precision(inspect(str(folder)), torch.device(device), "int3")


def test_a_checkpoint_that_is_quantized_stays_as_it_is(folder, caplog):
    edit(folder / "config.json", quantization_config={"quant_method": "fp8"})
    info = inspect(str(folder))
    assert info.quantization == "fp8"
    assert info.memory_bytes("auto") == info.file_bytes
    with caplog.at_level(logging.WARNING):
        assert resolve_precision(info, CPU, "bf16") == "auto"
    assert "quantized already (fp8)" in caplog.text


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
def test_memory_is_known_before_loading(folder, precision):
    if precision == "nf4":
        pytest.importorskip("bitsandbytes")
    loaded = load(str(folder), "cpu", precision)
    assert loaded.info.memory_bytes(precision) == pytest.approx(loaded.model.get_memory_footprint(), rel=0.05)


def test_only_the_language_layers_are_in_4_bit(folder):
    bnb = pytest.importorskip("bitsandbytes")
    model = load(str(folder), "cpu", "nf4").model
    quantized = [name for name, module in model.named_modules() if isinstance(module, bnb.nn.Linear4bit)]
    layers = checkpoints.TINY.layers
    assert len(quantized) == 7 * layers  # q, k, v, o, gate, up, down
    assert all(name.startswith("model.language_model.layers.") for name in quantized)
    assert model.lm_head.weight.dtype == model.model.language_model.embed_tokens.weight.dtype == torch.bfloat16
    assert {p.dtype for p in model.model.visual.parameters()} == {torch.bfloat16}
    state = model.model.language_model.layers[0].self_attn.q_proj.weight.quant_state
    assert state.quant_type == "nf4"
    assert state.nested  # double quantization


def test_a_checkpoint_saved_in_4_bit_loads_as_it_is(folder, tmp_path):
    bnb = pytest.importorskip("bitsandbytes")
    original = load(str(folder), "cpu", "nf4")
    saved = tmp_path / "saved"
    original.model.save_pretrained(saved)
    checkpoints.write_processor(saved, checkpoints.TRIMMED_TOKENIZER)
    again = load(str(saved), "cpu", "fp32")
    assert again.info.quantization == "bitsandbytes"
    assert isinstance(again.model.model.language_model.layers[0].mlp.up_proj, bnb.nn.Linear4bit)


def test_the_4_bit_self_test_passes_here():
    pytest.importorskip("bitsandbytes")
    self_test(CPU, torch.bfloat16)


@pytest.mark.parametrize(
    ("error", "advice"),
    [("named symbol not found at line 449", "Jetson.*DCOMPUTE_CAPABILITY"), ("out of luck", "precision to bf16")],
)
def test_broken_4_bit_kernels_are_explained(monkeypatch, error, advice):
    bnb = pytest.importorskip("bitsandbytes")

    def fail(*_):
        raise RuntimeError(error)

    monkeypatch.setattr(bnb.nn.Linear4bit, "forward", fail)
    with pytest.raises(ModelError, match=f"{error}.*{advice}"):
        self_test(CPU, torch.bfloat16)


def test_4_bit_kernels_that_compute_nonsense_are_noticed(monkeypatch):
    bnb = pytest.importorskip("bitsandbytes")
    right = bnb.nn.Linear4bit.forward
    monkeypatch.setattr(bnb.nn.Linear4bit, "forward", lambda self, x: right(self, x) * 1.1)
    with pytest.raises(ModelError, match="off its own weight"):
        self_test(CPU, torch.bfloat16)

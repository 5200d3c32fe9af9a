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
        (
            lambda f: (f / "config.json").unlink(),
            r"is not a checkpoint: .*config.json does not exist \(there is chat_",
        ),
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
    with pytest.raises(ModelError, match="by its header"):
        inspect(str(folder))


def test_missing_weights_are_not_replaced_by_random_ones(folder):
    edit(folder / "config.json", text_config={**inspect(str(folder)).config["text_config"], "num_hidden_layers": 5})
    with pytest.raises(ModelError, match="lacks weights"):
        load(str(folder), "cpu")


def pointer(file):
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 123456\n")


def only(folder, *names):
    """Leave nothing but some new files with something in them."""
    shutil.rmtree(folder)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text('{"base_model_name_or_path": "org/base"}')


def as_cache(folder):
    """A folder as the Hugging Face cache has it for a model, with the checkpoint as its only snapshot."""
    cached = folder.parent / "models--org--name"
    cached.mkdir()
    (cached / "snapshots").mkdir()
    folder.rename(cached / "snapshots" / "0123abc")
    return cached


def nest(folder):
    whole = folder.rename(folder.parent / "whole")
    folder.mkdir()
    whole.rename(folder / "inside")


@pytest.mark.parametrize(
    ("becomes", "says"),
    [
        (
            lambda f: only(f, "adapter_config.json", "adapter_model.safetensors"),
            r"adapters only.*org/base.*vlm3 merge",
        ),
        (
            lambda f: only(f, "recipe.yaml", "checkpoint/adapter_config.json"),
            r"adapters only.*`vlm3 merge \S+checkpoint ",
        ),
        (
            lambda f: only(f, "recipe.yaml", "checkpoint/config.json"),
            r"vlm3 train.*its checkpoint is \S+/checkpoint$",
        ),
        (
            lambda f: only(f, "checkpoint-9/config.json", "checkpoint-500/config.json"),
            r"2 saved steps.*checkpoint-500$",
        ),
        (lambda f: only(f, "trainer_state.json", "optimizer.pt"), "what a trainer saved to go on from"),
        (lambda f: only(f, "global_step5/mp_rank_00_model_states.pt"), "DeepSpeed.*zero_to_fp32"),
        (lambda f: only(f, "pytorch_model_fsdp_0/__0_0.distcp"), "FSDP.*accelerate merge-weights"),
        (lambda f: only(f, "models--org--name/refs/main"), "Hugging Face cache.*org/name$"),
        (lambda f: only(f, "model-Q4_K_M.gguf"), "GGUF.*model-Q4_K_M.gguf"),
        (lambda f: only(f, "onnx/model.onnx"), "ONNX"),
        (nest, r"inside seems to be one"),
        (lambda f: only(f, "README.md"), "config.json does not exist"),
        (lambda f: pointer(f / "config.json"), r"config.json is only a Git LFS pointer.*git lfs pull"),
        (lambda f: pointer(f / "model.safetensors"), r"model.safetensors is only a Git LFS pointer"),
        (lambda f: pointer(f / "tokenizer.json"), r"tokenizer.json is only a Git LFS pointer"),
        (lambda f: pointer(f / "chat_template.jinja"), r"chat_template.jinja is only a Git LFS pointer"),
        (lambda f: pointer(f / "preprocessor_config.json"), r"preprocessor_config.json is only a Git LFS pointer"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "pickled weights only"),
        (lambda f: (f / "model.safetensors").rename(f / "weights.gguf"), "GGUF"),
        (lambda f: (f / "model.safetensors").rename(f / "model.safetensors.incomplete"), "did not come to its end"),
        (
            lambda f: (f / "model.safetensors").rename(f / "model-00001-of-00002.safetensors"),
            "neither model.safetensors",
        ),
        (lambda f: edit(f / "config.json", quantization={"bits": 4}), "MLX"),
        (lambda f: (f / "adapter_config.json").write_text("{}"), r"adapters beside.*adapter_config.json"),
        (lambda f: (f / "adapter_config.json").write_text("["), r"adapters beside.*adapter_config.json"),
        (lambda f: (f / "adapter_model.safetensors").write_text(""), r"adapters beside.*adapter_model.safetensors"),
        (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": 3}'), None),  # not read: one file
    ],
)
def test_a_folder_that_is_something_else_is_called_what_it_is(folder, becomes, says):
    becomes(folder)
    if says is None:
        inspect(str(folder))
        return
    with pytest.raises(ModelError, match=says):
        inspect(str(folder))


def test_a_file_is_called_a_file(folder):
    with pytest.raises(ModelError, match=rf"is a file.*{folder}$"):
        inspect(str(folder / "model.safetensors"))
    (folder / "model.gguf").write_text("GGUF")
    with pytest.raises(ModelError, match="GGUF"):
        inspect(str(folder / "model.gguf"))


def test_the_folder_of_a_model_in_the_hub_cache_is_its_snapshot(folder):
    cached = as_cache(folder)
    assert inspect(str(cached)).folder == cached / "snapshots" / "0123abc"
    shutil.copytree(cached / "snapshots" / "0123abc", cached / "snapshots" / "456def")
    with pytest.raises(ModelError, match=r"one of its snapshots.*0123abc.*456def"):
        inspect(str(cached))
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("456def")
    assert inspect(str(cached)).folder.name == "456def"


def text(**changes):
    return lambda f: edit(
        f / "config.json", text_config={**json.loads((f / "config.json").read_text())["text_config"], **changes}
    )


def vision(**changes):
    return lambda f: edit(
        f / "config.json", vision_config={**json.loads((f / "config.json").read_text())["vision_config"], **changes}
    )


def template(content):
    def damage(folder):
        (folder / "chat_template.jinja").unlink()
        (folder / "chat_template.json").write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (text(num_hidden_layers=1_000_000), "num_hidden_layers is 1000000.*there are 4"),
        (text(num_hidden_layers=10**12), "no size"),
        (text(hidden_size=2**20), "does not belong to its weights"),
        (text(vocab_size="901"), "no size"),
        (text(intermediate_size=None), "no size"),
        (text(head_dim=True), "no size"),
        (vision(depth=10_000_000), "vision_config.depth is 10000000"),
        (vision(patch_size=0), "no size"),
        (vision(deepstack_visual_indexes=7), "deepstack"),
        (vision(deepstack_visual_indexes=[0, 1]), "deepstack_visual_indexes is 2"),
        (lambda f: edit(f / "config.json", vlm3=[1]), "vlm3"),
        (lambda f: edit(f / "config.json", vlm3={"image_scale": "big"}), "image_scale"),
        (lambda f: edit(f / "config.json", vlm3={"questions": ["left"]}), "vlm3.questions"),
        (lambda f: edit(f / "config.json", quantization_config="nf4"), "quantization_config"),
        (lambda f: edit(f / "config.json", dtype=16), "dtype"),
        (lambda f: edit(f / "config.json", text_config=[]), "text_config"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "cannot be read as JSON"),
        (lambda f: (f / "config.json").write_bytes(b"\xff\xfe{}"), "cannot be read"),
        (lambda f: (f / "preprocessor_config.json").write_text("[]"), "JSON object"),
        (lambda f: (f / "preprocessor_config.json").write_text(""), "cannot be read as JSON"),
        (lambda f: edit(f / "preprocessor_config.json", image_mean=None), "three numbers"),
        (lambda f: edit(f / "preprocessor_config.json", image_std=[0, 0, 0]), "three numbers"),
        (lambda f: edit(f / "preprocessor_config.json", image_processor=None), "image processor"),
        (template({}), "no chat template"),
        (template({"chat_template": ["a"]}), "neither text nor a list"),
        (
            template({"chat_template": [{"name": "tools", "template": "x"}, {"name": "rag"}]}),
            "neither text nor a list",
        ),
        (lambda f: cut_shard(f) or edit(f / "model.safetensors.index.json", weight_map=[]), "weight_map"),
        (
            lambda f: cut_shard(f) or edit(f / "model.safetensors.index.json", weight_map={"a": "../b"}),
            "no file of this",
        ),
        (lambda f: (f / "model.safetensors").write_bytes(b"GGUF"), "no safetensors file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\x08" + bytes(7) + b'{"a": 1}'), "damaged header"),
    ],
)
def test_a_file_with_something_wrong_in_it_is_refused_before_anything_is_loaded(folder, damage, says):
    damage(folder)
    with pytest.raises(ModelError, match=says):
        LocalSource("cpu").memory_bytes(str(folder))


def test_a_list_of_templates_has_one_called_default(folder):
    content = (folder / "chat_template.jinja").read_text()
    template({"chat_template": [{"name": "tools", "template": "x"}, {"name": "default", "template": content}]})(
        folder
    )
    assert load(str(folder), "cpu").chat.questions(["a"])


@pytest.mark.parametrize("values", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_when_they_are_loaded(folder, values):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.language_model.layers.2.mlp.up_proj.weight"][0, 0] = values
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="NaN or infinity"):
        LocalSource("cpu").open(str(folder))


@pytest.mark.parametrize(
    ("whole", "part", "has_head", "says"),
    [
        (True, None, False, None),
        (None, True, False, None),
        (False, True, False, None),
        (False, False, False, "have no head"),
        (None, None, False, "have no head"),
        (False, True, True, None),
    ],
)
def test_a_head_that_is_the_embedding_may_be_said_in_two_places(folder, whole, part, has_head, says):
    config = json.loads((folder / "config.json").read_text())
    for of, value in ((config, whole), (config["text_config"], part)):
        of.pop("tie_word_embeddings", None)
        of.update({} if value is None else {"tie_word_embeddings": value})
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors["model.language_model.embed_tokens.weight"]
    if has_head:
        save_file(tensors | {"lm_head.weight": 2.0 * embedding}, folder / "model.safetensors", {"format": "pt"})
    if says is not None:
        with pytest.raises(ModelError, match=says):
            inspect(str(folder))
        return
    torch.testing.assert_close(load(str(folder), "cpu").model.lm_head.weight, (2.0 if has_head else 1.0) * embedding)


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden": 160, "intermediate": 448},  # the bundled model's
        {"hidden": 96, "intermediate": 200},
        {"intermediate": 50},
        {"hidden": 80, "heads": 3, "kv_heads": 1, "intermediate": 70},
    ],
)
def test_4_bit_weights_of_any_width_are_what_they_are_dequantized(tmp_path, sizes):
    bnb = pytest.importorskip("bitsandbytes")
    folder = checkpoints.make(tmp_path / "odd", replace(checkpoints.TINY, **sizes))
    model = load(str(folder), "cpu", "nf4").model
    whole = dict(load(str(folder), "cpu", "fp32").model.named_modules())
    for name, layer in model.named_modules():
        if not isinstance(layer, bnb.nn.Linear4bit):
            continue
        weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        assert (weight - whole[name].weight).norm() < 0.12 * whole[name].weight.norm()
        x = torch.randn(5, layer.in_features)
        torch.testing.assert_close(layer(x), x @ weight.T, rtol=0.05, atol=0.05 * float(weight.abs().max()) * 8)
    assert LocalSource("cpu", "nf4").open(str(folder))


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


def test_link_to_nothing_is_called_that(tmp_path):
    """As in a snapshot of the Hugging Face cache that was copied without what it points to."""
    (tmp_path / "config.json").symlink_to("../../blobs/0123")
    with pytest.raises(ModelError, match=r"config.json is a link to .*blobs/0123, which is not there"):
        inspect(str(tmp_path))

"""From the name of a checkpoint to its folder; where that is none, what it is instead and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlm3_ros.vlm.files import read_json, read_text
from vlm3_ros.vlm.interface import ModelError

BUNDLED = "bundled"  # name of the small checkpoint that comes with the package
ADAPTER_CONFIG = "adapter_config.json"
CACHED = "models--"  # how folders of models in the Hugging Face cache begin
OTHER_FORMATS = {
    ".gguf": "GGUF weights (llama.cpp)",
    ".onnx": "an ONNX model",
    ".npz": "weights for MLX",
    ".engine": "a TensorRT engine",
    ".xml": "an OpenVINO model",
    ".h5": "TensorFlow weights",
    ".msgpack": "Flax weights",
}
BY_SERVER = "a server that can load them may be asked by http://host:port#model"
SHARDED = (
    ("zero_to_fp32.py", "DeepSpeed"),
    ("global_step*", "DeepSpeed"),
    ("*.distcp", "FSDP"),
    ("pytorch_model_fsdp*", "FSDP"),
)


def find(name: str) -> Path:
    """The folder of a checkpoint by its path, its hub id or BUNDLED. Raises ModelError where there is none.

    Of a model's folder in the Hugging Face cache it is the snapshot that ``refs/main`` names, or the only one.
    """
    if name == BUNDLED:
        return Path(__file__).parents[1] / BUNDLED
    try:
        folder = Path(name).expanduser()
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a zero byte
        raise ModelError(f"{name[:200]!r} is no checkpoint: {error}") from error
    if is_file:
        raise ModelError(_what_file(folder))
    if is_folder:
        return _snapshot(folder) if folder.name.startswith(CACHED) else folder
    if name.count("/") != 1 or name.startswith(("/", ".", "~")):
        raise ModelError(f"the checkpoint folder {name} does not exist (a hub id has the form organisation/name)")
    return _downloaded(name)


def _downloaded(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelError(f"looking up {name} needs the Python package huggingface_hub") from error
    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:  # ValueError: not a valid hub id
        raise ModelError(
            f"the checkpoint {name} is neither a folder nor in the local Hugging Face cache, and nothing is "
            f"downloaded at run time: run `hf download {name}` once, or give a folder"
        ) from error


def _what_file(file: Path) -> str:
    if (kind := OTHER_FORMATS.get(file.suffix)) is not None:
        return f"{file} is {kind}, which cannot be loaded: give a folder with safetensors weights; {BY_SERVER}"
    return f"{file} is a file: give the folder of the whole checkpoint, such as {file.parent}"


def _snapshot(folder: Path) -> Path:
    """The snapshot in a model's folder of the Hugging Face cache."""
    there = _folders(folder, "snapshots/*")
    reference = folder / "refs" / "main"
    main = folder / "snapshots" / read_text(reference).strip() if reference.is_file() else None
    if main in there:
        return main
    if len(there) == 1:
        return there[0]
    names = ", ".join(map(str, there)) or "none: the download did not come to its end"
    raise ModelError(f"{folder} is a model's folder in the Hugging Face cache; give one of its snapshots ({names})")


def refuse_without_config(folder: Path) -> None:
    """Raise ModelError where a folder has no config.json, saying what the folder is."""
    if not (folder / "config.json").is_file():
        raise ModelError(_what(folder))


def _what(folder: Path) -> str:
    """What a folder without config.json is, and what to do."""
    if (link := folder / "config.json").is_symlink():
        return f"{link} is a link to {link.readlink()}, which is not there: copy the folder with its links followed"
    if (folder / ADAPTER_CONFIG).is_file():
        return _adapters(folder)
    if (folder / "recipe.yaml").is_file():
        inside = folder / "checkpoint"
        if (inside / ADAPTER_CONFIG).is_file():
            return _adapters(inside)
        if (inside / "config.json").is_file():
            return f"{folder} is the folder of a `vlm3 train` run: its checkpoint is {inside}"
        return (
            f"{folder} is the folder of a `vlm3 train` run without a checkpoint yet: the same command goes on with it"
        )
    if sharded := _sharded(folder):
        return sharded
    if steps := sorted(_folders(folder, "checkpoint-*"), key=_step):
        return f"{folder} is a trainer's output, with {len(steps)} saved steps: give one of them, such as {steps[-1]}"
    if any((folder / name).exists() for name in ("trainer_state.json", "optimizer.pt", "training_args.bin")):
        return f"{folder} is what a trainer saved to go on from, without a model: save the model with its config.json"
    if cached := _folders(folder, f"{CACHED}*"):
        example = cached[0].name.removeprefix(CACHED).replace("--", "/", 1)
        return f"{folder} is the Hugging Face cache: name a model by its hub id, such as {example}"
    if kind := other_format(folder):
        return kind
    if partial := incomplete(folder):
        return partial
    inside_folders = [path for path in _folders(folder, "*") if (path / "config.json").is_file()]
    if len(inside_folders) == 1:
        return f"{folder} is not a checkpoint, but {inside_folders[0]} seems to be one: give that"
    if inside_folders:
        return f"{folder} holds several checkpoints: give one of them, such as {inside_folders[0]}"
    there = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
    return f"{folder} is not a checkpoint: {folder / 'config.json'} does not exist (there is {there})"


def _adapters(folder: Path) -> str:
    base = _base(folder)
    run = folder.parent
    if (run / "recipe.yaml").is_file():
        how = f"`vlm3 merge {run} --out FOLDER` does that"
    else:
        how = "`vlm3 merge` does that for a run of `vlm3 train`, for others peft's merge_and_unload()"
    return f"{folder} holds adapters only (peft), trained on {base}: they must be merged into its weights; {how}"


def _base(folder: Path) -> str:
    try:
        return str(read_json(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "a model that is not named")
    except ModelError:
        return "a model that cannot be read"


def refuse_adapters(folder: Path) -> None:
    """Raise ModelError where adapters lie beside whole weights: transformers would apply them by itself.

    If the weights are those that they were merged into, they would count twice.
    """
    found = sorted(
        path.name for path in folder.glob("adapter_*") if path.name.startswith(("adapter_config", "adapter_model"))
    )
    if found:
        raise ModelError(
            f"{folder} has whole weights and adapters beside them ({', '.join(found)}), trained on {_base(folder)}: "
            "if they have been merged into these weights, move the adapter files elsewhere; if not, merge them first"
        )


def _sharded(folder: Path) -> str | None:
    for pattern, kind in SHARDED:
        if any(folder.glob(pattern)) or any(folder.glob(f"*/{pattern}")):
            tool = "zero_to_fp32.py" if kind == "DeepSpeed" else "`accelerate merge-weights`"
            return (
                f"{folder} holds shards of a {kind} training: put them together with {tool}, and save config.json too"
            )
    return None


def other_format(folder: Path) -> str | None:
    """What weights of another format are in a folder; None without such."""
    for suffix, kind in OTHER_FORMATS.items():
        if files := sorted(folder.glob(f"*{suffix}")) or sorted(folder.glob(f"*/*{suffix}")):
            return (
                f"{folder} holds {kind} ({files[0].name}), which cannot be loaded: download the checkpoint with "
                f"safetensors weights; {BY_SERVER}"
            )
    return None


def incomplete(folder: Path) -> str | None:
    """Which download did not come to its end; None where there is no sign of one."""
    places: Sequence[Path] = [folder, folder / ".cache" / "huggingface" / "download"]
    if folder.parent.name == "snapshots":
        places = [*places, folder.parents[1] / "blobs"]
    parts = [path for place in places if place.is_dir() for path in place.glob("*.incomplete")]
    if not parts:
        return None
    return f"the download into {folder} did not come to its end ({parts[0].name}): run `hf download` again"


def _folders(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if path.is_dir())


def _step(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdecimal() and len(number) < 19 else -1

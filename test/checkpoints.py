"""Random Qwen3-VL checkpoint folders: true architecture and file layout, seeded weights, small widths.

Their answers are garbage, the way to them is not. `plant` fits the head of one so that it answers a given way.
"""

from __future__ import annotations

import atexit
import base64
import importlib.util
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from vlm3_ros.learn.model import CHAT_TEMPLATE
from vlm3_ros.vlm.engine import Engine
from vlm3_ros.vlm.interface import Picture
from vlm3_ros.vlm.keyvalues import OwnTokens
from vlm3_ros.vlm.loading import Checkpoint, load

ROOT = Path(__file__).parent.parent
TRIMMED_TOKENIZER = Path(__file__).parent / "data" / "tokenizer" / "tokenizer.json"


@dataclass(frozen=True)
class Size:
    """Widths of a checkpoint; everything else is as in Qwen3-VL-4B."""

    hidden: int = 64
    intermediate: int = 192
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    mrope: tuple[int, int, int] = (6, 5, 5)
    vision_layers: int = 4
    vision_hidden: int = 32
    vision_intermediate: int = 64
    vision_heads: int = 2
    deepstack: tuple[int, ...] = (0, 1, 2)
    tied: bool = True


TINY = Size()
WIDE = Size(hidden=128, heads=6, kv_heads=2, layers=3, deepstack=(0, 2), tied=False)  # 3 heads a group, untied head
MID = Size(768, 2304, 8, 12, 4, 64, (12, 10, 10), 8, 384, 1536, 6, (1, 3, 5), tied=False)
FULL_4B = Size(2560, 9728, 36, 32, 8, 128, (24, 20, 20), 24, 1024, 4096, 16, (5, 11, 17))


def make(
    folder: Path,
    size: Size = TINY,
    seed: int = 0,
    tokenizer: Path = TRIMMED_TOKENIZER,
    vocabulary: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a random checkpoint; its weights are scaled up so that logits differ as clearly as a trained model's."""
    folder.mkdir(parents=True, exist_ok=True)
    write_processor(folder, tokenizer)
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    model = Qwen3VLForConditionalGeneration(config(size, tokenizer, vocabulary)).eval()
    torch.set_default_dtype(torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed_tokens" not in name and "lm_head" not in name:
                parameter.mul_(8.0)
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(generation_config(tokenizer)))
    return folder


@cache
def loaded(size: Size = TINY, seed: int = 0, precision: str = "fp32") -> Checkpoint:
    """A random checkpoint, made and loaded once a test run."""
    folder = Path(tempfile.mkdtemp(prefix="vlm3_checkpoint_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return load(str(make(folder, size, seed)), "cpu", precision)


def write_processor(folder: Path, tokenizer: Path) -> None:
    """Tokenizer, chat template and preprocessor settings as a checkpoint folder has them."""
    shutil.copy(tokenizer, folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    )
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "size": {"longest_edge": 16777216, "shortest_edge": 65536},
                "patch_size": 16,
                "temporal_patch_size": 2,
                "merge_size": 2,
                "image_mean": [0.5] * 3,
                "image_std": [0.5] * 3,
                "processor_class": "Qwen3VLProcessor",
                "image_processor_type": "Qwen2VLImageProcessorFast",
            }
        )
    )


def without_torchvision(folder: Path) -> None:
    """Let transformers' processor class work where torchvision is not installed.

    Qwen3-VL's own asks for torchvision because of its video part; this one does the same to pictures and has none.
    """
    for file, changes in (
        ("preprocessor_config.json", {"processor_class": "PaddleOCRVLProcessor"}),
        ("tokenizer_config.json", {"extra_special_tokens": {"image_token": "<|image_pad|>"}}),
    ):
        content = json.loads((folder / file).read_text(encoding="utf-8"))
        (folder / file).write_text(json.dumps(content | changes), encoding="utf-8")


def added_tokens(tokenizer: Path) -> dict[str, int]:
    """Added tokens and their ids."""
    return {t["content"]: t["id"] for t in json.loads(tokenizer.read_text(encoding="utf-8"))["added_tokens"]}


def generation_config(tokenizer: Path) -> dict[str, object]:
    """Qwen's sampling defaults, which a greedy engine has to clear."""
    ids = added_tokens(tokenizer)
    return {
        "pad_token_id": ids["<|endoftext|>"],
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
        "do_sample": True,
        "top_k": 20,
        "top_p": 0.8,
        "temperature": 0.7,
    }


def config(size: Size, tokenizer: Path = TRIMMED_TOKENIZER, vocabulary: int = 0) -> Qwen3VLConfig:
    """The configuration; ``vocabulary`` 0 is that of the tokenizer."""
    ids = added_tokens(tokenizer)
    text = {
        "attention_bias": False,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "head_dim": size.head_dim,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "max_position_embeddings": 262144,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": size.heads,
        "num_hidden_layers": size.layers,
        "num_key_value_heads": size.kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": list(size.mrope), "rope_type": "default"},
        "rope_theta": 5000000,
        "tie_word_embeddings": size.tied,
        "vocab_size": vocabulary or max(ids.values()) + 1,
    }
    vision = {
        "deepstack_visual_indexes": list(size.deepstack),
        "depth": size.vision_layers,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": size.vision_hidden,
        "intermediate_size": size.vision_intermediate,
        "model_type": "qwen3_vl",
        "num_heads": size.vision_heads,
        "num_position_embeddings": 2304,
        "out_hidden_size": size.hidden,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    return Qwen3VLConfig(
        architectures=["Qwen3VLForConditionalGeneration"],
        tie_word_embeddings=size.tied,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        text_config=text,
        vision_config=vision,
    )


def qwen3_tokenizer(folder: Path = ROOT / "build" / "qwen3_tokenizer") -> Path:
    """Qwen3's full tokenizer as a tokenizer.json, made once from the BPE ranks in the PyPI package dashscope.

    The ranks are tiktoken's: the merge behind a token is what BPE gets from it with the ranks below its own.
    """
    target = folder / "tokenizer.json"
    if target.is_file():
        return target
    package = importlib.util.find_spec("dashscope")
    if package is None or not package.submodule_search_locations:
        pytest.skip("the full Qwen3 tokenizer needs the PyPI package dashscope: pip install --no-deps dashscope")
    lines = (Path(package.submodule_search_locations[0]) / "resources" / "qwen.tiktoken").read_text().splitlines()
    ranks = {base64.b64decode(token): int(rank) for token, rank in map(str.split, lines)}
    content = json.loads(TRIMMED_TOKENIZER.read_text(encoding="utf-8"))  # same pre-tokenizer, same added tokens
    content["model"]["vocab"] = {_byte_level(token): rank for token, rank in ranks.items()}
    content["model"]["merges"] = [list(map(_byte_level, _merge(t, ranks))) for t in ranks if len(t) > 1]
    for i, token in enumerate(content["added_tokens"]):
        token["id"] = len(ranks) + i
    folder.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return target


def _merge(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two parts that are merged into ``token`` last."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        first = min(range(len(parts) - 1), key=lambda i: ranks.get(parts[i] + parts[i + 1], len(ranks)))
        parts[first : first + 2] = [parts[first] + parts[first + 1]]
    return parts


def _byte_level(token: bytes) -> str:
    """Bytes as the printable characters that byte-level BPE (GPT-2) writes them with."""
    return "".join(_BYTE_CHARACTERS[byte] for byte in token)


_PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTE_CHARACTERS = {byte: chr(byte if byte in _PRINTABLE else 256 + _OTHERS.index(byte)) for byte in range(256)}


def easy_metres(rng: np.random.Generator) -> float:
    """A number whose digits tell where in it they stand, so that a planted head never loses its place."""
    whole = "".join(map(str, rng.integers(1, 5, rng.integers(1, 3))))
    return float(f"{whole}.{rng.choice([5, 6, 7])}{rng.choice([8, 9, 0])}")


def end_soon(folder: Path) -> None:
    """Let every eighth token end an answer: garbage would go on to the limit of hundreds of tokens otherwise."""
    vocabulary = json.loads((folder / "config.json").read_text())["text_config"]["vocab_size"]
    ends = json.dumps({"eos_token_id": list(range(0, vocabulary, 8))})
    (folder / "generation_config.json").write_text(ends)


def plant(
    folder: Path, dialogues: Sequence[tuple[str, str]], picture: Picture, device: str = "cpu", precision: str = "fp32"
) -> None:
    """Fit the head of a checkpoint (untied) so that it answers questions the way ``dialogues`` (question, answer) do.

    A random transformer's last hidden state tells recent tokens apart; a linear readout of it, fitted by cross
    entropy, is a language model of a few sentences. Where the dialogues go on differently from the same words (the
    digits), the model is torn, and each question tips it its own way. It does so at this precision only: another one
    disturbs a random transformer's states too much.
    """
    checkpoint = load(str(folder), device, precision)
    states, nexts = _teacher_forced(checkpoint, dialogues, picture)
    states = states.float().cpu()
    used, target = nexts.unique(return_inverse=True)
    vocabulary, hidden = checkpoint.model.lm_head.weight.shape
    weight = torch.zeros(len(used), hidden, requires_grad=True)
    others = torch.full((len(states), 1), math.log(vocabulary - len(used)))  # all other tokens keep the logit 0
    optimizer = torch.optim.LBFGS([weight], max_iter=300, history_size=20, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logits = torch.cat([states @ weight.T, others], dim=1)
        value = torch.nn.functional.cross_entropy(logits, target) + 1e-5 * weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    tensors = load_file(folder / "model.safetensors")
    head = torch.zeros_like(tensors["lm_head.weight"])
    head[used] = weight.detach().to(head.dtype)
    save_file({**tensors, "lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})


@torch.no_grad()
def _teacher_forced(
    checkpoint: Checkpoint, dialogues: Sequence[tuple[str, str]], picture: Picture
) -> tuple[torch.Tensor, torch.Tensor]:
    """The last hidden states [T, hidden] before every token [T] of all answers."""
    prefix = Engine(checkpoint).prefix([picture])
    prompts = checkpoint.chat.questions([question for question, _ in dialogues])
    answers = [checkpoint.tokenizer(answer, add_special_tokens=False)["input_ids"] for _, answer in dialogues]
    fed = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    lengths = [len(tokens) for tokens in fed]
    own = OwnTokens(prefix, len(fed), max(lengths))
    states = own.feed(range(len(fed)), fed, lengths, [len(answer) + 1 for answer in answers])
    return states, torch.tensor([token for answer in answers for token in (*answer, checkpoint.end_tokens[0])])

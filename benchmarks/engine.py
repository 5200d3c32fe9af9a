"""What the engine saves: one generate per question against a shared prefix, templates and distributions, as JSON.

python -m benchmarks.engine [--size mid] [--questions 64 256] [--rounds 3]                     on a CPU, one thread
python -m benchmarks.engine --size 4b --precision nf4 --questions 48 192 768                   on a GPU

The checkpoint is random, of the true architecture, with a head fitted so that it answers depth questions in the form
of the protocol; its numbers mean nothing. It is made once, under build/. The modes take turns within each round, and
the median over rounds is reported; "cpu_s" is CPU-seconds, which other programs disturb less than wall time. FLOP are
those of all matrix products, counted from the sizes of the passes that really ran. The roofline time is what each of
them, or reading its weights once, takes at the speeds measured on this machine just before.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

import checkpoints  # noqa: E402

from vlm3_ros.tasks import Question, depth  # noqa: E402
from vlm3_ros.vlm import Picture  # noqa: E402
from vlm3_ros.vlm.checkpoint import text_linear_parameters  # noqa: E402
from vlm3_ros.vlm.engine import Engine  # noqa: E402
from vlm3_ros.vlm.loading import Checkpoint, load, pick_device  # noqa: E402
from vlm3_ros.vlm.reference import Reference  # noqa: E402

SIZES = {
    "tiny": checkpoints.WIDE,
    "mid": checkpoints.MID,
    "4b": replace(checkpoints.FULL_4B, tied=False),  # an untied head, 0.4 G parameters more, can be fitted
}
VOCABULARY = 151936
OWN_TOKENS = 60  # that a token of a question sees beside the prefix, on average
RNG = np.random.default_rng(0)


def questions(count: int) -> list[Question]:
    """Depth questions about random pixels."""
    return depth.questions(RNG.integers(0, depth.BINS, (count, 2)))


def checkpoint_folder(size: str, picture: Picture, device: str, precision: str) -> Path:
    """The checkpoint, its head fitted at this precision; made where it is not there yet."""
    folder = ROOT / "build" / "benchmark" / f"{size}_{precision}"
    if not (folder / "fitted").is_file():
        dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
        checkpoints.make(folder, SIZES[size], 0, checkpoints.qwen3_tokenizer(), VOCABULARY, dtype)
        dialogues = [(q.text, depth.answer(checkpoints.easy_metres(RNG))) for q in questions(96)]
        checkpoints.plant(folder, dialogues, picture, device, precision)
        (folder / "fitted").touch()
    return folder


@dataclass(frozen=True)
class Machine:
    """What this device does at best."""

    flop_s: float  # matrix products in the model's precision
    bytes_s: float  # reading memory

    @classmethod
    def measured(cls, device: torch.device, dtype: torch.dtype) -> Machine:
        n = 8192 if device.type == "cuda" else 1536
        a = torch.randn(n, n, device=device, dtype=dtype)
        memory = torch.empty(1 << (31 if device.type == "cuda" else 28), dtype=torch.uint8, device=device)
        product = _best_seconds(lambda: a @ a, device)
        copy = _best_seconds(memory.clone, device)
        return cls(2 * n**3 / product, 2 * memory.numel() / copy)


def _best_seconds(run: Any, device: torch.device) -> float:
    seconds = []
    for _ in range(5):
        start = _now(device)
        run()
        seconds.append(_now(device) - start)
    return min(seconds)


def _now(device: torch.device) -> float:
    """Seconds: CPU time on a CPU, wall time after all work is done on a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


class Work:
    """FLOP of the matrix products of a model, and the time that a roofline gives them."""

    def __init__(self, checkpoint: Checkpoint, machine: Machine):
        config = checkpoint.model.config
        self._text, self._vision, self._machine = config.text_config, config.vision_config, machine
        self._linear = text_linear_parameters(checkpoint.info.text)
        self._linear_bytes = sum(
            p.numel() * p.element_size() for p in checkpoint.model.model.language_model.layers.parameters()
        )
        self.flop = self.seconds = 0.0

    def look(self, image_tokens: int) -> None:
        """The vision tower on one picture."""
        v, patches = self._vision, 4 * image_tokens
        blocks = patches * v.depth * (4 * v.hidden_size**2 + 2 * v.hidden_size * v.intermediate_size)
        merger = (4 * v.hidden_size) ** 2 + 4 * v.hidden_size * v.out_hidden_size
        mergers = image_tokens * merger * (1 + len(v.deepstack_visual_indexes))
        self._add(2 * (blocks + mergers) + 4 * patches**2 * v.hidden_size * v.depth, 0)

    def layers(self, tokens: int, context: float) -> None:
        """The language model's layers on tokens that each see ``context`` tokens."""
        attention = 4 * context * self._text.num_attention_heads * self._text.head_dim * self._text.num_hidden_layers
        self._add(tokens * (2 * self._linear + attention), self._linear_bytes)

    def head(self, tokens: int) -> None:
        """The head on tokens."""
        weights = self._text.hidden_size * self._text.vocab_size
        self._add(2.0 * tokens * weights, 2 * weights)

    def watch(self, engine: Engine, image_tokens: int) -> None:
        """Count every pass of an engine from now on."""
        run, greedy = engine.language.run, engine.language.greedy

        def counted_run(x: Any, positions: Any, attend: Any, read: Any = None, deepstack: Any = None) -> Any:
            self.layers(len(x), image_tokens / 2 if deepstack else image_tokens + OWN_TOKENS)
            return run(x, positions, attend, read, deepstack)

        def counted_greedy(hidden: Any) -> Any:
            self.head(len(hidden))
            return greedy(hidden)

        engine.language.run, engine.language.greedy = counted_run, counted_greedy  # type: ignore[method-assign]

    def naive(self, image_tokens: int, prompt: int, answer: int) -> None:
        """One generate."""
        self.look(image_tokens)
        self.layers(prompt, prompt / 2)
        for _ in range(answer - 1):
            self.layers(1, prompt)
        for _ in range(answer):
            self.head(1)

    def _add(self, flop: float, weight_bytes: float) -> None:
        self.flop += flop
        self.seconds += max(flop / self._machine.flop_s, weight_bytes / self._machine.bytes_s)


class Peak:
    """Most memory in use within this context: of the device, or of the process on a CPU."""

    def __init__(self, device: torch.device):
        self._device, self.gb = device, 0.0

    def __enter__(self) -> Peak:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        return self

    def __exit__(self, *_: object) -> None:
        if self._device.type == "cuda":
            self.gb = torch.cuda.max_memory_allocated(self._device) / 1e9
        else:
            line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM"))
            self.gb = int(line.split()[1]) * 1024 / 1e9


def measure(vlm: Any, picture: Picture, asked: list[Question], work: Work, device: torch.device) -> dict[str, float]:
    """One frame: a look and all its questions (of the naive way, a few)."""
    work.flop = work.seconds = 0.0
    image_tokens = picture.size[0] * picture.size[1] // 1024
    with Peak(device) as peak:
        wall, cpu, best = time.perf_counter(), time.process_time(), _now(device)
        with vlm.look([picture]) as view:
            answers = view.ask(asked)
        best, wall, cpu = _now(device) - best, time.perf_counter() - wall, time.process_time() - cpu
    if isinstance(vlm, Reference):
        for question, answer in zip(asked, answers, strict=True):
            prompt = image_tokens + 4 + len(vlm.checkpoint.chat.questions([question.text])[0])
            work.naive(image_tokens, prompt, answer.tokens)
    else:
        work.look(image_tokens)
    n = len(asked)
    return {
        "wall_s": wall / n,
        "cpu_s": cpu / n,
        "gflop": work.flop / n / 1e9,
        "roofline": work.seconds / best,
        "peak_gb": peak.gb,
        "tokens": sum(answer.tokens for answer in answers) / n,
        "parsed": sum(isinstance(depth.parse(answer.text), float) for answer in answers) / n,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="mid")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--image", type=int, nargs=2, default=(1152, 864), help="pixels; 972 tokens by default")
    parser.add_argument("--questions", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--naive", type=int, default=2, help="questions of the naive mode a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--chunk", type=int, default=0)
    args = parser.parse_args()

    device = pick_device(args.device)
    width, height = args.image
    picture = Picture(RNG.integers(0, 255, (height // 32, width // 32, 3), dtype=np.uint8), (width, height))
    folder = checkpoint_folder(args.size, picture, str(device), args.precision)
    checkpoint = load(str(folder), str(device), args.precision)
    dtype = checkpoint.model.get_input_embeddings().weight.dtype
    machine = Machine.measured(device, dtype)
    vlms: dict[str, Any] = {
        "naive": Reference(checkpoint),
        "shared": Engine(checkpoint, args.chunk, distributions=False, templates=False),
        "template": Engine(checkpoint, args.chunk, distributions=False),
        "distribution": Engine(checkpoint, args.chunk),
    }
    works = {mode: Work(checkpoint, machine) for mode in vlms}
    for mode, vlm in vlms.items():  # warm up; learn the template
        with vlm.look([picture]) as view:
            view.ask(questions(1 if mode == "naive" else 16))
        if mode != "naive":
            works[mode].watch(vlm, width * height // 1024)
    results: defaultdict[tuple[str, int], list[dict[str, float]]] = defaultdict(list)
    for _ in range(args.rounds):
        asked = questions(max(args.questions))
        for mode, vlm in vlms.items():
            for n in [args.naive] if mode == "naive" else args.questions:
                results[mode, n].append(measure(vlm, picture, asked[:n], works[mode], device))
                print(mode, n, json.dumps(results[mode, n][-1]), file=sys.stderr, flush=True)
    print(json.dumps(report(results, args, device, machine), indent=2))


def report(results: Any, args: argparse.Namespace, device: torch.device, machine: Machine) -> dict[str, Any]:
    """Medians over rounds, and the speed-up over naive within each round."""
    rows = []
    naive = results["naive", args.naive]
    for (mode, n), rounds in results.items():
        row: dict[str, Any] = {"mode": mode, "questions": n}
        row |= {key: round(statistics.median(r[key] for r in rounds), 4) for key in rounds[0]}
        row["questions_per_s"] = round(1.0 / row["wall_s"], 3)
        row["frame_s"] = round(n * row["wall_s"], 3)
        for clock in ("cpu_s", "wall_s", "gflop"):
            ratios = [a[clock] / b[clock] for a, b in zip(naive, rounds, strict=True)]
            row[f"speedup_{clock.removesuffix('_s')}"] = round(statistics.median(ratios), 2)
        rows.append(row)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, 1 thread"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    speeds = {"tflop_s": machine.flop_s / 1e12, "gb_s": machine.bytes_s / 1e9}
    return {**vars(args), "device": name, **versions, **speeds, "date": time.strftime("%Y-%m-%d"), "results": rows}


if __name__ == "__main__":
    main()

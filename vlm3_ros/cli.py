"""The command `vlm3`. Imports stand inside the functions so that --help is instant."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any


def main() -> int:
    """Parse the command line and run one command; returns the exit status: 130 if it was interrupted."""
    parser = argparse.ArgumentParser(
        prog="vlm3", description="3D perception for robots from a vision-language model."
    )
    parser.set_defaults(goes_on=False)  # a command that was interrupted
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="a simulated room is perceived by the node; ends with a picture")
    demo.add_argument(
        "--model",
        default="bundled",
        metavar="NAME",
        help="checkpoint of all tasks: hub id, folder, http://host:port#model, or: %(default)s (the default)",
    )
    demo.add_argument(
        "--frames", type=_positive, default=24, metavar="N", help="frames to perceive (default: %(default)s)"
    )
    demo.add_argument("--out", type=Path, default=Path("results/demo.png"), help="the picture (default: %(default)s)")
    demo.add_argument(
        "--live",
        type=int,
        nargs="?",
        const=8000,
        metavar="PORT",
        help="show the picture while it grows, on a page of this machine (port 8000; 0: any free one)",
    )
    demo.set_defaults(run=_demo)

    run = commands.add_parser("run", help="perceive every frame of a bag or data set, without ROS; stops and goes on")
    run.add_argument(
        "source", type=Path, nargs="+", help="ROS 2 bag, data set folder, file of labelled pixels, or: simulated"
    )
    run.add_argument(
        "--out",
        type=Path,
        required=True,
        help="folder for bag, trajectory, settings and timings; with several sources one folder in it for each",
    )
    run.add_argument("--depth-png", action="store_true", help="write depth as 16-bit PNG files in millimetres too")
    _add_model(run)
    _add_settings(run)
    run.add_argument(
        "--workers", type=_positive, default=0, metavar="N", help="processes that share the sources out, on Ray"
    )
    run.add_argument("--cluster", default="", metavar="ADDRESS", help="of a running Ray cluster, for the workers")
    run.add_argument("--gpus-per-worker", type=float, metavar="N", help="default: 1 where Ray finds GPUs")
    _add_choices(run)
    run.set_defaults(run=_offline, goes_on=True)

    evaluate = commands.add_parser("evaluate", help="compare what `vlm3 run` wrote with the truth of a recording")
    evaluate.add_argument("folder", type=Path, help="what --out was for `vlm3 run`")
    evaluate.add_argument("--truth", type=Path, help="recording with the truth (default: the one that was perceived)")
    _add_truths(evaluate)
    _add_choices(evaluate)
    evaluate.set_defaults(run=_offline)

    report = commands.add_parser("report", help="draw the numbers and pictures of an evaluated run as one HTML file")
    report.add_argument("folder", type=Path, help="what --out was for `vlm3 run`")
    report.set_defaults(run=_offline)

    compare = commands.add_parser("compare", help="which of two evaluated runs over the same frames is better")
    compare.add_argument("a", type=Path, help="folder of the run to compare with")
    compare.add_argument("b", type=Path, help="folder of the run to judge")
    compare.set_defaults(run=_offline)

    calibrate = commands.add_parser("calibrate", help="find depth.answer and depth.scale from true depth")
    calibrate.add_argument("source", type=Path, help="recording with true depth of this camera, as for `vlm3 run`")
    calibrate.add_argument(
        "--frames", type=_positive, default=20, help="frames to ask, evenly spread (default: %(default)s)"
    )
    calibrate.add_argument("--write", type=Path, metavar="FILE", help="set both in this ROS parameter file")
    calibrate.add_argument("--true-depth", metavar="TOPIC", help="depth on the images, in their frame")
    _add_model(calibrate)
    _add_settings(calibrate)
    _add_choices(calibrate)
    calibrate.set_defaults(run=_offline)

    benchmark = commands.add_parser("benchmark", help="ask published labels; prints the row of the paper's table")
    benchmark.add_argument("labels", type=Path, help="label file of VLM³ or DepthLM (*.jsonl, *.json)")
    benchmark.add_argument("--dataset", help="its name in the paper's table (default: the whole row)")
    benchmark.add_argument(
        "--last", type=_share, default=1.0, metavar="SHARE", help="only this share of the list, from its end (0.02)"
    )
    benchmark.add_argument("--out", type=Path, metavar="FILE", help="the numbers and settings as JSON")
    _add_model(benchmark)
    _add_settings(benchmark)
    benchmark.set_defaults(run=_offline)

    _add_data(commands.add_parser("data", help="training data from recordings and simulated rooms"))

    train = commands.add_parser("train", help="fine-tune a checkpoint on training data; stops and goes on")
    train.add_argument("recipe", type=Path, help="YAML file of settings; recipe.yaml in --out has all of them")
    train.add_argument("--out", type=Path, required=True, help="folder for checkpoint, saved steps and curves")
    train.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; may be repeated"
    )
    train.set_defaults(run=_train, goes_on=True)

    merge = commands.add_parser("merge", help="put trained adapters into the weights: a checkpoint of its own")
    merge.add_argument("folder", type=Path, help="what --out was for `vlm3 train`")
    merge.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    merge.set_defaults(run=_merge)

    average = commands.add_parser("average", help="the mean of checkpoints trained on from the same weights")
    average.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help="whole ones: hub ids or folders")
    average.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    average.set_defaults(run=_average)

    settings = commands.add_parser("settings", help="print every setting with its default, as a ROS parameter file")
    settings.set_defaults(run=_settings)

    arguments = parser.parse_args()
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        goes_on = "; the same command goes on where it stopped" if arguments.goes_on else ""
        print(f"vlm3 {arguments.command}: interrupted{goes_on}", file=sys.stderr)
        return 130


def _add_data(data: argparse.ArgumentParser) -> None:
    commands = data.add_subparsers(dest="data_command", required=True)

    build = commands.add_parser("build", help="questions and right answers of all tasks; stops and goes on")
    build.add_argument("source", nargs="+", help="recording with true depth and poses, or rooms:FIRST:COUNT")
    build.add_argument("--out", type=Path, required=True, help="folder for the data set")
    build.add_argument("--scene", default="", help="the place that all recordings show (default: each its own)")
    build.add_argument("--depth", type=int, metavar="N", help="questions an image (160)")
    build.add_argument("--matching", type=int, metavar="N", help="a pair and direction (64)")
    build.add_argument("--objects", type=int, metavar="N", help="an image (16)")
    build.add_argument("--labels", nargs="*", metavar="NAME", help="things to ask for; all that show must have boxes")
    build.add_argument("--image-scale", type=float, metavar="S", help="of the protocol's image sizes (1)")
    build.add_argument("--covisible", type=float, metavar="SHARE", help="least share a pair has in common (0.25)")
    build.add_argument("--max-move", type=float, metavar="M", dest="max_move_m", help="metres between a pair (3)")
    build.add_argument("--max-turn", type=float, metavar="DEG", dest="max_turn_deg", help="between a pair (60)")
    build.add_argument(
        "--range", type=float, nargs=2, metavar="M", dest="range_m", help="true depth from, to in metres (0.1 100)"
    )
    build.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    build.add_argument(
        "--workers", type=_positive, default=os.cpu_count(), metavar="N", help="processes (default: %(default)s)"
    )
    _add_settings(build)
    _add_truths(build)
    _add_choices(build)
    build.set_defaults(run=_data, goes_on=True)

    show = commands.add_parser("show", help="statistics, and a picture with some of the questions")
    show.add_argument("folder", type=Path, help="a data set")
    show.add_argument("--picture", type=Path, help="(default: contact_sheet.png in the folder)")
    show.set_defaults(run=_data)

    check = commands.add_parser("check", help="what a mixture draws; fails if it trains on what it holds out")
    check.add_argument("mixture", type=Path, help="YAML file")
    check.set_defaults(run=_data)


def _add_truths(command: argparse.ArgumentParser) -> None:
    """Which topics are the truth where a bag has several."""
    command.add_argument("--true-depth", metavar="TOPIC", help="depth on the images, in their frame")
    command.add_argument("--true-poses", metavar="TOPIC", help="/tf, odometry, or poses or transforms with a header")
    command.add_argument(
        "--pose-of", metavar="FRAME", help="what --true-poses moves (default: what it says, or the camera)"
    )
    command.add_argument(
        "--max-pose-gap",
        type=_above_zero,
        metavar="SECONDS",
        help="between two true poses that are interpolated (default: 0.1, or 2.5 times their interval up to 1 s)",
    )
    command.add_argument("--true-objects", metavar="TOPIC", help="boxes in the camera's frame")


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--model", metavar="NAME", help="checkpoint of all tasks: hub id, folder, http://host:port#model, or: bundled"
    )


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--config", type=Path, help="ROS parameter file, as for the node")
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="one setting; may be repeated"
    )


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number")
    return number


def _above_zero(text: str) -> float:
    number = _finite(text)
    if number <= 0.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


class _Intrinsics(argparse.Action):
    """Four numbers, of which the focal lengths must be above 0."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if min(values[:2]) <= 0.0:
            raise argparse.ArgumentError(self, "FX and FY must be above 0")
        setattr(namespace, self.dest, values)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0.0 < share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no share of the list: above 0, up to 1")
    return share


def _add_choices(command: argparse.ArgumentParser) -> None:
    """What to take where a recording leaves a choice."""
    command.add_argument("--image", metavar="NAME", help="topic or folder of images, where there are several")
    command.add_argument("--camera-info", metavar="TOPIC", help="the calibration that belongs to them")
    command.add_argument(
        "--intrinsics",
        nargs=4,
        type=_finite,
        action=_Intrinsics,
        metavar=("FX", "FY", "CX", "CY"),
        help="in pixels, of a data set that does not give them",
    )
    command.add_argument(
        "--depth-scale", type=_above_zero, metavar="UNITS", help="units per metre of depth images that do not say it"
    )
    command.add_argument("--lengths", choices=("ray", "z"), help="what the depths of labelled pixels are")


def _offline(arguments: argparse.Namespace) -> int:
    from vlm3_ros.offline.commands import main

    return main(arguments)


def _data(arguments: argparse.Namespace) -> int:
    from vlm3_ros.learn.data.commands import COMMANDS

    return COMMANDS[arguments.data_command](arguments)


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from vlm3_ros.ros.demo import run
    except ImportError as error:
        print(
            f"vlm3 demo needs ROS 2: {error}. `./run demo` sets everything up; on a robot, source ROS first.",
            file=sys.stderr,
        )
        return 1
    try:
        run(arguments.model, arguments.frames, arguments.out, arguments.live)
    except (RuntimeError, OSError) as error:
        print(f"vlm3 demo: {error}", file=sys.stderr)
        return 1
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from vlm3_ros.learn.commands import train

    return train(arguments)


def _merge(arguments: argparse.Namespace) -> int:
    from vlm3_ros.learn.commands import merge

    return merge(arguments)


def _average(arguments: argparse.Namespace) -> int:
    from vlm3_ros.learn.commands import average

    return average(arguments)


def _settings(arguments: argparse.Namespace) -> int:
    from vlm3_ros.config import to_yaml

    print(to_yaml(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

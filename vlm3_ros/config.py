"""Every setting once: type, default, unit, range and one line of help.

The ROS parameters, config/vlm3.yaml and the command line are views of the classes below; nothing else holds a
default. `python -m vlm3_ros.config` prints the YAML file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from typing import Any, get_origin, get_type_hints

TASKS = ("depth", "pose", "matches", "objects")
LONGEST_LABEL = 200  # characters: what stands in a question about a thing is read by the model token by token


class ConfigError(ValueError):
    """A setting has a value it cannot have; the message names it and says what is allowed."""


@dataclass(frozen=True)
class Setting:
    """One setting as its views need it."""

    name: str  # dotted, as a ROS parameter
    default: Any
    kind: type  # bool, int, float, str or list (of strings)
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    live: bool = False  # may change while the node runs

    def check(self, value: Any) -> Any:
        """The value in the setting's own type; ConfigError if it cannot be that or is out of range."""
        if self.kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = _float(value)
        if self.kind is list and isinstance(value, tuple):
            value = list(value)
        fits = isinstance(value, self.kind) and not (self.kind is int and isinstance(value, bool))
        if not fits or (self.kind is list and not all(isinstance(item, str) for item in value)):
            kind = "list of strings" if self.kind is list else self.kind.__name__
            raise ConfigError(f"{self.name} must be a {kind}, not {shortened(repr(value))}{_empty(self, value)}")
        if self.choices and value not in self.choices:
            raise ConfigError(f"{self.name} must be one of {', '.join(self.choices)}, not {shortened(repr(value))}")
        if self.low is not None and self.high is not None and not self.low <= value <= self.high:
            raise ConfigError(f"{self.name} must be in [{self.low:g}, {self.high:g}], not {shortened(repr(value))}")
        return value


def shortened(text: str) -> str:
    """A text that fits a line."""
    return text if len(text) <= 100 else f"{text[:80]} … ({len(text)} characters)"


def _float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _empty(setting: Setting, value: Any) -> str:
    """What to do about a list of nothing: ROS cannot tell of what it is a list, and hands over no value."""
    if setting.kind is not list or value is not None:
        return ""
    return ": ROS drops a list without entries; leave the parameter out for its default, or give an entry"


def setting(
    default: Any,
    help: str,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    live: bool = False,
) -> Any:
    """A dataclass field that carries what `Setting` says."""
    metadata = {"help": help, "low": low, "high": high, "choices": choices, "live": live}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class NodeConfig:
    """What only the ROS node needs."""

    cameras: list[str] = setting(
        [""],
        "names of the cameras; each reads <name>/image and <name>/camera_info and publishes below <name>/ "
        "('' is one camera without a prefix)",
    )
    image_transport: str = setting(
        "raw", "form of the input images: image (raw) or image/compressed", choices=("raw", "compressed")
    )
    tasks: list[str] = setting(
        ["depth", "pose", "objects"],
        "what to perceive, of depth, pose, matches, objects; an output nobody subscribes to costs nothing",
    )
    autostart: bool = setting(True, "configure and activate at start, without a lifecycle manager")
    camera_timeout_s: float = setting(
        5.0, "a camera that sends nothing for this long is reported as stale", 0.1, 3600.0, live=True
    )


@dataclass(frozen=True)
class CameraConfig:
    """How images and CameraInfo are read."""

    input_rectified: bool = setting(
        False, "the image topic is rectified already (image_rect): use camera_info's P, leave out D and R"
    )
    ignore_info_frame: bool = setting(
        False, "camera_info belongs to the images even if its header names another frame than theirs"
    )
    hfov_deg: float = setting(
        0.0,
        "horizontal field of view in degrees of a camera without usable camera_info; 0: camera_info is required",
        0.0,
        175.0,
    )
    max_tokens: int = setting(
        1600,
        "most image tokens (32x32 px each) a view may cost; wide cameras are shown smaller",
        64,
        16384,
        live=True,
    )


@dataclass(frozen=True)
class CheckpointConfig:
    """Which checkpoint answers which task: a hub id, a folder, or http://host:port#model for a served one."""

    depth: str = setting("facebook/VLM3-depth", "metric depth of pixels (weights: FAIR CC-BY-NC)")
    matching: str = setting("facebook/VLM3-corr", "pixel correspondence (weights: FAIR CC-BY-NC)")
    pose: str = setting("facebook/VLM3-pose", "relative camera pose (weights: FAIR CC-BY-NC)")
    objects: str = setting("facebook/VLM3-object", "spatial questions of ~/ask (weights: FAIR CC-BY-NC)")
    grounding: str = setting("Qwen/Qwen3-VL-4B-Instruct", "2D boxes of named things (weights: Apache-2.0)")


@dataclass(frozen=True)
class VlmConfig:
    """The models and the device they run on."""

    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    device: str = setting("auto", "auto, cuda, cuda:N or cpu")
    precision: str = setting(
        "auto",
        "of the weights; auto is 4-bit NF4 on CUDA and fp32 on a CPU",
        choices=("auto", "nf4", "bf16", "fp16", "fp32"),
    )
    memory_budget_gb: float = setting(
        0.0,
        "GB of weights kept loaded; the longest unused checkpoint goes first; 0: what the device has",
        0.0,
        1024.0,
    )
    chunk: int = setting(
        0, "questions answered at a time at most; 0: by free memory, or 64 where a server answers", 0, 4096
    )
    preload: bool = setting(
        False, "load the models when the node is activated, as many as fit, and not when the first frame comes"
    )
    distributions: bool = setting(
        True, "measure the distributions of numbers in answers: confidence and spread, for about a fifth more time"
    )


@dataclass(frozen=True)
class DepthConfig:
    """Depth of a grid of pixels, and the dense map between them."""

    points: int = setting(432, "pixels asked per frame, spread over a grid with square cells", 1, 20000, live=True)
    budget_s: float = setting(
        0.0, "seconds per frame for these questions, coarse grid first; 0: no limit", 0.0, 3600.0, live=True
    )
    answer: str = setting(
        "ray", "what the checkpoint answers: length of the ray, or depth along z", choices=("ray", "z"), live=True
    )
    scale: float = setting(1.0, "factor on every answered length, from a calibration", 0.01, 100.0, live=True)
    statistic: str = setting(
        "greedy",
        "value taken from an answer: greedy text, or median or mode of its digits' distribution",
        choices=("greedy", "median", "mode"),
        live=True,
    )
    max_m: float = setting(80.0, "answers beyond this depth are refused, in metres", 0.1, 10_000.0, live=True)
    edge_ratio: float = setting(
        1.4,
        "a step in depth by this factor is a depth edge, unless the slopes on both sides of it explain it",
        1.01,
        100.0,
        live=True,
    )
    max_width: int = setting(640, "larger images get a depth image of this width, in pixels", 1, 16384, live=True)


@dataclass(frozen=True)
class CloudConfig:
    """The coloured point cloud."""

    stride: int = setting(1, "every n-th column and row of the depth image becomes a point", 1, 64, live=True)
    min_m: float = setting(0.0, "points nearer than this depth are left out, in metres", 0.0, 999.0, live=True)
    max_m: float = setting(30.0, "points farther than this depth are left out, in metres", 0.0, 999.0, live=True)
    min_confidence: float = setting(0.0, "points of lower depth/confidence are left out", 0.0, 1.0, live=True)


@dataclass(frozen=True)
class PoseConfig:
    """Visual odometry by questions about the last keyframe and this frame."""

    publish_tf: bool = setting(
        True,
        "broadcast odom_frame -> base_frame; never against another broadcaster",
        live=True,
    )
    odom_frame: str = setting(
        "vlm_odom", "frame in which the robot starts at the origin (REP 105); not that of another odometry"
    )
    base_frame: str = setting(
        "",
        "robot frame to which the camera is fixed by /tf_static; '': the root of what is above it there",
    )
    keyframe_translation_m: float = setting(
        0.3, "a new keyframe after this distance, in metres", 0.0, 100.0, live=True
    )
    keyframe_rotation_deg: float = setting(
        15.0, "a new keyframe after this rotation, in degrees", 0.0, 180.0, live=True
    )
    statistic: str = setting(
        "greedy",
        "numbers taken from answers: greedy text, or medians of their digits' distributions",
        choices=("greedy", "median"),
        live=True,
    )
    max_disagreement_deg: float = setting(
        10.0,
        "refuse answers whose rotation angle and Euler angles disagree by more, in degrees",
        0.0,
        180.0,
        live=True,
    )
    lost_after: int = setting(5, "refused frames in a row after which tracking starts anew", 1, 1000, live=True)
    sigma_translation: float = setting(
        0.1, "standard deviation of one answered translation, as a fraction of its length", 0.0, 10.0, live=True
    )
    sigma_rotation_deg: float = setting(
        3.0, "standard deviation of one answered rotation, in degrees about each axis", 0.0, 180.0, live=True
    )


@dataclass(frozen=True)
class MatchesConfig:
    """Pixel correspondences between the frame before and this frame."""

    points: int = setting(48, "pixels of the frame before that are looked for in this one", 1, 20000, live=True)
    think: bool = setting(False, "let the model reason before it answers, as published (much slower)", live=True)


@dataclass(frozen=True)
class ObjectsConfig:
    """Named things as 3D boxes."""

    labels: list[str] = setting(
        ["person", "chair", "table", "cabinet", "door", "box"],
        "names of the things to look for; each is a question",
        live=True,
    )
    points: int = setting(120, "pixels whose depth is asked in and around each 2D box", 16, 5000, live=True)
    max_boxes: int = setting(20, "most boxes lifted to 3D per frame, the likeliest", 1, 1000, live=True)


@dataclass(frozen=True)
class Config:
    """All settings."""

    node: NodeConfig = field(default_factory=NodeConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    vlm: VlmConfig = field(default_factory=VlmConfig)
    depth: DepthConfig = field(default_factory=DepthConfig)
    cloud: CloudConfig = field(default_factory=CloudConfig)
    pose: PoseConfig = field(default_factory=PoseConfig)
    matches: MatchesConfig = field(default_factory=MatchesConfig)
    objects: ObjectsConfig = field(default_factory=ObjectsConfig)

    def get(self, name: str) -> Any:
        """The value of one setting by its dotted name."""
        value: Any = self
        for part in name.split("."):
            value = getattr(value, part)
        return value

    def updated(self, values: Mapping[str, Any]) -> Config:
        """A copy with some settings, by dotted name, changed; ConfigError for unknown names and wrong values."""
        known = {s.name: s for s in settings()}
        config = self
        for name, value in values.items():
            if name not in known:
                raise ConfigError(f"there is no setting {name}")
            config = _replaced(config, name.split("."), known[name].check(value))
        _check_lists(config)
        return config


def settings(of: type = Config, prefix: str = "") -> Iterator[Setting]:
    """All settings below a config class, in order of definition."""
    hints = get_type_hints(of)
    for f in fields(of):
        name, kind = f"{prefix}{f.name}", hints[f.name]
        if "help" not in f.metadata:
            yield from settings(kind, f"{name}.")
            continue
        default = f.default if f.default_factory is MISSING else f.default_factory()
        yield Setting(name, default, get_origin(kind) or kind, **f.metadata)


def one_checkpoint(name: str) -> dict[str, str]:
    """The settings with which one checkpoint answers all tasks."""
    return {s.name: name for s in settings(CheckpointConfig, "vlm.checkpoint.")}


def _check_lists(config: Config) -> None:
    cameras, tasks, labels = config.node.cameras, config.node.tasks, config.objects.labels
    unknown = sorted(set(tasks) - set(TASKS))
    if unknown:
        raise ConfigError(f"node.tasks knows {', '.join(TASKS)}, not {', '.join(map(repr, unknown))}")
    if not cameras or len(set(cameras)) < len(cameras):
        raise ConfigError(f"node.cameras must name every camera once and at least one, not {cameras}")
    if long := next((label for label in labels if len(label) > LONGEST_LABEL), None):
        raise ConfigError(
            f"objects.labels has {long[:40]!r}… of {len(long)} characters; {LONGEST_LABEL} are the most"
        )
    if not all(map(str.strip, labels)) or len({label.strip().casefold() for label in labels}) < len(labels):
        raise ConfigError(f"objects.labels must be names of things, each once, not {labels}")


def _replaced(config: Any, path: list[str], value: Any) -> Any:
    """A copy of nested dataclasses with the value at ``path`` changed."""
    if len(path) > 1:
        value = _replaced(getattr(config, path[0]), path[1:], value)
    return replace(config, **{path[0]: value})


def to_yaml() -> str:
    """The text of config/vlm3.yaml: every setting at its default, with its help and range as a comment."""
    lines = [
        "# Every parameter of the vlm3 node at its default. Made by `python -m vlm3_ros.config`; copy it and keep",
        "# what you change. (live): may be set while the node runs; all others are read once, at configure.",
        "/**:",
        "  ros__parameters:",
    ]
    group: list[str] = []
    for s in settings():
        *path, name = s.name.split(".")
        for depth, part in enumerate(path):
            if path[: depth + 1] != group[: depth + 1]:
                lines.append(f"{'  ' * (depth + 2)}{part}:")
        group = path
        indent = "  " * (len(path) + 2)
        lines += [f"{indent}# {s.help}{_limits(s)}", f"{indent}{name}: {_yaml(s.default)}"]
    return "\n".join(lines) + "\n"


def _limits(s: Setting) -> str:
    limits = f" [{s.low:g}, {s.high:g}]" if s.low is not None and s.high is not None else ""
    choices = f" [{', '.join(s.choices)}]" if s.choices else ""
    return limits + choices + (" (live)" if s.live else "")


def _yaml(value: Any) -> str:
    """A YAML flow value; JSON is a subset of YAML."""
    return json.dumps(value)


if __name__ == "__main__":
    print(to_yaml(), end="")

"""Parameter files as people have them, for the node offline; the launch file's side of it is in test_launch.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm3_ros.config import Config, ConfigError, settings
from vlm3_ros.offline.settings import read_config

POINTS = "depth: {points: 33}"
FAULTS: dict[str, tuple[bytes | None, str]] = {
    "nowhere": (None, "cannot be read: No such file"),
    "empty": (b"", "is no mapping"),
    "a list": (b"- depth", "is no mapping: a parameter file has a node's name"),
    "no YAML": (b"/**: {ros__parameters", "is no YAML"),
    "values without a node": (b"vlm3: {depth: {points: 3}}", "has no ros__parameters"),
    "values that are none": (b"/**: {ros__parameters: 3}", "ros__parameters of /[*][*] is no mapping"),
    "another node's": (b"/camera: {ros__parameters: {rate: 3}}", "is for /camera and has nothing for vlm3"),
    "two robots'": (
        b"/a/vlm3: {ros__parameters: {}}\n/b/vlm3: {ros__parameters: {}}",
        "is for several nodes, /a/vlm3, /b/vlm3",
    ),
    "misspelt": (b"/**: {ros__parameters: {depth: {pionts: 3}}}", "no parameter depth.pionts; is depth.points meant"),
    "Latin-1": ("/**: {ros__parameters: {objects: {labels: [Tür]}}}".encode("latin-1"), "is not in UTF-8"),
    "too deep": (b"[" * 1500, "nested too deeply"),
    "too long": (b"/**: {ros__parameters: {depth: {points: " + b"9" * 5000 + b"}}}", "has a value that is none"),
    "no labels": (b"/**: {ros__parameters: {objects: {labels: }}}", "ROS drops a list without entries"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_said(fault, tmp_path):
    content, why = FAULTS[fault]
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=why) as refused:
        read_config(file, [])
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    "text",
    [
        f"/**: {{ros__parameters: {{{POINTS}}}}}",
        f"vlm3: {{ros__parameters: {{{POINTS}}}}}",
        f"/robot1/vlm3: {{ros__parameters: {{{POINTS}}}}}",
        f"/*/vlm3: {{ros__parameters: {{{POINTS}}}}}\n/camera: {{ros__parameters: {{rate: 3}}}}",
        f"/**/vlm3: {{ros__parameters: {{{POINTS}}}}}",
        f"robot1: {{vlm3: {{ros__parameters: {{{POINTS}}}}}}}",
        "/**: {ros__parameters: {depth.points: 33, use_sim_time: true}}",
        f"/**: {{ros__parameters: {{depth: {{points: 3}}}}}}\n/vlm3: {{ros__parameters: {{{POINTS}}}}}",
    ],
)
def test_names_under_which_the_node_is_found(text, tmp_path):
    (tmp_path / "mine.yaml").write_text(text)
    assert read_config(tmp_path / "mine.yaml", []).depth.points == 33


def test_what_ros2_param_dump_writes_is_read(tmp_path: Path):
    """Its form: the node's full name, groups as mappings, and the parameters that every ROS node has."""
    groups: dict[str, dict[str, object]] = {}
    for setting in settings():
        group, name = setting.name.rsplit(".", 1)
        groups.setdefault(group, {})[name] = setting.default
    lines = ["/robot1/vlm3:", "  ros__parameters:"]
    lines += [f"    {group}: {values!r}" for group, values in groups.items()]
    lines += [
        "    qos_overrides:",
        "      /parameter_events:",
        "        publisher: {depth: 1000, history: keep_last}",
    ]
    lines += ["    start_type_description_service: true", "    use_sim_time: false"]
    (tmp_path / "dump.yaml").write_text("\n".join(lines).replace("True", "true").replace("False", "false"))
    config = read_config(tmp_path / "dump.yaml", ["cloud.stride=1"])
    assert config == Config()


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("depth.points=" + "9" * 5000, "--set depth.points has a value that is none"),
        ("depth.points=" + "9" * 4000, r"depth.points must be in \[1, 20000\]"),
        ("depth.scale=" + "9" * 4000, r"depth.scale must be in \[0.01, 100\], not inf"),
        ("depth.points=" + "[" * 1500, "nested too deeply"),
        ("depth.answer=" + "x" * 5000, "depth.answer must be one of ray, z"),
        ("depth.pionts=3", "no parameter depth.pionts; is depth.points meant"),
        ("points=3", "no parameter points; is .*points meant"),
        ("use_sim_time=true", "use_sim_time is no setting"),
    ],
    ids=lambda text: text[:20],
)
def test_odd_words_are_refused_in_a_sentence(value, why):
    with pytest.raises(ConfigError, match=why) as refused:
        read_config(None, [value])
    assert len(str(refused.value)) < 300

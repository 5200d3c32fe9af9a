"""Settings: what every one of them must have, and how wrong values are refused."""

from __future__ import annotations

from typing import Any

import pytest
import ros
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vlm3_ros.config import Config, ConfigError, Setting, settings, to_yaml

SETTINGS = {s.name: s for s in settings()}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one with dotted names."""
    values: dict[str, Any] = {}
    for name, value in tree.items():
        values |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return values


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_explains_itself_and_allows_its_default(name):
    setting = SETTINGS[name]
    assert setting.help.strip()
    assert "\n" not in setting.help
    assert setting.check(setting.default) == setting.default
    assert Config().get(name) == setting.default
    assert type(setting.default) is setting.kind
    if setting.kind in (int, float):
        assert setting.low <= setting.default <= setting.high


@pytest.mark.parametrize("name", [s.name for s in SETTINGS.values() if s.kind is float])
def test_lengths_times_and_angles_say_their_unit(name):
    """By a suffix of the name or in the help; the others are ratios and counts."""
    ratios = {"depth.scale", "depth.edge_ratio", "cloud.min_confidence", "pose.sigma_translation"}
    assert name.endswith(("_m", "_s", "_deg", "_gb")) or name in ratios


def test_yaml_holds_every_setting_at_its_default():
    values = flat(yaml.safe_load(to_yaml())["/**"]["ros__parameters"])
    assert values == {s.name: s.default for s in SETTINGS.values()}
    for name, value in values.items():
        assert type(value) is SETTINGS[name].kind, name  # 1.0 must not become an integer parameter
    assert Config().updated(values) == Config()


def test_yaml_explains_every_setting():
    lines = to_yaml().splitlines()
    for setting in SETTINGS.values():
        leaf = setting.name.rpartition(".")[2]
        above = [lines[i - 1] for i, line in enumerate(lines) if line.strip().startswith(f"{leaf}:")]
        (comment,) = (line for line in above if setting.help in line)
        assert comment.strip().startswith("#")
        assert comment.endswith("(live)") == setting.live
        if setting.low is not None:
            assert f"[{setting.low:g}, {setting.high:g}]" in comment


def test_the_yaml_file_is_that_of_the_code():
    stored = (ros.ROOT / "config" / "vlm3.yaml").read_text()
    assert stored == to_yaml(), "run `python -m vlm3_ros.config > config/vlm3.yaml`"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("depth.points", 0, "[1, 20000]"),
        ("objects.labels", ["chair", "a" * 40_000], "200 are the most"),
        ("depth.points", 20001, "[1, 20000]"),
        ("depth.points", 3.0, "int"),
        ("depth.points", True, "int"),
        ("depth.points", "432", "int"),
        ("depth.max_m", -1.0, "[0.1, 10000]"),
        ("depth.max_m", float("nan"), "nan"),
        ("depth.max_m", float("inf"), "inf"),
        ("depth.max_m", None, "float"),
        ("depth.max_m", True, "float"),
        ("depth.answer", "length", "ray, z"),
        ("node.autostart", 1, "bool"),
        ("node.tasks", "depth", "list of strings"),
        ("node.tasks", ["depth", "segmentation"], "segmentation"),
        ("node.tasks", [1, None], "list of strings"),
        ("node.tasks", [["depth"]], "list of strings"),
        ("node.cameras", [], "at least one"),
        ("node.cameras", ["front", "front"], "once"),
        ("objects.labels", ["chair", " "], "names of things"),
        ("objects.labels", ["chair", "Chair "], "each once"),
        ("objects.labels", [3], "list of strings"),
        ("vlm.checkpoint.depth", 3, "str"),
    ],
)
def test_wrong_values_are_refused_with_the_name(name, value, said):
    with pytest.raises(ConfigError) as refused:
        Config().updated({name: value})
    assert name in str(refused.value)
    assert said in str(refused.value)


@pytest.mark.parametrize("name", ["depth", "depth.point", "", "vlm.checkpoint", "depth.points.x"])
def test_unknown_settings_are_refused_with_the_name(name):
    with pytest.raises(ConfigError, match=f"no setting {name}"):
        Config().updated({name: 1})


@given(st.sampled_from(sorted(SETTINGS)), st.from_type(object) | st.floats() | st.lists(st.text() | st.integers()))
def test_any_value_is_taken_or_refused_with_the_name(name, value):
    try:
        config = Config().updated({name: value})
    except ConfigError as error:
        said = str(error)
    else:
        said = f"{name} is a {type(config.get(name)).__name__}"
    assert said.startswith(name)
    assert not said.startswith(f"{name} is a") or said.endswith(SETTINGS[name].kind.__name__)


def test_updated_changes_what_it_is_told_and_nothing_else():
    new = {"depth.max_m": 5, "vlm.checkpoint.pose": "folder", "node.tasks": ("pose",)}
    config = Config().updated(new)
    assert (config.depth.max_m, config.vlm.checkpoint.pose, config.node.tasks) == (5.0, "folder", ["pose"])
    assert isinstance(config.depth.max_m, float)
    for name in SETTINGS.keys() - new.keys():
        assert config.get(name) == Config().get(name)


def test_a_list_handed_out_is_nobody_elses():
    Config().node.tasks.append("nonsense")
    assert "nonsense" not in Config().node.tasks


def test_ranges_include_their_ends():
    setting = Setting("x", 1.0, float, "help", low=0.5, high=2.0)
    assert setting.check(0.5) == 0.5
    assert setting.check(2) == 2.0

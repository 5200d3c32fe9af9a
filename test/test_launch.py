"""Launch files, parameter file and RViz file.

Where the real launch API is installed (a ROS 2 from apt), the launch files are run through it. Everywhere, what they
would start is checked without it: the launch files are loaded with recording stand-ins for the few names they import
(a shape check, no launch), and the installed executables are started with exactly the arguments recorded there.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import ros
import yaml

from vlm3_ros.config import CheckpointConfig, Config, settings, to_yaml
from vlm3_ros.ros.outputs import TOPICS
from vlm3_ros.sim.demo import LABELS
from vlm3_ros.vlm.checkpoint import BUNDLED

LAUNCH_FILES = sorted((ros.ROOT / "launch").glob("*.launch.py"))
INPUTS = {"image", "image/compressed", "camera_info"}


class Recorded:
    """Stands in for an action or substitution of the launch API and keeps what it was made with."""

    def __init__(self, *positional: Any, **named: Any):
        self.positional, self.named = positional, named


class Substitution(Recorded):
    """LaunchConfiguration whose value comes from a dict instead of a launch context."""

    def perform(self, context: dict[str, str]) -> str:
        return context[self.positional[0]]


MODULES = {
    "launch": ["LaunchDescription", "LaunchContext"],
    "launch.actions": [
        "DeclareLaunchArgument",
        "ExecuteProcess",
        "IncludeLaunchDescription",
        "OpaqueFunction",
        "SetEnvironmentVariable",
    ],
    "launch.conditions": ["IfCondition"],
    "launch.launch_description_sources": ["PythonLaunchDescriptionSource"],
    "launch.substitutions": ["LaunchConfiguration"],
    "launch_ros": [],
    "launch_ros.actions": ["Node"],
}


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording stand-ins under the names that launch files import."""
    for name, classes in MODULES.items():
        module = types.ModuleType(name)
        for kind in classes:
            base = Substitution if kind == "LaunchConfiguration" else Recorded
            setattr(module, kind, type(kind, (base,), {}))
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("ament_index_python.packages.get_package_share_directory", lambda package: str(ros.ROOT))


def load(file: Path) -> Any:
    spec = importlib.util.spec_from_file_location(file.stem.replace(".", "_"), file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.generate_launch_description()


def actions(description: Any, kind: str) -> list[Any]:
    return [action for action in description.positional[0] if type(action).__name__ == kind]


def started(values: dict[str, str]) -> list[Any]:
    """What vlm3.launch.py starts with these arguments, the others at their defaults."""
    description = load(ros.ROOT / "launch" / "vlm3.launch.py")
    context = {a.positional[0]: a.named["default_value"] for a in actions(description, "DeclareLaunchArgument")}
    assert set(values) <= set(context)
    (opaque,) = actions(description, "OpaqueFunction")
    return opaque.named["function"](context | values)


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("file", LAUNCH_FILES, ids=lambda f: f.name)
def test_launch_files_start_installed_executables_with_existing_files(file):
    description = load(file)
    for node in actions(description, "Node"):
        if node.named["package"] == "vlm3_ros":
            assert Path(sys.prefix, "lib", "vlm3_ros", node.named["executable"]).is_file()
    for variable in actions(description, "SetEnvironmentVariable"):
        assert Path(variable.positional[1]).is_file()
    for node in actions(description, "Node"):
        for argument in node.named.get("arguments", []):
            assert argument == "-d" or Path(argument).is_file()


@pytest.mark.usefixtures("stand_ins")
def test_node_gets_known_parameters_and_remappings():
    node, bag = started({"model": "/models/joint", "image": "/cam/image", "bag": "run1"})
    file, overrides = node.named["parameters"]
    assert set(overrides) - {"use_sim_time"} <= {s.name for s in settings()}
    assert {name for name in overrides if name.startswith("vlm.")} == {
        s.name for s in settings(CheckpointConfig, "vlm.checkpoint.")
    }
    assert overrides["use_sim_time"] is True  # a bag brings its own time
    assert Path(file).is_file()
    assert {source for source, _ in node.named["remappings"]} == INPUTS
    assert ("image/compressed", "/cam/image/compressed") in node.named["remappings"]
    assert bag.named["cmd"][-1] == "run1"


@pytest.mark.usefixtures("stand_ins")
def test_demo_is_answered_by_the_bundled_model():
    description = load(ros.ROOT / "launch" / "demo.launch.py")
    defaults = {a.positional[0]: a.named["default_value"] for a in actions(description, "DeclareLaunchArgument")}
    assert defaults["model"] == BUNDLED
    (node,) = started({"model": BUNDLED})
    _, overrides = node.named["parameters"]
    assert (
        Config().updated({k: v for k, v in overrides.items() if k != "use_sim_time"}).vlm.checkpoint.pose == BUNDLED
    )


@pytest.mark.usefixtures("stand_ins")
def test_executable_runs_with_the_arguments_of_the_launch_file(data):
    """rclpy does the parameter file, the namespace and the remapping, so this is nearly all that launch would do."""
    (node,) = started({"namespace": "robot1", "image": "/cam/image", "camera_info": "/cam/info"})
    file, overrides = node.named["parameters"]
    arguments = ["--params-file", file, "-r", f"__ns:=/{node.named['namespace']}"]
    arguments += [word for pair in node.named["remappings"] for word in ("-r", ":=".join(pair))]
    double = ros.answered_by(f"truth:recorded:{data / 'tum_fr3_cabinet'}")
    with ros.node({**overrides, **double}, *arguments) as process:
        process.wait_for("perceiving depth, pose, objects of /cam/image")
        assert "[robot1.vlm3]" in process.output
        assert process.interrupt() == 0, process.output


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("values", [{}, {"image_transport": "compressed", "use_sim_time": "false"}])
def test_what_is_not_given_is_left_to_the_parameter_file(values):
    (node,) = started(values)
    expected = {"node.image_transport": "compressed", "use_sim_time": False} if values else {}
    assert node.named["parameters"][1] == expected


@pytest.mark.usefixtures("stand_ins")
def test_demo_waits_for_the_node_that_looks_for_what_is_in_its_room():
    description = load(ros.ROOT / "launch" / "demo.launch.py")
    ((simulator,), (node,)) = (actions(description, kind) for kind in ("Node", "IncludeLaunchDescription"))
    (values,) = simulator.named["parameters"]
    assert values["wait_for"] in TOPICS
    file = Path(dict(node.named["launch_arguments"])["config"])
    assert yaml.safe_load(file.read_text())["/**"]["ros__parameters"] == {"objects": {"labels": LABELS}}


def test_parameter_file_is_what_the_code_says():
    """config/vlm3.yaml is made by `python -m vlm3_ros.config`; every parameter is in it, at its default."""
    text = (ros.ROOT / "config" / "vlm3.yaml").read_text()
    assert text == to_yaml()
    loaded = yaml.safe_load(text)["/**"]["ros__parameters"]
    for setting in settings():
        value: Any = loaded
        for part in setting.name.split("."):
            value = value[part]
        assert value == setting.default == Config().get(setting.name), setting.name


def test_rviz_file_shows_topics_of_the_node():
    displays = yaml.safe_load((ros.ROOT / "config" / "vlm3.rviz").read_text())["Visualization Manager"]["Displays"]
    shown = {display["Topic"]["Value"] for display in displays if "Topic" in display}
    assert shown <= set(TOPICS) | INPUTS
    assert {"points", "objects/markers", "depth/image", "camera_pose"} <= shown


@pytest.mark.parametrize("file", LAUNCH_FILES, ids=lambda f: f.name)
def test_real_launch_api_reads_the_launch_files(file):
    pytest.importorskip("launch_ros", reason="launch_ros is not installed: it comes with an apt ROS 2 only")
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    assert get_launch_description_from_python_launch_file(str(file)).get_launch_arguments()

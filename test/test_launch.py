"""Launch files, parameter file and RViz file.

Where the real launch API is installed (a ROS 2 from apt), the launch files are run through it. Everywhere, what they
would start is checked without it: the launch files are loaded with recording stand-ins for the few names they import
(a shape check, no launch), and the installed executables are started with exactly the arguments recorded there.
"""

from __future__ import annotations

import importlib.util
import itertools
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import ros
import yaml

from vlm3_ros.config import CheckpointConfig, Config, ConfigError, settings, to_yaml
from vlm3_ros.ros.outputs import TOPICS
from vlm3_ros.sim.demo import LABELS
from vlm3_ros.vlm.checkpoint import BUNDLED

LAUNCH_FILES = sorted((ros.ROOT / "launch").glob("*.launch.py"))
INPUTS = {"image", "image/compressed", "camera_info"}


class Recorded:
    """Stands in for an action or substitution of the launch API and keeps what it was made with."""

    def __init__(self, *positional: Any, **named: Any):
        self.positional, self.named = positional, named
        self.name = positional[0] if positional else None


class Substitution(Recorded):
    """LaunchConfiguration whose value comes from a dict instead of a launch context."""

    def perform(self, context: dict[str, str]) -> str:
        return context[self.positional[0]]


MODULES = {
    "launch": ["LaunchDescription", "LaunchContext"],
    "launch.actions": [
        "DeclareLaunchArgument",
        "IncludeLaunchDescription",
        "OpaqueFunction",
        "ResetLaunchConfigurations",
        "SetEnvironmentVariable",
        "Shutdown",
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


def shown(file: str) -> dict[str, Any]:
    """The arguments of a launch file and their defaults."""
    description = load(ros.ROOT / "launch" / file)
    return {a.name: a.named["default_value"] for a in actions(description, "DeclareLaunchArgument")}


def actions(description: Any, kind: str) -> list[Any]:
    return [action for action in description.positional[0] if type(action).__name__ == kind]


def started(**values: str) -> dict[str, Any]:
    """What vlm3.launch.py starts with these arguments, the others at their defaults, by executable."""
    context = shown("vlm3.launch.py")
    assert set(values) <= set(context)
    (opaque,) = actions(load(ros.ROOT / "launch" / "vlm3.launch.py"), "OpaqueFunction")
    return {node.named["executable"]: node for node in opaque.named["function"](context | values)}


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("file", LAUNCH_FILES, ids=lambda f: f.name)
def test_launch_files_start_installed_executables_with_existing_files(file):
    description = load(file)
    for node in actions(description, "Node"):
        if node.named["package"] == "vlm3_ros":
            assert ros.executable(node.named["executable"]).is_file()
    for variable in actions(description, "SetEnvironmentVariable"):
        assert Path(variable.positional[1]).is_file()
    for node in actions(description, "Node"):
        for argument in node.named.get("arguments", []):
            assert argument == "-d" or Path(argument).is_file()


@pytest.mark.usefixtures("stand_ins")
def test_node_gets_known_parameters_and_remappings():
    node = started(model="/models/joint", image="/cam/image", bag="run1")["vlm3_node"]
    file, overrides = node.named["parameters"]
    assert set(overrides) - {"use_sim_time"} <= {s.name for s in settings()}
    assert {name for name in overrides if name.startswith("vlm.checkpoint")} == {
        s.name for s in settings(CheckpointConfig, "vlm.checkpoint.")
    }
    assert overrides["use_sim_time"] is True  # a bag brings its own time
    assert overrides["vlm.preload"] is True  # and does not wait for models
    assert Path(file).is_file()
    assert dict(node.named["remappings"]) == {"image": "/cam/image", "camera_info": "camera_info"}


@pytest.mark.usefixtures("stand_ins")
def test_bag_is_played_as_it_is_asked_for():
    plain = started(bag="run1", namespace="r1")["play_bag"]
    assert plain.named["namespace"] == "r1"
    assert plain.named["arguments"][0] == "run1"
    assert "--loop" not in plain.named["arguments"]
    options = started(bag="run1", rate="2.5", delay="0", start="7.5", loop="True")["play_bag"].named["arguments"]
    pairs = dict(itertools.pairwise(options))
    assert (pairs["--rate"], pairs["--start-offset"], pairs["--clock"]) == ("2.5", "7.5", "100")
    assert "--loop" in options
    assert "--delay" not in options  # `ros2 bag play` refuses 0
    assert "play_bag" not in started()


@pytest.mark.usefixtures("stand_ins")
def test_launch_ends_with_the_bag():
    """With the node too; in an error, so that `ros2 launch` fails, where there was one."""
    started_ = started(bag="run1")
    (ended,) = {started_[name].named["on_exit"] for name in ("vlm3_node", "play_bag")}
    running, over = types.SimpleNamespace(is_shutdown=False), types.SimpleNamespace(is_shutdown=True)
    well, badly = (types.SimpleNamespace(returncode=code, process_name="play_bag-2") for code in (0, 1))
    assert type(ended(well, running)).__name__ == "Shutdown"
    with pytest.raises(RuntimeError, match="play_bag-2 ended with status 1"):
        ended(badly, running)
    assert ended(badly, over) is None
    assert started()["vlm3_node"].named["on_exit"] is None


@pytest.mark.usefixtures("stand_ins")
def test_rviz_follows_the_other_arguments():
    rviz = started(namespace="r1", image="/cam/image", use_sim_time="True")["rviz2"]
    assert rviz.named["namespace"] == "r1"
    assert rviz.named["parameters"] == [{"use_sim_time": True}]
    assert dict(rviz.named["remappings"]) == {"image": "/cam/image", "image/compressed": "/cam/image/compressed"}
    assert started(bag="run1")["rviz2"].named["parameters"] == [{"use_sim_time": True}]


FAULTS = {
    "nowhere": (None, "cannot be read: No such file"),
    "a list": (b"- depth", "is no mapping: .*ros__parameters"),
    "no YAML": (b"/**: {ros__parameters", "is no YAML"),
    "values without a node": (b"vlm3: {depth: {points: 3}}", "has no ros__parameters"),
    "another node's": (b"/camera: {ros__parameters: {rate: 3}}", "is for /camera and has nothing for /r1/vlm3"),
    "another namespace's": (b"/r2/vlm3: {ros__parameters: {}}", "is for /r2/vlm3 and has nothing for /r1/vlm3"),
    "Latin-1": ("/**: {ros__parameters: {objects: {labels: [Tür]}}}".encode("latin-1"), "is not in UTF-8"),
}


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("fault", FAULTS)
def test_parameter_file_that_the_node_would_ignore_is_refused(fault, tmp_path):
    content, why = FAULTS[fault]
    file = tmp_path / "mine.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=why):
        started(config=str(file), namespace="r1")


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("name", ["/r1/vlm3", "/**", "/*/vlm3", "/**/vlm3", "/r1/*"])
def test_parameter_file_for_this_node(name, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"{name}: {{ros__parameters: {{depth: {{points: 3}}}}}}\n/other: {{ros__parameters: {{a: 1}}}}")
    assert started(config=str(file), namespace="/r1")["vlm3_node"].named["parameters"][0] == str(file)


@pytest.mark.usefixtures("stand_ins")
def test_demo_is_answered_by_the_bundled_model():
    assert shown("demo.launch.py")["model"] == BUNDLED
    _, overrides = started(model=BUNDLED)["vlm3_node"].named["parameters"]
    assert Config().updated(overrides).vlm.checkpoint.pose == BUNDLED


@pytest.mark.usefixtures("stand_ins")
def test_executable_runs_with_the_arguments_of_the_launch_file(data):
    """rclpy does the parameter file, the namespace and the remapping, so this is nearly all that launch would do."""
    node = started(namespace="robot1", image="/cam/image", camera_info="/cam/info")["vlm3_node"]
    file, overrides = node.named["parameters"]
    arguments = ["--params-file", file, "-r", f"__ns:=/{node.named['namespace']}"]
    arguments += [word for pair in node.named["remappings"] for word in ("-r", ":=".join(pair))]
    double = ros.answered_by(f"truth:recorded:{data / 'tum_fr3_cabinet'}")
    with ros.node({**overrides, **double}, *arguments) as process:
        process.wait_for("perceiving depth, pose, objects of /cam/image")
        assert "[robot1.vlm3]" in process.output
        assert process.interrupt() == 0, process.output


@pytest.mark.usefixtures("stand_ins")
def test_what_is_not_given_is_left_to_the_parameter_file():
    assert started()["vlm3_node"].named["parameters"][1] == {}
    given = started(image_transport="compressed", use_sim_time="false")["vlm3_node"]
    assert given.named["parameters"][1] == {"node.image_transport": "compressed", "use_sim_time": False}


@pytest.mark.usefixtures("stand_ins")
def test_demo_waits_for_the_node_that_looks_for_what_is_in_its_room():
    description = load(ros.ROOT / "launch" / "demo.launch.py")
    ((simulator,), (node,)) = (actions(description, kind) for kind in ("Node", "IncludeLaunchDescription"))
    config, values = simulator.named["parameters"]
    assert values["wait_for"] in TOPICS
    file = Path(shown("demo.launch.py")["config"])
    assert yaml.safe_load(file.read_text())["/**"]["ros__parameters"] == {"objects": {"labels": LABELS}}
    given = dict(node.named["launch_arguments"])
    assert (given["namespace"], given["config"]) == (simulator.named["namespace"], config)  # both get them


@pytest.mark.usefixtures("stand_ins")
def test_demo_offers_what_it_can_do():
    """And keeps all other arguments of the launch file that it includes at their defaults."""
    description = load(ros.ROOT / "launch" / "demo.launch.py")
    (reset,) = actions(description, "ResetLaunchConfigurations")
    (node,) = actions(description, "IncludeLaunchDescription")
    offered = set(shown("demo.launch.py"))
    assert offered == set(reset.positional[0]) == set(dict(node.named["launch_arguments"]))
    assert offered <= set(shown("vlm3.launch.py"))


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


def test_real_launch_api_shows_the_arguments_of_the_demo():
    pytest.importorskip("launch_ros", reason="launch_ros is not installed: it comes with an apt ROS 2 only")
    from launch.launch_description_sources import get_launch_description_from_python_launch_file

    description = get_launch_description_from_python_launch_file(str(ros.ROOT / "launch" / "demo.launch.py"))
    assert {a.name for a in description.get_launch_arguments()} == {"model", "namespace", "config", "rviz"}


REAL = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
file, *arguments = sys.argv[1:]
launch = LaunchService()
source = PythonLaunchDescriptionSource(file)
pairs = [argument.split(":=", 1) for argument in arguments]
launch.include_launch_description(LaunchDescription([IncludeLaunchDescription(source, launch_arguments=pairs)]))
sys.exit(launch.run())
"""


@pytest.mark.slow
def test_real_launch_plays_a_bag_that_is_not_there_and_ends(tmp_path):
    """Whatever says that the bag cannot be played, `ros2 bag` or its absence, the launch ends with an error."""
    pytest.importorskip("launch_ros", reason="launch_ros is not installed: it comes with an apt ROS 2 only")
    script = tmp_path / "real.py"
    script.write_text(REAL)
    arguments = ["bag:=/nowhere", f"model:={BUNDLED}", "namespace:=launched"]
    with ros.Process(script, ros.ROOT / "launch" / "vlm3.launch.py", *arguments) as process:
        assert process.wait(120.0) == 1, process.output
        assert "/launched/vlm3 is ready" in process.output
        assert "play_bag-3 ended with status 1" in process.output or "play_bag-2 ended" in process.output

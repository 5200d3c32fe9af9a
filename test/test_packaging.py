"""The package as others get it: what package.xml, setup.py and CMakeLists.txt promise, and what an install holds."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_prefix
from catkin_pkg.package import parse_package
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vlm3_ros
from vlm3_ros.vlm.loading import load

ROOT = Path(__file__).resolve().parent.parent
INTERFACES = sorted(path.relative_to(ROOT) for path in [*ROOT.glob("msg/*.msg"), *ROOT.glob("srv/*.srv")])
MODULES = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("vlm3_ros/**/*.py"))
SHARED = sorted(str(path.relative_to(ROOT)) for folder in ("launch", "config") for path in ROOT.glob(f"{folder}/*.*"))
BUNDLED = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("vlm3_ros/bundled/*"))
EXECUTABLES = ("vlm3", "vlm3_node", "sim_node", "play_bag")
REQUIREMENTS = ("core", "vlm", "offline", "report", "train", "test", "ros-jazzy-wheels")

# Modules whose apt package, as rosdep names it, has another name.
ROSDEP_KEYS = {
    "PIL": "python3-pil",
    "cv2": "python3-opencv",
    "numpy": "python3-numpy",
    "scipy": "python3-scipy",
    "yaml": "python3-yaml",
}
NOT_IMPORTED = {"rosbag2", "rosidl_default_runtime", "rviz2"}  # programs, and what generated messages load
FROM_PIP = {  # requirements/vlm.txt, offline.txt, report.txt and what comes with rosbags
    *("bitsandbytes", "huggingface_hub", "torch", "transformers"),
    *("jinja2", "matplotlib", "peft", "safetensors", "tokenizers"),
    *("backports", "compression", "lz4", "rosbags", "ruamel"),
}


@pytest.fixture(scope="module")
def manifest():
    return parse_package(str(ROOT))  # raises InvalidPackage


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of the source tree without what earlier builds left in it."""
    copy = tmp_path_factory.mktemp("workspace") / "vlm3_ros"
    built = shutil.ignore_patterns(".*", "build", "install", "log", "results", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=built)
    return copy


def test_versions_agree(manifest):
    assert manifest.version == vlm3_ros.__version__


def test_cmake_generates_every_interface():
    listed = re.findall(r'"((?:msg|srv)/.+?)"', (ROOT / "CMakeLists.txt").read_text())
    assert sorted(listed) == [str(path) for path in INTERFACES]


def imported_by(path: Path) -> set[str]:
    """Top-level names of all modules that a file imports, but for the standard library and this package."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names - sys.stdlib_module_names - {"vlm3_ros"}


def test_package_xml_names_what_is_imported(manifest):
    code = [*MODULES, *(path for path in SHARED if path.endswith(".py"))]
    imported = set.union(*(imported_by(ROOT / path) for path in code)) - FROM_PIP
    declared = {dependency.name for dependency in manifest.exec_depends} - NOT_IMPORTED
    assert {ROSDEP_KEYS.get(name, name) for name in imported} == declared


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_every_requirement_has_its_reason(name):
    explained = (ROOT / "docs" / "dependencies.md").read_text()
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    required = [re.split(r"[<>=\[; ]", line)[0] for line in lines if line and not line.startswith("#")]
    assert [name for name in required if f"`{name}`" not in explained] == []


@pytest.mark.parametrize("name", [*REQUIREMENTS, "test-data", "ros-messages"])
def test_every_requirement_is_locked(name):
    """In a version that it allows, and with hashes; PyTorch, of which each build has others, without."""
    python = ".".join(map(str, sys.version_info[:3]))
    locked: dict[str, tuple[str, bool]] = {}
    for file in (ROOT / "requirements" / "locked").glob("*.txt"):
        entries = re.findall(r"^(\S+?)==(\S+) ;(.*?) ?(\\\n(?:.*\\\n)*.*)?$", file.read_text(), re.MULTILINE)
        for package, version, marker, hashes in entries:
            if Marker(marker).evaluate({"python_full_version": python}):
                assert package not in locked
                locked[package] = (version, "--hash=sha256:" in hashes)
    lines = (ROOT / "requirements" / f"{name}.txt").read_text().splitlines()
    for requirement in (Requirement(line) for line in lines if line and not line.startswith("#")):
        version, hashed = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} is locked as {version}: ./run lock"
        assert hashed or requirement.name == "torch"


@pytest.mark.parametrize("path", INTERFACES, ids=str)
def test_interface_is_installed(path):
    generated = importlib.import_module(f"vlm3_ros.{path.parent}")
    assert getattr(generated, path.stem).__module__.startswith(f"vlm3_ros.{path.parent}")


@pytest.mark.parametrize("path", [*SHARED, "package.xml"])
def test_shared_file_is_installed_as_it_is(path):
    installed = Path(get_package_prefix("vlm3_ros"), "share", "vlm3_ros", path)
    assert installed.read_bytes() == (ROOT / path).read_bytes(), "installed before the last change? ./run setup"


@pytest.mark.parametrize("path", BUNDLED)
def test_file_of_the_bundled_model_is_installed_as_it_is(path):
    (packages,) = Path(get_package_prefix("vlm3_ros")).glob("lib/python*/site-packages")
    assert (packages / path).is_file(), "installed before the last change? ./run setup"
    assert (packages / path).read_bytes() == (ROOT / path).read_bytes()


@pytest.mark.skipif(not BUNDLED, reason="the bundled model is not in this source tree")
def test_bundled_model_is_small_and_loads():
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {Path(f).name for f in BUNDLED}
    assert sum((ROOT / path).stat().st_size for path in BUNDLED) <= 12e6
    checkpoint = load("bundled", "cpu")
    assert checkpoint.info.folder == ROOT / "vlm3_ros" / "bundled"
    assert sum(p.numel() for p in checkpoint.model.parameters()) == pytest.approx(
        checkpoint.info.parameters, rel=0.02
    )


@pytest.mark.parametrize("name", EXECUTABLES)
def test_program_is_installed_where_ros2_run_looks(name):
    executable = Path(get_package_prefix("vlm3_ros"), "lib", "vlm3_ros", name)
    assert os.access(executable, os.X_OK)


@pytest.mark.slow
def test_wheel_without_ros(sources, tmp_path):
    """On a machine without ROS, pip still gives everything but the messages, and leaves the choice of torch open."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    no_cmake = {**os.environ, "PATH": ""}
    subprocess.run([*pip, "--wheel-dir", tmp_path, sources], env=no_cmake, check=True)
    (wheel,) = tmp_path.glob(f"vlm3_ros-{vlm3_ros.__version__}-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(f"vlm3_ros-{vlm3_ros.__version__}.dist-info/METADATA").decode()
    share = f"vlm3_ros-{vlm3_ros.__version__}.data/data/share"
    assert set(MODULES) == {name for name in names if name.endswith(".py") and name.startswith("vlm3_ros/")}
    assert {"vlm3_ros/offline/report/page.html", *BUNDLED} <= set(names)
    assert {f"{share}/vlm3_ros/{path}" for path in SHARED} <= set(names)
    assert f"{share}/ament_index/resource_index/packages/vlm3_ros" in names
    needed = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE)
    assert sorted(needed) == ["numpy", "opencv-python-headless", "pillow", "scipy"]


@pytest.mark.slow
def test_colcon_workspace(sources):
    """`colcon build` and a sourced workspace: modules, messages, nodes, launch and configuration files."""
    workspace = sources.parent
    cmake = ["--cmake-args", f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"]
    subprocess.run(["colcon", "build", "--base-paths", sources, *cmake], cwd=workspace, check=True)
    look = "import vlm3_ros.msg, vlm3_ros.srv, vlm3_ros.camera as c; print(vlm3_ros.msg.__file__, c.__file__)"
    script = f". install/local_setup.bash && cd / && {sys.executable} -c '{look}'"
    found = subprocess.run(["bash", "-c", script], cwd=workspace, check=True, capture_output=True, text=True)
    prefix = workspace / "install" / "vlm3_ros"
    assert all(Path(path).is_relative_to(prefix) for path in found.stdout.split())
    assert all(os.access(prefix / "lib" / "vlm3_ros" / name, os.X_OK) for name in EXECUTABLES)
    assert all((prefix / "share" / "vlm3_ros" / path).is_file() for path in [*SHARED, "package.xml"])
    (packages,) = prefix.glob("lib/python*/site-packages")
    assert all((packages / path).is_file() for path in BUNDLED)

"""Complete a ROS 2 Jazzy that pip installed into a virtual environment: then messages can be built and used there.

The wheels lack CMake exports that fit this machine, and the packages tf2_msgs and vision_msgs.
Run with the Python of that environment, and again after its ROS packages have changed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from pathlib import Path

import numpy

PREFIX = Path(sys.prefix)
DEFINITIONS = Path(__file__).resolve().parents[1] / "requirements" / "locked" / "ros-messages.txt"
PACKAGES = {
    "tf2_msgs": ("builtin_interfaces", "geometry_msgs"),
    "vision_msgs": ("geometry_msgs", "sensor_msgs", "std_msgs"),
}

PACKAGE_XML = """\
<package format="3">
  <name>{name}</name><version>0.0.0</version><description>{name}, from its message definitions</description>
  <maintainer email="maintainers@vlm3-ros.example">vlm3_ros maintainers</maintainer><license>see upstream</license>
  <buildtool_depend>ament_cmake</buildtool_depend>
  <buildtool_depend>rosidl_default_generators</buildtool_depend>
  <member_of_group>rosidl_interface_packages</member_of_group>
  <export><build_type>ament_cmake</build_type></export>
</package>
"""
CMAKELISTS = """\
cmake_minimum_required(VERSION 3.16)
project({name})
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
{find_dependencies}
file(GLOB messages RELATIVE ${{CMAKE_CURRENT_SOURCE_DIR}} "msg/*.msg")
rosidl_generate_interfaces({name} ${{messages}} DEPENDENCIES {dependencies})
ament_export_dependencies(rosidl_default_runtime)
ament_package()
"""


def mend_exports() -> None:
    """Let the CMake exports name this machine's headers of Python and NumPy instead of the build machine's."""
    for export in PREFIX.glob("share/*/cmake/*__rosidl_generator_pyExport.cmake"):
        text = export.read_text()
        mended = re.sub(r'/opt/python/[^;"]*/site-packages/numpy/_core/include', numpy.get_include(), text)
        mended = re.sub(r'/opt/python/[^;"]*/include/python3\.\d+', sysconfig.get_path("include"), mended)
        if mended != text:
            export.unlink()  # an installer may have hard-linked it from its cache, which must stay as it is
            export.write_text(mended)


def build_messages() -> None:
    """Generate the missing message packages from their definitions and install them into the environment."""
    with tempfile.TemporaryDirectory(prefix="vlm3-messages-") as folder:
        workspace = Path(folder)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*download, "--dest", folder, "-r", DEFINITIONS], check=True)
        with zipfile.ZipFile(next(workspace.glob("*.whl"))) as wheel:
            for name in PACKAGES:
                _write_package(workspace / "src" / name, name, wheel)
        colcon = [PREFIX / "bin" / "colcon", "build", "--merge-install", "--install-base", PREFIX]
        options = ["--cmake-args", f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"]
        prefixes = {"AMENT_PREFIX_PATH": sys.prefix, "CMAKE_PREFIX_PATH": sys.prefix}
        environment = {**os.environ, **prefixes, "COLCON_LOG_LEVEL": "error"}
        subprocess.run([*colcon, *options], cwd=workspace, env=environment, check=True)


def _write_package(folder: Path, name: str, wheel: zipfile.ZipFile) -> None:
    """A ROS package of the .msg files of ``name``."""
    (folder / "msg").mkdir(parents=True)
    for member in wheel.namelist():
        if f"/ros_msgs/{name}/msg/" in member and member.endswith(".msg"):
            (folder / "msg" / Path(member).name).write_bytes(wheel.read(member))
    dependencies = PACKAGES[name]
    find = "\n".join(f"find_package({dependency} REQUIRED)" for dependency in dependencies)
    (folder / "package.xml").write_text(PACKAGE_XML.format(name=name))
    text = CMAKELISTS.format(name=name, find_dependencies=find, dependencies=" ".join(dependencies))
    (folder / "CMakeLists.txt").write_text(text)


if __name__ == "__main__":
    mend_exports()
    print(f"Building the messages of {' and '.join(PACKAGES)} (about a minute) ...", flush=True)
    build_messages()

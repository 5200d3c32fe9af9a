"""pip's view of the package; colcon goes by package.xml and CMakeLists.txt.

Built in an environment with ROS 2 (`pip install --no-build-isolation .`), the wheel holds all that CMake installs,
generated messages included. Anywhere else it holds the Python modules and the data files below: everything but
the messages and what needs them.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

NAME = "vlm3_ros"
EXTRAS = ("vlm", "offline", "report", "scale", "train", "test")
WITH_ROS = importlib.util.find_spec("rosidl_generator_py") is not None and shutil.which("cmake") is not None
DATA_FILES = {
    "share/ament_index/resource_index/packages": [f"resource/{NAME}"],
    f"share/{NAME}": ["package.xml"],
    f"share/{NAME}/launch": map(str, Path("launch").glob("*.launch.py")),
    f"share/{NAME}/config": map(str, Path("config").glob("*.*")),
}


class BuildWithMessages(build_py):
    """Takes what CMake installs into the wheel; CMake decides what has to be generated again."""

    def run(self) -> None:
        shutil.rmtree(Path(self.build_lib, NAME), ignore_errors=True)  # modules that are no longer in the sources
        super().run()
        if WITH_ROS:
            build = Path(self.get_finalized_command("build").build_temp).absolute()
            staging = install_with_cmake(build)
            self.distribution.data_files = take_installed(staging, Path(self.build_lib))


def install_with_cmake(build: Path) -> Path:
    """Generate, build and install into a folder below ``build``; returns that folder."""
    staging = build / "staging"
    shutil.rmtree(staging, ignore_errors=True)
    environment = {"AMENT_PREFIX_PATH": sys.prefix, **os.environ}
    # The final prefix is given here, not the staging folder: CMake refuses exports that name headers below the source
    # directory (a virtual environment may well lie there) unless they are below the prefix too.
    configure = ["cmake", "-S", ".", "-B", str(build), f"-DCMAKE_INSTALL_PREFIX={sys.prefix}", "-DBUILD_TESTING=OFF"]
    configure += [f"-DPython3_EXECUTABLE={sys.executable}"]
    configure += ["-DCMAKE_PREFIX_PATH=" + environment["AMENT_PREFIX_PATH"].replace(os.pathsep, ";")]
    install = ["cmake", "--install", str(build), "--prefix", str(staging)]
    for command in (configure, ["cmake", "--build", str(build)], install):
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return staging


def take_installed(staging: Path, build_lib: Path) -> list[tuple[str, list[str]]]:
    """Copy the installed Python package to ``build_lib``; returns all other files, as setuptools' data_files."""
    (site,) = staging.glob(f"lib/python*/site-packages/{NAME}")
    shutil.copytree(site, build_lib / NAME, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    others = [path for path in staging.rglob("*") if path.is_file() and site.parent not in path.parents]
    return [(str(path.parent.relative_to(staging)), [str(path)]) for path in others]


class PackageWithMessages(Distribution):
    """Tags the wheel with Python version and platform when it holds compiled messages."""

    def has_ext_modules(self) -> bool:
        return WITH_ROS


def requirements(name: str) -> list[str]:
    lines = Path("requirements", f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def version() -> str:
    return re.search(r'__version__ = "(.+)"', Path(NAME, "__init__.py").read_text())[1]


setup(
    name=NAME,
    version=version(),
    description="Metric depth, point clouds, camera poses and 3D detections from camera topics with a VLM",
    license="Apache-2.0",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={f"{NAME}.offline.report": ["*.html"], NAME: ["bundled/*"]},
    data_files=[(target, list(files)) for target, files in DATA_FILES.items()],
    cmdclass={"build_py": BuildWithMessages},
    distclass=PackageWithMessages,
    python_requires=">=3.10",
    install_requires=requirements("core"),
    extras_require={extra: requirements(extra) for extra in EXTRAS},
    entry_points={"console_scripts": ["vlm3 = vlm3_ros.cli:main", "vlm3_node = vlm3_ros.ros.node:main"]},
)

"""Lock every Python package that ./run installs: newer versions where the requirements allow them, with their hashes.

Needs uv. Writes the files in requirements/locked/: for Linux on x86-64 and all Pythons that there are ROS wheels for.
PyTorch and its CUDA packages stand in a file of their own, by version and without hashes: which build of a version is
right depends on the machine, and each build has other hashes.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements"
LOCKED = REQUIREMENTS / "locked"
RESOLVED = ("core", "vlm", "offline", "report", "train", "test", "ros-jazzy-wheels")
ALONE = ("test-data", "ros-messages")  # without what they depend on
BY_MACHINE = re.compile(r"(torch|triton|nvidia-.+|cuda-.+)==")
BUILDERS = re.compile(r"(setuptools|wheel)==")  # have to be there before a package comes as source

ENVIRONMENTS = "sys_platform == 'linux' and platform_machine == 'x86_64' and python_version < '3.15'"
FIRST_PYTHON = "3.10"
HEADER = "# Made by `./run lock`.\n"


def resolve(names: tuple[str, ...], *options: str) -> list[str]:
    """The locked packages behind requirement files: for each its line with version, markers and hashes."""
    files = [REQUIREMENTS / f"{name}.txt" for name in names]
    command = [
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version",
        FIRST_PYTHON,
        "--generate-hashes",
    ]
    command += ["--no-header", "--no-annotate", "--no-python-downloads", *options]
    command += ["--constraint", REQUIREMENTS / "pinned.txt", *files]
    with tempfile.TemporaryDirectory() as folder:  # uv takes environments from a project's file alone
        Path(folder, "pyproject.toml").write_text(f'[tool.uv]\nenvironments = ["{ENVIRONMENTS}"]\n')
        text = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
    return re.findall(r"^\S+==(?:.*\\\n)*.*\n", text, re.MULTILINE)


def write(name: str, packages: list[str]) -> None:
    """One file of locked packages."""
    LOCKED.mkdir(exist_ok=True)
    (LOCKED / f"{name}.txt").write_text(HEADER + "".join(packages))


def main() -> None:
    """Write all files; they are left alone where a requirement cannot be met."""
    packages, alone, messages = resolve(RESOLVED), resolve(ALONE[:1], "--no-deps"), resolve(ALONE[1:], "--no-deps")
    by_machine = [package for package in packages if BY_MACHINE.match(package)]
    builders = [package for package in packages if BUILDERS.match(package)]
    write("builders", builders)
    write("torch", [re.sub(r" \\\n.*", "\n", package, flags=re.DOTALL) for package in by_machine])
    write("packages", [package for package in [*packages, *alone] if package not in by_machine + builders])
    write("ros-messages", messages)


if __name__ == "__main__":
    main()

"""Write constraints.txt and environment.yml from pyproject.toml, the only list of dependencies.

Run by ``make lock`` inside the virtual environment. tests/test_packaging.py calls ``environment_yml``
to see that the committed file has not drifted.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def extras(pyproject: Path) -> list[str]:
    """Names of the extras, in the order of the file."""
    return list(tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"])


def requirements(pyproject: Path) -> list[Requirement]:
    """Every declared requirement: the core ones, then each extra's."""
    project = tomllib.loads(pyproject.read_text())["project"]
    lines = [
        *project["dependencies"],
        *(r for group in project["optional-dependencies"].values() for r in group),
    ]
    return [Requirement(line) for line in lines]


def resolve(*arguments: str) -> dict[str, str]:
    """Newest release of each package that pip would install into an empty environment: name -> version."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*command, "--report", str(report), *arguments], cwd=ROOT, check=True)
        found = [item["metadata"] for item in json.loads(report.read_text())["install"]]
    # A local tag (2.13.0+cpu) names a build that other machines do not have.
    return {package["name"]: package["version"].partition("+")[0] for package in found}


def constraints_txt(pyproject: Path) -> str:
    """Pins of all extras and of what they need, resolved afresh on this machine."""
    pins = resolve(f".[{','.join(extras(pyproject))}]")
    # Requirements whose marker leaves them out here: pinned too, without what they need.
    elsewhere = [r for r in requirements(pyproject) if r.marker and not r.marker.evaluate()]
    if elsewhere:
        pins |= resolve("--no-deps", *(f"{r.name}{r.specifier}" for r in elsewhere))
    pins.pop("mlkit", None)
    where = f"{platform.system()} {platform.machine()}, Python {'.'.join(platform.python_version_tuple()[:2])}"
    head = [
        "# Written by `make lock` from pyproject.toml; do not edit.",
        "# Every extra and all that it needs, for Python 3.11 to 3.13, Linux x86-64, torch in its CPU build.",
        f"# Resolved on {where}. Other platforms take the same pins; what only they need is not pinned.",
    ]
    lines = [f"{name}=={pins[name]}" for name in sorted(pins, key=str.lower)]
    return "\n".join([*head, *lines]) + "\n"


def environment_yml(pyproject: Path) -> str:
    """The conda-forge environment as pyproject2conda makes it, each line with its use from pyproject.toml."""
    command = [sys.executable, "-m", "pyproject2conda", "yaml", "--pyproject", str(pyproject), "--no-header"]
    command += ["--name", "mlkit", "--channel", "conda-forge", "--python-include", "infer", "--req", "-e ."]
    command += [word for extra in extras(pyproject) for word in ("--extra", extra)]
    made = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    uses = _uses(pyproject)
    lines = [
        "# Written by `make lock` from pyproject.toml with pyproject2conda; do not edit.",
        "# conda env create -f environment.yml && conda activate mlkit",
    ]
    for line in made.splitlines():
        name = re.match(r"\s*- ([A-Za-z0-9][A-Za-z0-9._-]*)", line)
        use = uses.get(canonicalize_name(name[1])) if name else None
        lines.append(f"{line}  # {use}" if use else line)
    return "\n".join(lines) + "\n"


def _uses(pyproject: Path) -> dict[str, str]:
    """Comment after each requirement in pyproject.toml, by its name and by its conda-forge name."""
    text = pyproject.read_text()
    found = re.findall(r'^\s*"([A-Za-z0-9._-]+)[^"]*",\s*#\s*(.+?)\s*$', text, flags=re.MULTILINE)
    uses = {canonicalize_name(name): use for name, use in found}
    table = tomllib.loads(text)["tool"]["pyproject2conda"]["dependencies"]
    for name, entry in table.items():
        for conda in entry.get("packages", ()):
            uses[canonicalize_name(Requirement(conda).name)] = uses[canonicalize_name(name)]
    return uses


def _write(path: Path, text: str) -> None:
    """Replace ``path`` in one step, so that a failed run leaves the old file."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


if __name__ == "__main__":
    source = ROOT / "pyproject.toml"
    _write(ROOT / "environment.yml", environment_yml(source))
    _write(ROOT / "constraints.txt", constraints_txt(source))

"""pyproject.toml, constraints.txt and environment.yml agree, and importing mlkit stays cheap."""

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PYPROJECT = ROOT / "pyproject.toml"
PROJECT = tomllib.loads(PYPROJECT.read_text())["project"]
EXTRAS = {"train", "lab", "serve", "data", "track", "scale", "dev"}
# Packages imported by another name than they are installed by, or brought by a declared one for certain.
DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "talib": "ta-lib",
    "bs4": "nbconvert",
    "cycler": "matplotlib",
    "fsspec": "s3fs",
    "IPython": "ipykernel",
    "llvmlite": "numba",
    "matplotlib_inline": "ipykernel",
    "packaging": "pytest",
    "pydantic_core": "pydantic",
    "scipy": "scikit-learn",
    "traitlets": "nbconvert",
}


@pytest.fixture(scope="module")
def lock() -> ModuleType:
    """The script behind ``make lock``."""
    spec = importlib.util.spec_from_file_location("lock", ROOT / ".ci" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def declared(lock: ModuleType) -> list[Requirement]:
    found: list[Requirement] = lock.requirements(PYPROJECT)
    return found


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = dict(line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in found.items()}


def run(source: str) -> str:
    """What a fresh interpreter prints for ``source``."""
    command = [sys.executable, "-c", source]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout


def test_every_extra_exists() -> None:
    assert set(PROJECT["optional-dependencies"]) == EXTRAS


def test_environment_yml_is_what_pyproject_makes(lock: ModuleType) -> None:
    assert (ROOT / "environment.yml").read_text() == lock.environment_yml(PYPROJECT), "run make lock"


def test_a_drift_of_environment_yml_is_seen(lock: ModuleType, tmp_path: Path) -> None:
    changed = tmp_path / "pyproject.toml"
    changed.write_text(PYPROJECT.read_text().replace('"numba>=', '"python-rapidjson>=1",  # planted\n    "numba>='))
    assert "  - python-rapidjson>=1  # planted\n" in lock.environment_yml(changed)
    assert "rapidjson" not in (ROOT / "environment.yml").read_text()


def test_environment_yml_speaks_conda_forge() -> None:
    names = set(re.findall(r"^  - ([A-Za-z0-9-]+)", (ROOT / "environment.yml").read_text(), re.MULTILINE))
    assert {"python", "pytorch", "xgboost", "arch-py", "ccxt-py", "ta-lib"} <= names
    assert not {"torch", "xgboost-cpu", "arch", "ccxt", "TA-Lib"} & names


@pytest.mark.parametrize("name", ["pyproject.toml", "environment.yml", "Makefile"])
def test_every_file_that_is_named_exists(name: str) -> None:
    named = re.findall(r"(?<![\w/.])(?:mlkit|tests|notebooks|\.ci)/[\w./*-]*\w", (ROOT / name).read_text())
    assert named
    assert [path for path in named if not list(ROOT.glob(path))] == []


def test_constraints_pin_every_declared_requirement(declared: list[Requirement], pins: dict[str, str]) -> None:
    missing = [str(r) for r in declared if canonicalize_name(r.name) not in pins]
    assert missing == []
    refused = [str(r) for r in declared if pins[canonicalize_name(r.name)] not in r.specifier]
    assert refused == []


def test_constraints_pin_all_that_the_requirements_need(declared: list[Requirement], pins: dict[str, str]) -> None:
    queue, seen = list(declared), set()
    while queue:
        requirement = queue.pop()
        node = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if node in seen:
            continue
        seen.add(node)
        try:
            lines = metadata.requires(node[0]) or []
        except metadata.PackageNotFoundError:  # an extra that is not installed here
            continue
        for needed in map(Requirement, lines):
            extras = requirement.extras or {""}
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                queue.append(needed)
    # PyPI's torch for Linux is the CUDA build: its libraries belong to that build, the pins are those of the CPU build.
    assert {name for name, _ in seen if not re.match("nvidia-|cuda-|triton$", name)} - set(pins) == set()


def test_constraints_hold_elsewhere_too(pins: dict[str, str]) -> None:
    assert "mlkit" not in pins
    assert [name for name, version in pins.items() if "+" in version] == []  # a build of one machine
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == sorted(lines, key=lambda line: line.split("==")[0].lower())


def test_xgboost_comes_once_on_every_platform(declared: list[Requirement]) -> None:
    markers = [r.marker for r in declared if r.name in ("xgboost", "xgboost-cpu")]
    platforms = [("x86_64", "linux"), ("aarch64", "linux"), ("arm64", "darwin"), ("x86_64", "darwin")]
    for machine, system in [*platforms, ("AMD64", "win32"), ("ARM64", "win32")]:
        where = {"platform_machine": machine, "sys_platform": system}
        assert sum(marker is None or marker.evaluate(where) for marker in markers) == 1, where


RIVALS = {"polars", "polars-talib", "kand"}  # benchmarks measure them where they are installed, nothing needs them


@pytest.mark.parametrize(("folder", "groups"), [("mlkit", EXTRAS - {"dev"}), ("tests", EXTRAS)])
def test_every_import_is_declared(folder: str, groups: set[str]) -> None:
    lines = [
        *PROJECT["dependencies"],
        *(r for group in groups for r in PROJECT["optional-dependencies"][group]),
    ]
    names = {canonicalize_name(Requirement(line).name) for line in lines} | {"mlkit", folder} | RIVALS
    used: dict[str, str] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
                modules = [node.module]
            used |= {module.partition(".")[0]: str(path.relative_to(ROOT)) for module in modules}
    scripts = {path.stem for path in (ROOT / "tests").rglob("*.py")}  # of a folder, for those beside them
    third_party = {n: path for n, path in used.items() if n not in sys.stdlib_module_names and n not in scripts}
    undeclared = {
        name: path
        for name, path in third_party.items()
        if canonicalize_name(DISTRIBUTIONS.get(name, name)) not in names
    }
    assert undeclared == {}


def test_the_console_script_starts() -> None:
    module, _, function = PROJECT["scripts"]["mlkit"].partition(":")
    assert run(f"import {module} as m; print(callable(m.{function}))") == "True\n"


def test_import_mlkit_loads_no_library() -> None:
    source = "import sys; old = set(sys.modules); import mlkit; print(*(set(sys.modules) - old))"
    loaded = {name.partition(".")[0] for name in run(source).split()}
    assert loaded - set(sys.stdlib_module_names) == {"mlkit", "lazy_loader"}  # which reads the face, and no more

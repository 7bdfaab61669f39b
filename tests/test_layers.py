"""The layers hold, and import-linter sees each way of breaking them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout of its own to plant faults in."""
    shutil.copytree(ROOT / "mlkit", tmp_path / "mlkit", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_layers_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "source", "contract"),
    [
        ("market/planted.py", "import mlkit.models.ensemble.settings\n", "lower levels only"),
        ("features/planted.py", "from mlkit.evaluation import splits\n", "lower levels only"),
        ("evaluation/planted.py", "def late():\n    from mlkit.models import base\n", "lower levels only"),
        (
            "models/planted.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mlkit.inference import insight\n",
            "lower levels only",
        ),
        ("models/planted.py", "from mlkit.market.bars import validate_bars\n", "never see bars"),
    ],
    ids=["import", "from", "inside a function", "for type checkers", "models see bars"],
)
def test_a_planted_import_is_caught(copy: Path, module: str, source: str, contract: str) -> None:
    (copy / "mlkit" / module).write_text(source)
    result = lint_imports(copy)
    assert result.returncode != 0
    broken = [line for line in result.stdout.splitlines() if "BROKEN" in line]
    assert len(broken) == 1
    assert contract in broken[0]
    assert module.removesuffix(".py").replace("/", ".") in result.stdout


def test_a_module_without_a_layer_is_caught(copy: Path) -> None:
    (copy / "mlkit" / "stray.py").write_text("")
    result = lint_imports(copy)
    assert result.returncode != 0
    assert "stray" in result.stdout
